"""Integers in an ONNX graph: the search's own codes, steps and ranges, run on integer kernels."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from nets import known, named
from torch import Tensor, nn

from evaluators.compose import compose, recalibrate
from evaluators.export import onnx_file
from evaluators.export.folding import plain
from evaluators.export.integer_graph import FOUR_BIT_KERNEL, INTEGER, integer_graph
from evaluators.export.onnx_file import graph_of, quick_graph_of, write_onnx
from evaluators.export.subject import Subject, difference
from evaluators.quantise import ActivationQuantiser, QuantisedLayer, bake
from search_spaces.plan import Bits, CompressionPlan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def quantised(weight: int, activation: int) -> nn.Module:
    net = named("resnet8")
    plan = CompressionPlan(bits=tuple(Bits(layer.name, weight, activation) for layer in net.network.layers))
    model = compose(net.model, net.trace, net.ranking, plan)
    recalibrate(model, [IMAGES], ranges=True)
    return model.eval()


def run(model: onnx.ModelProto, images: Tensor, as_written: bool = False) -> Tensor:
    """The outputs, with the runtime's own kernels or operator by operator as the graph says."""
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def operators_run(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph on this machine."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().mean() / expected.std())


def in_powers_of_two(weight: int, activation: int) -> nn.Module:
    """A network whose every number is a multiple of a power of two, so that any order of addition gives the same sums."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False)]
    net = known(
        nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 4, bias=False)), (3, 12, 12)
    )
    bits = tuple(Bits(layer.name, weight, activation) for layer in net.network.layers)
    model = compose(net.model, net.trace, net.ranking, CompressionPlan(bits=bits)).eval()
    for layer in (m for m in model.modules() if isinstance(m, QuantisedLayer)):
        if layer.quantiser is not None and layer.quantiser.step is not None:
            layer.quantiser.step.data.fill_(2.0**-6)
        else:
            layer.layer.weight.data = (layer.layer.weight.data * 64).round() / 64
        if isinstance(layer.input, ActivationQuantiser):
            layer.input.scale.fill_(2.0**-4)
            layer.input.zero.fill_(2 ** (activation - 2))
    return model


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (3, 8), (5, 4), (6, 32), (32, 8)])
def test_integers_in_a_graph_are_those_of_the_search(weight: int, activation: int) -> None:
    module = in_powers_of_two(weight, activation)
    images = (torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 64).round() / 64
    network = plain(module, images)
    model, _ = integer_graph(quick_graph_of(network.model, images), network.layers, None)
    with torch.no_grad():
        expected = bake(copy.deepcopy(module))(images)
    assert float(expected.std()) > 0
    torch.testing.assert_close(run(model, images, as_written=True), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (5, 4)])
def test_a_residual_network_stays_on_integer_kernels(weight: int, activation: int, tmp_path: Path) -> None:
    module = quantised(weight, activation)
    network = plain(module, IMAGES)
    assert network.folded
    model, runs = integer_graph(quick_graph_of(network.model, IMAGES), network.layers, [(IMAGES,)])
    with torch.no_grad():
        expected = bake(copy.deepcopy(module))(IMAGES)
    assert relative(run(model, IMAGES), expected) < (0.05 if activation == 8 else 0.2)
    kernels = operators_run(model, tmp_path)
    assert set(runs.values()) == {INTEGER}
    assert kernels["Conv"] == 0 and kernels["QLinearConv"] == 7 and kernels["QLinearAdd"] == 3, kernels


def test_sums_of_branches_stay_float_where_rounding_them_would_move_the_outputs_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = quantised(8, 8)
    subject = Subject(module, bake(copy.deepcopy(module)), IMAGES, (IMAGES,))
    expected = subject.baked(IMAGES).detach()
    rounded = write_onnx(subject, tmp_path, "rounded.onnx")
    monkeypatch.setattr(onnx_file, "TOLERANCE_ROUNDED", difference(rounded.run(IMAGES), expected) / 2)
    exact = write_onnx(subject, tmp_path, "exact.onnx")
    assert difference(exact.run(IMAGES), expected) < difference(rounded.run(IMAGES), expected)
    assert (rounded.notes["sums_of_branches"], exact.notes["sums_of_branches"]) == (
        "8 bits where all branches are",
        "float32",
    )
    assert INTEGER in rounded.notes["layers"].values() and INTEGER not in exact.notes["layers"].values()


def test_folding_leaves_a_norm_whose_layer_is_read_elsewhere() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.head((y + self.norm(y)).mean((2, 3)))

    model = Twice().eval()
    network = plain(model, IMAGES)
    assert not network.folded
    with torch.no_grad():
        torch.testing.assert_close(network.model(IMAGES), model(IMAGES))


def test_folded_networks_have_no_norms_and_equal_outputs() -> None:
    model = named("mobilenet_v2").model
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = plain(model, images)
    assert network.folded and not any(isinstance(m, nn.BatchNorm2d) for m in network.model.modules())
    with torch.no_grad():
        torch.testing.assert_close(network.model(images), model(images), rtol=1e-3, atol=1e-3)


def test_four_bit_linear_layers_with_float_inputs_get_a_four_bit_kernel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = known(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval(), (64,))
    plan = CompressionPlan(bits=(Bits("0", 4, 32), Bits("2", 4, 32)))
    module = compose(net.model, net.trace, net.ranking, plan).eval()
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    network = plain(module, x)
    model, runs = integer_graph(graph_of(network.model, x), network.layers, [(x,)])
    assert set(runs.values()) == {FOUR_BIT_KERNEL}
    found = operators_run(model, tmp_path)
    assert found["MatMulNBits"] == 2, found
    assert len(model.SerializeToString()) < 64 * 96 * 4 / 2
    with torch.no_grad():
        assert relative(run(model, x), module(x)) < 0.02
