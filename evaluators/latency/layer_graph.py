"""One layer as an ONNX graph, for timing; in integers it takes and gives 8-bit codes, as in the middle of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluators.latency.runtime import LayerShape

if TYPE_CHECKING:
    import onnx


def layer_graph(shape: LayerShape, integer: bool) -> tuple[onnx.ModelProto, np.ndarray]:
    """The graph and an input for it. Values do not matter for time, but denormal ones would."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    given = _input(shape, rng)
    node, weight = _node(shape, rng)
    bias = np.ones(shape.c_out, np.float32)
    if not integer:
        nodes = [node, helper.make_node("Relu", ["y"], ["out"])]
        constants = {"w": weight, "b": bias}
        kind = TensorProto.FLOAT
    else:
        nodes = _integer_nodes(node)
        constants = _integers(weight, bias)
        given = np.clip(given * 127 + 127, 0, 255).astype(np.uint8)
        kind = TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("in" if integer else "x", kind, given.shape)],
        [helper.make_tensor_value_info("out", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), given


def move_graph(kind: str, elements: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """An operation between layers on one row of so many elements, and an input for it."""
    from onnx import TensorProto, helper, numpy_helper

    codes, real = TensorProto.UINT8, TensorProto.FLOAT
    grid = ["scale", "zero"]
    back = helper.make_node("DequantizeLinear", ["in", *grid], ["x"])
    forms = {
        "quantise": (real, codes, [helper.make_node("QuantizeLinear", ["in", *grid], ["out"])]),
        "dequantise": (codes, real, [helper.make_node("DequantizeLinear", ["in", *grid], ["out"])]),
        "add": (real, real, [helper.make_node("Add", ["in", "in"], ["out"])]),
        "add_integers": (
            codes,
            codes,
            [
                back,
                helper.make_node("Add", ["x", "x"], ["y"]),
                helper.make_node("QuantizeLinear", ["y", *grid], ["out"]),
            ],
        ),
    }
    given, made, nodes = forms[kind]
    constants: dict[str, np.ndarray] = {"scale": np.array(0.05, np.float32), "zero": np.array(3, np.uint8)}
    graph = helper.make_graph(
        nodes,
        "move",
        [helper.make_tensor_value_info("in", given, (1, elements))],
        [helper.make_tensor_value_info("out", made, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    values = np.ones((1, elements), np.float32 if given == real else np.uint8)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), values


def _input(shape: LayerShape, rng: np.random.Generator) -> np.ndarray:
    if shape.kernel == (0, 0):
        return rng.standard_normal((shape.batch * shape.size[0], shape.c_in)).astype(np.float32)
    return rng.standard_normal((shape.batch, shape.c_in, *shape.size)).astype(np.float32)


def _node(shape: LayerShape, rng: np.random.Generator) -> tuple[onnx.NodeProto, np.ndarray]:
    from onnx import helper

    if shape.kernel == (0, 0):
        weight = rng.standard_normal((shape.c_out, shape.c_in)).astype(np.float32)
        return helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), weight
    weight = rng.standard_normal((shape.c_out, shape.c_in // shape.groups, *shape.kernel)).astype(np.float32)
    return helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        kernel_shape=shape.kernel,
        strides=shape.stride,
        pads=[*shape.padding, *shape.padding],
        dilations=shape.dilation,
        group=shape.groups,
    ), weight


def _integer_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    from onnx import helper

    def dequantised(codes: str, scale: str, zero: str, to: str) -> onnx.NodeProto:
        return helper.make_node("DequantizeLinear", [codes, scale, zero], [to], axis=0)

    return [
        dequantised("in", "x_scale", "x_zero", "x"),
        dequantised("w_codes", "w_scale", "w_zero", "w"),
        dequantised("b_codes", "b_scale", "b_zero", "b"),
        node,
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("QuantizeLinear", ["z", "y_scale", "y_zero"], ["out"]),
    ]


def _integers(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    outputs = len(weight)
    return {
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(127, np.uint8),
        "w_codes": np.clip(weight * 40, -127, 127).astype(np.int8),
        "w_scale": np.full(outputs, 0.02, np.float32),
        "w_zero": np.zeros(outputs, np.int8),
        "b_codes": bias.astype(np.int32),
        "b_scale": np.full(outputs, 4e-4, np.float32),
        "b_zero": np.zeros(outputs, np.int32),
        "y_scale": np.array(0.05, np.float32),
        "y_zero": np.array(0, np.uint8),
    }
