"""Write the integers of a searched network into its ONNX graph as QuantizeLinear and DequantizeLinear.

Weight codes and steps and the ranges of layer inputs are those that the search set and tuned. A runtime computes in integers
where a layer's output is rounded too. Where the search rounds nothing (the sums of residual branches), ranges are observed on
calibration images; this is the only difference from the searched network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from evaluators.export.editing import Graph, redirect
from evaluators.export.folding import IntegerLayer, Rounding

MATRIX = ("Conv", "Gemm", "MatMul")
# Operations that only move or select elements: their outputs keep scale and zero point.
MOVING = ("MaxPool", "Slice", "Pad", "Reshape", "Flatten", "Transpose")
JOINING = ("Add", "Concat")
RESULTS = ("Conv", *JOINING)
ACTIVATIONS = ("Relu", "Clip")
INVENTED_RANGE = (-4.0, 4.0)

BLOCK = 32  # inputs that share a scale in ONNX Runtime's 4-bit kernel; here all blocks of an output have the same
FOUR_BITS = 4

INTEGER, PARTLY_INTEGER, FOUR_BIT_KERNEL, WEIGHTS_ONLY, INPUTS_ONLY, FLOAT = (
    "8-bit integer kernel",
    "8-bit integer kernel where the next operation rounds its input, else computed in float32",
    "4-bit weight kernel where the runtime has one, else computed in float32",
    "weights stored as integers, computed in float32",
    "inputs rounded, computed in float32",
    "float32",
)


def integer_graph(
    model: onnx.ModelProto, layers: Sequence[IntegerLayer], calibration: Sequence[Sequence[Tensor]] | None
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph with the layers' integers, and how a runtime with 8-bit kernels will run each of them, by name.

    With calibration None nothing is rounded that the search did not round, which leaves most operations in float32. With an empty
    calibration, ranges that the search did not set are invented: right for timing and for nothing else.
    """
    editor = _Editor(Graph(model))
    runs = {layer.name: FLOAT for layer in layers}
    for site in editor.sites(layers):
        runs[site.layer.name] = editor.quantise(site)
    if calibration is None:
        return editor.graph.model(), {name: PARTLY_INTEGER if run == INTEGER else run for name, run in runs.items()}
    values = [node.output[0] for node in editor.graph.nodes if node.op_type in (*RESULTS, *ACTIVATIONS)]
    ranges = _observed(editor.graph.model(values), values, calibration)
    for node in editor.graph.sorted():
        editor.keep_integer(node, ranges)
    return editor.graph.model(), runs


def _observed(
    model: onnx.ModelProto, values: list[str], batches: Sequence[Sequence[Tensor]]
) -> dict[str, tuple[float, float]]:
    """Lowest and highest element of some values over all batches."""
    import onnxruntime

    if not batches:
        return {value: INVENTED_RANGE for value in values}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    found = [session.run(values, {n: t.contiguous().numpy() for n, t in zip(names, b, strict=True)}) for b in batches]
    return {
        value: (min(float(run[i].min()) for run in found), max(float(run[i].max()) for run in found))
        for i, value in enumerate(values)
    }


@dataclass(frozen=True)
class Site:
    """A node that computes a layer; `turned` where it holds the weight transposed."""

    node: NodeProto
    layer: IntegerLayer
    turned: bool


