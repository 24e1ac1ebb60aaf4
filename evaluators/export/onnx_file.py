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

from evaluators.export.folding import Plain, plain
from evaluators.export.subject import TOLERANCE_ROUNDED, Forward, Subject, Written, difference

if TYPE_CHECKING:
    import onnx

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

    model, runs = integer_graph(onnx.ModelProto.FromString(graph.SerializeToString()), network.layers, calibration)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    sums = "float32" if calibration is None else "8 bits where all branches are"
    notes = {"opset": OPSET, "file_bytes": file.stat().st_size, "layers": runs, "sums_of_branches": sums}
    return Written(file, onnx_forward(file), notes)


def graph_of(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    """A network without quantisers as an ONNX graph for any batch size."""
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (images,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
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
                torch.onnx.export(model, (images,), file, dynamo=False, opset_version=QUICK_OPSET)
        except (TypeError, RuntimeError, torch.onnx.errors.OnnxExporterError):
            return graph_of(model, images)
        return onnx.load(file)


def run_onnx(file: Path, images: Tensor) -> Tensor:
    return onnx_forward(file)(images)


def onnx_forward(file: Path) -> Forward:
    """What the file gives for images, in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {session.get_inputs()[0].name: images.contiguous().numpy()})
        return torch.from_numpy(np.asarray(output))

    return run
