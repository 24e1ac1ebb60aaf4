"""Export a finished network so that it runs without this project, and check the export before it is trusted."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.artifacts import packed_metadata, packed_state
from evaluators.quantise import activation_quantisers, bake
from search_spaces.plan import CompressionPlan

# Mean difference of logits between the searched network and its export, relative to their spread. Other kernels add in another
# order; where activations are rounded, a last-bit difference can move an activation by a whole step.
TOLERANCE = 1e-4
TOLERANCE_ROUNDED = 5e-2
GRAPH, WEIGHTS, LOADER, CARD = "graph.pt2", "weights.safetensors", "load.py", "card.json"
FORMATS_BY_ENDING = {".pt2": "torch-export", ".onnx": "onnx"}


def export(
    module: nn.Module, example: Tensor, out: Path, format: str, facts: Mapping[str, Any], plan: CompressionPlan
) -> Path:
    """Write `module` (tuned, not yet baked) to `out`: a folder, or for torch-export and onnx also a file of that ending.

    pytorch: a folder with the packed weights (as large as `size_bytes` says), a weightless program and a loader of 40 lines that
    needs only torch, numpy and safetensors. torch-export: model.pt2. onnx: model.onnx, opset 20, activation rounding as plain
    operators. Each is loaded again and compared with the network; card.json (NAME.card.json beside a single file)
    tells plan, measures and how it was checked.
    Raises ValueError when `out` exists already or the export differs from the network.
    """
    require_free(out, format)
    folder, name = _target(out, format)
    images = example.cpu().repeat(2, 1, 1, 1)
    baked = bake(copy.deepcopy(module)).cpu().eval()
    place = folder if name else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="partial-") as made:  # a refused export leaves nothing behind
        difference = _written(module, baked, images, Path(made), format, name or DEFAULT_NAMES[format])
        card = {
            "format": format,
            **facts,
            "plan": json.loads(plan.to_json()),
            "input": list(images.shape[1:]),
            "mean_relative_output_difference": difference,
            "torch": str(torch.__version__),
        }
        (Path(made) / (f"{Path(name).stem}.{CARD}" if name else CARD)).write_text(json.dumps(card, indent=2))
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(made).iterdir()):
            os.replace(file, folder / file.name)
    return folder / (name or "") if name else folder


def _written(module: nn.Module, baked: nn.Module, images: Tensor, folder: Path, format: str, name: str) -> float:
    """Write, load again and compare: the mean difference of outputs relative to their spread."""
    with torch.no_grad():
        expected = baked(images)
    try:
        got = FORMATS[format](module, baked, images, folder, name)
    except Exception as error:  # torch's exporters raise whatever their many passes raise
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"the network must be exportable as {format}, but got {type(error).__name__}: {reason}; use another format"
        ) from error
    difference = float((got - expected).abs().mean() / expected.std().clamp_min(1e-9))
    tolerance = TOLERANCE_ROUNDED if activation_quantisers(baked) else TOLERANCE
    if not difference <= tolerance:
        raise ValueError(
            f"an export must give the network's outputs to {tolerance:g}, but got a mean difference of {difference:.2g} of their "
            "spread; use another format"
        )
    return difference


def require_free(out: Path, format: str) -> None:
    """Raise ValueError where an export to `out` would overwrite something."""
    folder, name = _target(out, format)
    taken = folder / name if name else folder
    if taken.exists() and (taken.is_file() or any(taken.iterdir())):
        raise ValueError(
            f"an export must not overwrite anything, but got --out {taken}, which exists; choose another path"
        )


def _target(out: Path, format: str) -> tuple[Path, str]:
    """(folder, file name) where `out` names a file of the format's ending, else (out, "")."""
    if FORMATS_BY_ENDING.get(out.suffix) == format:
        return out.parent, out.name
    return out, ""


def _program(baked: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=65536)
    with torch.no_grad():
        return torch.export.export(baked, (images,), dynamic_shapes=({0: batch},))


def _write_program(module: nn.Module, baked: nn.Module, images: Tensor, folder: Path, name: str) -> Tensor:
    torch.export.save(_program(baked, images), folder / name)
    with torch.no_grad():
        result: Tensor = torch.export.load(folder / name).module()(images)
    return result


def _write_onnx(module: nn.Module, baked: nn.Module, images: Tensor, folder: Path, name: str) -> Tensor:
    import onnxruntime

    with torch.no_grad():
        program = torch.onnx.export(
            baked, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},), verbose=False
        )
    if program is None:
        raise RuntimeError("torch.onnx gave no program")
    program.save(folder / name)
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(np.asarray(output))


def _write_packed(module: nn.Module, baked: nn.Module, images: Tensor, folder: Path, name: str) -> Tensor:
    program = _program(baked, images)
    state, metadata = packed_state(module), packed_metadata(module)
    for key, value in program.state_dict.items():
        program.state_dict[key] = _husk(value)
    torch.export.save(program, folder / GRAPH)
    save_file(state, folder / WEIGHTS, metadata)
    shutil.copyfile(Path(__file__).with_name("standalone_loader.py"), folder / LOADER)
    from evaluators.standalone_loader import load

    with torch.no_grad():
        result: Tensor = load(folder)(images)
    return result


def _husk(value: Tensor) -> Tensor:
    """A tensor of this shape and layout without data, so that the program's file holds no weights."""
    empty = torch.empty_like(value, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty


Writer = Callable[[nn.Module, nn.Module, Tensor, Path, str], Tensor]
FORMATS: dict[str, Writer] = {"pytorch": _write_packed, "torch-export": _write_program, "onnx": _write_onnx}
DEFAULT_NAMES = {"pytorch": "", "torch-export": "model.pt2", "onnx": "model.onnx"}
