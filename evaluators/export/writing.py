"""Export a finished network so that it runs without this project, and check the export before it is trusted."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.boundary import boundary_of
from evaluators.export.onnx_file import write_onnx
from evaluators.export.program import write_packed, write_program
from evaluators.export.subject import TOLERANCE, TOLERANCE_ROUNDED, Forward, Subject, Writer, Written, difference
from evaluators.quantise import activation_quantisers, bake
from search_spaces.plan import CompressionPlan

CARD = "card.json"
SIZE_TOLERANCE, HEADER = 1.02, 128  # of `size_bytes`; bytes
FORMATS: dict[str, Writer] = {"pytorch": write_packed, "torch-export": write_program, "onnx": write_onnx}
FORMATS_BY_ENDING = {".pt2": "torch-export", ".onnx": "onnx"}
DEFAULT_NAMES = {"pytorch": "", "torch-export": "model.pt2", "onnx": "model.onnx"}


def export(
    module: nn.Module,
    example: Tensor,
    out: Path,
    format: str,
    facts: Mapping[str, Any],
    plan: CompressionPlan,
    calibration: Sequence[Tensor] = (),
    timed: Callable[[Written], Mapping[str, Any]] | None = None,
    examined: Callable[[Forward], Mapping[str, Any]] | None = None,
) -> Path:
    """Write `module` (tuned, not yet baked) to `out`: a folder, or for torch-export and onnx also a file of that ending.

    pytorch: a folder with the packed weights (as large as `size_bytes` says), a weightless program and a short loader that
    needs only torch, numpy and safetensors. torch-export: model.pt2. onnx: model.onnx, opset 21, quantised layers as integers
    with the search's own scales; where branches meet it rounds to 8 bits too, over ranges seen on the `calibration` batches
    (inputs of the network; the example where there are none), unless that moves the outputs too far. The card says how every
    layer and these sums run.
    Each is loaded again and compared with the network; card.json (NAME.card.json beside a single file) tells plan, measures
    and how it was checked.
    Once the file has proved right, `timed` measures its latency for the card, and `examined` what its answers are worth.
    Raises ValueError when `out` exists already or the export differs from the network.
    """
    require_free(out, format)
    folder, name = _target(out, format)
    subject = _subject(module, example, calibration)
    place = folder if name else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="partial-") as made:  # a refused export leaves nothing behind
        written = _loaded_again(subject, Path(made), format, name or DEFAULT_NAMES[format])
        notes = _compared(subject, written)
        _require_size(facts, notes)
        card = {
            "format": format,
            **facts,
            "plan": json.loads(plan.to_json()),
            **_inputs(subject),
            **notes,
            **({} if timed is None else {"latency": dict(timed(written))}),
            **({} if examined is None else {"file": dict(examined(written.run))}),
            "torch": str(torch.__version__),
        }
        (Path(made) / (f"{Path(name).stem}.{CARD}" if name else CARD)).write_text(json.dumps(card, indent=2))
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(made).iterdir()):
            os.replace(file, folder / file.name)
    return folder / (name or "") if name else folder


def _subject(module: nn.Module, example: Tensor, calibration: Sequence[Tensor]) -> Subject:
    tuned = copy.deepcopy(module).cpu().eval()
    images = example.cpu().repeat(2, *[1] * (example.dim() - 1))
    given = tuple(batch.cpu() for batch in calibration)
    return Subject(tuned, bake(copy.deepcopy(tuned)), images, given or (images,))


def _require_size(facts: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Packed weights must be as large as the search said they would be; what a header takes is for small networks only."""
    stated, written = facts.get("measures", {}).get("size_bytes"), notes.get("weights_file_bytes")
    if stated is not None and written is not None and not stated <= written <= SIZE_TOLERANCE * stated + HEADER:
        raise ValueError(f"the packed weights must take {stated:.0f} bytes, but got {written}; report this plan")


def _inputs(subject: Subject) -> dict[str, Any]:
    parts = boundary_of(subject.baked).parts
    shapes = [list(part.shape) for part in parts]
    return {"inputs": shapes} if parts else {"input": list(subject.images.shape[1:])}


def _compared(subject: Subject, written: Written) -> dict[str, Any]:
    """What the card says of the file, with the mean difference of its outputs relative to their spread."""
    with torch.no_grad():
        expected = subject.baked(subject.images)
        found = difference(written.run(subject.images), expected)
    tolerance = TOLERANCE_ROUNDED if activation_quantisers(subject.baked) else TOLERANCE
    if not found <= tolerance:
        raise ValueError(
            f"an export must give the network's outputs to {tolerance:g}, but got a mean difference of {found:.2g} of their "
            "spread; use another format"
        )
    return {"mean_relative_output_difference": found, "tolerance": tolerance, **written.notes}


def _loaded_again(subject: Subject, folder: Path, format: str, name: str) -> Written:
    try:
        return FORMATS[format](subject, folder, name)
    except Exception as error:  # torch's exporters raise whatever their many passes raise
        cause = _innermost(error)
        reason = (str(cause).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"the network must be exportable as {format}, but got {type(cause).__name__}: {reason}; use another format"
        ) from error


def _innermost(error: BaseException) -> BaseException:
    """Exporters wrap what went wrong in how far they had come."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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
