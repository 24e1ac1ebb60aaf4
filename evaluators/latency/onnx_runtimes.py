"""Runtimes that read ONNX: ONNX Runtime in float32 and with 8-bit kernels, and OpenVINO as the example of one plugged in."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from evaluators.boundary import Boundary, boundary_of
from evaluators.export.folding import plain
from evaluators.export.integer_graph import FOUR_BITS, integer_graph
from evaluators.export.onnx_file import graph_of, quick_graph_of
from evaluators.latency.layer_graph import layer_graph, move_graph
from evaluators.latency.runtime import LayerShape, Session

if TYPE_CHECKING:
    import onnx

Start = Callable[["onnx.ModelProto", list[np.ndarray], int], Session]


@dataclass(frozen=True)
class OnnxReader:
    """Times the graphs that `start` can run; without `integers` all layers run dequantised."""

    start: Start
    integers: bool

    def session(self, module: nn.Module, images: Tensor, threads: int) -> Session:
        images = images.cpu()
        network = plain(module, images)
        alone = any(q.bits <= FOUR_BITS and q.rounding is None for q in network.layers)
        graph = (graph_of if alone and self.integers else quick_graph_of)(network.model, images)
        if self.integers:
            graph, _ = integer_graph(graph, network.layers, ())
        return self.start(graph, _arrays(boundary_of(module), images), threads)

    def file(self, path: Path, network: nn.Module, images: Tensor, threads: int) -> Session:
        """The ONNX file of a network as it is, on one batch of images."""
        import onnx

        return self.start(onnx.load(path), _arrays(boundary_of(network), images.cpu()), threads)

    def layer(self, shape: LayerShape, integer: bool, threads: int) -> Session:
        graph, given = layer_graph(shape, integer)
        return self.start(graph, [given], threads)

    def move(self, kind: str, elements: int, threads: int) -> Session:
        graph, given = move_graph(kind, elements)
        return self.start(graph, [given], threads)


def onnxruntime_fp32() -> OnnxReader:
    return OnnxReader(_onnxruntime, integers=False)


def onnxruntime_int8() -> OnnxReader:
    return OnnxReader(_onnxruntime, integers=True)


def openvino() -> OnnxReader:
    if importlib.util.find_spec("openvino") is None:
        raise ValueError(
            "latency.runtime=openvino needs the package openvino, but got none; install evo-compress[openvino]"
        )
    return OnnxReader(_openvino, integers=True)


def _arrays(boundary: Boundary, images: Tensor) -> list[np.ndarray]:
    return [tensor.contiguous().numpy() for tensor in boundary.inputs(images)]


def _onnxruntime(model: onnx.ModelProto, given: list[np.ndarray], threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {entry.name: array for entry, array in zip(session.get_inputs(), given, strict=True)}
    # With one thread the caller's own computes.
    clock = time.thread_time if threads == 1 else time.perf_counter
    return _timed(lambda: session.run(None, feeds), clock)


def _openvino(model: onnx.ModelProto, given: list[np.ndarray], threads: int) -> Session:
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    core = ov.Core()
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options).create_infer_request()
    clock = time.process_time if threads == 1 else time.perf_counter  # it computes in a thread of its own
    return _timed(lambda: request.infer(given), clock)


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> Session:
    def session() -> float:
        began = clock()
        run()
        return clock() - began

    return session
