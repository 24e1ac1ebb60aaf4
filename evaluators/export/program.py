"""torch.export programs: with their weights in one file, or without and the packed weights beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators import standalone_loader
from evaluators.artifacts import packed_metadata, packed_state
from evaluators.boundary import Boundary, bare, boundary_of
from evaluators.export.subject import Forward, Subject, Written

GRAPH, WEIGHTS, LAYOUT, LOADER = "graph.pt2", "weights.safetensors", "layout.json", "load.py"


def write_program(subject: Subject, folder: Path, name: str) -> Written:
    torch.export.save(program_of(subject.baked, subject.images), folder / name)
    return Written(folder / name, _forward(boundary_of(subject.baked), torch.export.load(folder / name).module()))


def write_packed(subject: Subject, folder: Path, name: str) -> Written:
    """The packed weights are one tensor of bytes, so that the file is as large as `size_bytes` says, but for a header of about
    80 bytes; where each weight lies is said in layout.json."""
    program = program_of(subject.baked, subject.images)
    for key, value in program.state_dict.items():
        program.state_dict[key] = _husk(value)
    torch.export.save(program, folder / GRAPH)
    packed, layout = laid_out(packed_state(subject.module))
    save_file({"packed": packed}, folder / WEIGHTS)
    content = {"tensors": layout, "quantised": packed_metadata(subject.module)}
    (folder / LAYOUT).write_text(json.dumps(content, indent=1))
    shutil.copyfile(standalone_loader.__file__, folder / LOADER)
    notes = {"weights_file_bytes": (folder / WEIGHTS).stat().st_size}
    return Written(folder, _forward(boundary_of(subject.baked), standalone_loader.load(folder)), notes)


def _forward(boundary: Boundary, module: nn.Module) -> Forward:
    """A loaded program on rows of inputs."""

    def run(rows: Tensor) -> Tensor:
        logits: Tensor = boundary.logits(module(*boundary.inputs(rows)))
        return logits

    return run


def program_of(baked: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The traced network for any batch size, with the inputs and outputs that its author gave it."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    inputs = boundary_of(baked).inputs(images)
    with torch.no_grad():
        return torch.export.export(bare(baked), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def laid_out(state: dict[str, Tensor]) -> tuple[Tensor, dict[str, list[object]]]:
    """All tensors as one string of bytes (uint8), and (type, shape, first byte) of each by its name."""
    layout: dict[str, list[object]] = {}
    parts, start = [], 0
    for name, tensor in state.items():
        as_bytes = tensor.contiguous().flatten().view(torch.uint8)
        layout[name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), start]
        parts.append(as_bytes)
        start += len(as_bytes)
    return torch.cat(parts), layout


def _husk(value: Tensor) -> Tensor:
    """A tensor of this shape and layout without data, so that the program's file holds no weights."""
    empty = torch.empty_like(value, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty
