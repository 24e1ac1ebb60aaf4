"""ONNX files: quantised layers as integers with their scales, everything else in float32."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.boundary import Boundary, bare, boundary_of
from evaluators.export.folding import Plain, plain
from evaluators.export.subject import TOLERANCE_ROUNDED, Forward, Subject, Written, difference

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

OPSET = 21  # the first with 4-bit integers
QUICK_OPSET = 17


def write_onnx(subject: Subject, folder: Path, name: str) -> Written:
    """Sums of branches are rounded to 8 bits, so that a runtime stays in integers; where that moves the outputs too far, not."""
    with torch.no_grad():
        expected = subject.baked(subject.images)
    network = plain(subject.module, subject.images)
    graph = graph_of(network.model, subject.images)
    written = _written(subject, network, graph, subject.calibration, folder / name)
    if difference(written.run(subject.images), expected) <= TOLERANCE_ROUNDED:
        return written
    return _written(subject, network, graph, None, folder / name)


def _written(
    subject: Subject, network: Plain, graph: onnx.ModelProto, calibration: Sequence[Tensor] | None, file: Path
) -> Written:
    import onnx

    from evaluators.export.integer_graph import integer_graph

    boundary = boundary_of(subject.baked)
    batches = None if calibration is None else [boundary.inputs(batch) for batch in calibration]
    model, runs = integer_graph(onnx.ModelProto.FromString(graph.SerializeToString()), network.layers, batches)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    sums = "float32" if calibration is None else "8 bits where all branches are"
    notes = {"opset": OPSET, "file_bytes": file.stat().st_size, "layers": runs, "sums_of_branches": sums}
    return Written(file, onnx_forward(file, subject.baked, subject.images), notes)


def graph_of(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    """A network without quantisers as an ONNX graph for any batch size, with the inputs and outputs that its author gave it."""
    inputs, batch = boundary_of(model).inputs(images), torch.export.Dim("batch", min=1, max=65536)
    with torch.no_grad():
        program = torch.onnx.export(
            bare(model),
            inputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx gave no program")
    return program.model_proto


def quick_graph_of(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    """The same for this batch size only, by torch's older exporter, which takes a tenth of the time; where there is none, or it
    cannot, by the other. For timing."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/quick.onnx"
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it announces its end
                inputs = boundary_of(model).inputs(images)
                torch.onnx.export(bare(model), inputs, file, dynamo=False, opset_version=QUICK_OPSET)
        except (TypeError, RuntimeError, torch.onnx.errors.OnnxExporterError):
            return graph_of(model, images)
        return onnx.load(file)


def run_onnx(file: Path, images: Tensor) -> Tensor:
    return onnx_forward(file, nn.Identity(), images)(images)


def onnx_forward(file: Path, network: nn.Module, example: Tensor) -> Forward:
    """What the file of a network gives for (rows of) its inputs, in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    boundary = boundary_of(network)
    with torch.no_grad():
        at = boundary.position(bare(network)(*boundary.inputs(example)))

    def run(rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, feeds(session, boundary, rows))[at]))

    return run


def feeds(session: InferenceSession, boundary: Boundary, rows: Tensor) -> dict[str, np.ndarray]:
    """What a session is given for rows of inputs."""
    inputs = (tensor.contiguous().numpy() for tensor in boundary.inputs(rows))
    return {entry.name: array for entry, array in zip(session.get_inputs(), inputs, strict=True)}