class _Editor:
    """Keeps track of which values are rounded how."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.roundings: dict[str, dict[Rounding, str]] = {}  # value -> rounding -> the rounded value's name
        self.of_rounded: dict[str, Rounding] = {}
        self.integer: set[str] = set()  # outputs of layers in integers

    def sites(self, layers: Sequence[IntegerLayer]) -> list[Site]:
        """The nodes of each layer, found by what its weight holds: exporters rename and transpose."""
        by_content = {layer.weight.numpy().T.tobytes(): (layer, True) for layer in layers if layer.weight.dim() == 2}
        by_content |= {layer.weight.numpy().tobytes(): (layer, False) for layer in layers}
        nodes = [n for n in self.graph.nodes if n.op_type in MATRIX and n.input[1] in self.graph.arrays]
        found = [(n, by_content.get(self.graph.arrays[n.input[1]].tobytes())) for n in nodes]
        return [Site(node, *match) for node, match in found if match is not None]

    def quantise(self, site: Site) -> str:
        node, layer = site.node, site.layer
        if layer.rounding is not None:
            node.input[0] = self.rounded(node.input[0], layer.rounding)
        if layer.codes is None or layer.step is None:
            return INPUTS_ONLY if layer.rounding is not None else FLOAT
        step = layer.step.numpy().astype(np.float32)
        codes = layer.codes.numpy().T if site.turned else layer.codes.numpy()
        if layer.rounding is None:
            return self._store_weight_alone(site, codes, step)
        node.input[1] = self._dequantised(codes, step, int(site.turned), np.int8)
        self._store_bias(node, step * np.float32(layer.rounding.scale))
        self.integer.add(node.output[0])
        return INTEGER

    def _dequantised(self, codes: np.ndarray, step: np.ndarray, axis: int, kind: type) -> str:
        inputs = (self.graph.constant(codes), self.graph.constant(step), self.graph.constant(np.zeros(len(step), kind)))
        return self.graph.add("DequantizeLinear", inputs, axis=axis)

    def _store_weight_alone(self, site: Site, codes: np.ndarray, step: np.ndarray) -> str:
        """Of a layer whose inputs stay in float32: in 4 bits each where they fit, else in 8."""
        node = site.node
        if site.layer.bits > FOUR_BITS:
            node.input[1] = self._dequantised(codes, step, int(site.turned), np.int8)
            return WEIGHTS_ONLY
        by_input = codes if site.turned else codes.T
        if codes.ndim == 2 and len(by_input) % BLOCK == 0 and _is_product(node):
            self._in_blocks(node, by_input, step)
            return FOUR_BIT_KERNEL
        packed = self.graph.constant(codes, TensorProto.INT4)
        node.input[1] = self.graph.add("DequantizeLinear", (packed, self.graph.constant(step)), axis=int(site.turned))
        return WEIGHTS_ONLY

    def _in_blocks(self, node: NodeProto, codes: np.ndarray, step: np.ndarray) -> None:
        """As the product of x and a weight (inputs, outputs) with a scale per block of inputs, plus the bias."""
        steps = np.repeat(step[None, :], len(codes) // BLOCK, axis=0)
        inputs = (self.graph.constant(codes, TensorProto.INT4), self.graph.constant(steps))
        weight = self.graph.add("DequantizeLinear", inputs, axis=0, block_size=BLOCK)
        biased, output = len(node.input) > 2 and node.input[2] in self.graph.arrays, node.output[0]
        # Less minus the bias: ONNX Runtime would join MatMul and Add before it looks for its 4-bit kernel, and then miss it.
        bias = [self.graph.constant(-self.graph.arrays[node.input[2]])] if biased else []
        product = self.graph.add("MatMul", (node.input[0], weight))
        node.CopyFrom(helper.make_node("Sub" if biased else "Identity", [product, *bias], [output], node.name))

    def _store_bias(self, node: NodeProto, scale: np.ndarray) -> None:
        """In 32-bit integers on the grid of the layer's sums, as integer kernels want it."""
        if len(node.input) < 3 or node.input[2] not in self.graph.arrays:
            return
        limit = 2**31 - 1
        codes = np.clip(np.round(self.graph.arrays[node.input[2]].astype(np.float64) / scale), -limit, limit)
        node.input[2] = self._dequantised(codes.astype(np.int32), scale, 0, np.int32)

    def rounded(self, value: str, rounding: Rounding) -> str:
        """The name of `value` rounded so, made once."""
        known = self.roundings.setdefault(value, {})
        if rounding not in known:
            scale = self.graph.constant(np.array(rounding.scale, np.float32))
            zero = self.graph.constant(np.array(rounding.zero, np.uint8))
            codes = self.graph.add("QuantizeLinear", (value, scale, zero))
            if rounding.bits < 8:
                top = self.graph.constant(np.array(2**rounding.bits - 1, np.uint8))
                codes = self.graph.add("Clip", (codes, "", top))
            known[rounding] = self.graph.add("DequantizeLinear", (codes, scale, zero))
            self.of_rounded[known[rounding]] = rounding
        return known[rounding]

    def keep_integer(self, node: NodeProto, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Round the result of an operation on integers for all its readers, so that a runtime need not leave integers."""
        value = self._result(node)
        if value is None or value in self.graph.outputs:
            return
        readers = self.graph.readers(value)
        if all(reader.op_type == "QuantizeLinear" for reader in readers):
            return
        rounding = self._known(node, value) or Rounding.of_range(*ranges[value])
        rounded = self.rounded(value, rounding)
        own = self._codes_of(rounded)
        for reader in readers:
            if reader.output[0] != own:
                redirect(reader, value, rounded)

    def _codes_of(self, rounded: str) -> str:
        maker = self.graph.maker(rounded)
        return "" if maker is None else maker.input[0]

    def _result(self, node: NodeProto) -> str | None:
        """The output of an operation on integers, behind its activation function; None for any other operation."""
        if node.op_type == "Conv":
            on_integers = node.output[0] in self.integer
        elif node.op_type in JOINING:
            on_integers = all(name in self.of_rounded for name in node.input)
        else:
            on_integers = node.op_type in MOVING and node.input[0] in self.of_rounded
        if not on_integers:
            return None
        readers = self.graph.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and node.op_type in RESULTS:
            return readers[0].output[0]
        return node.output[0]

    def _known(self, node: NodeProto, value: str) -> Rounding | None:
        """The 8-bit rounding that a reader wants, that a moving operation passes on, or that is wanted behind one."""
        own = _eight_bits(self.roundings.get(value, {}))
        if own is not None or node.op_type in MOVING:
            return own or self.of_rounded[node.input[0]]
        readers = self.graph.readers(value)
        if len(readers) == 1 and readers[0].op_type in MOVING:
            return _eight_bits(self.roundings.get(readers[0].output[0], {}))
        return None


def _is_product(node: NodeProto) -> bool:
    """Whether a node is x W (+ b) and nothing else; Gemm can also transpose x and scale both summands."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(helper.get_attribute_value(a) == plain[a.name] for a in node.attribute if a.name in plain)


def _eight_bits(roundings: Iterable[Rounding]) -> Rounding | None:
    return next((r for r in roundings if r.bits == 8), None)
