"""One forward pass tells which channels hang together and what everything costs: checked on real networks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from nets import NETS, Borrowed, Branches, Halves, Known, WrittenSize, known, named
from torch import Tensor, nn

from evaluators import count
from evaluators.compose import compose
from evaluators.describe import trace
from evaluators.probe import masked
from evaluators.slicing import slice_channels
from evaluators.statistics import collect
from search_spaces.costs import costs
from search_spaces.decompositions import RANKS
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import full, of_plan
from search_spaces.plan import CompressionPlan

# Rounding adds operations to a traced graph, and float activations are what peak_activation_bytes counts.
SHAPES_ONLY = SpaceOptions(criteria=("l1",), weight_bits=(), activation_bits=(), factors=tuple(RANKS))

QUICK = ("resnet8", "resnet20", "digits_cnn")  # traced in a fraction of a second


def of_full(network: Network) -> dict[str, float]:
    return {name: value[0] for name, value in costs(network, full(network, 1), peak=True).items()}


def of(network: Network, plan: CompressionPlan) -> dict[str, float]:
    return {name: value[0] for name, value in costs(network, of_plan(network, plan), peak=True).items()}


def random_plan(net: Known, seed: int) -> CompressionPlan:
    """Widths, factors and, with every other seed, skipped blocks."""
    space, rng = build_space(net.network, SHAPES_ONLY), np.random.default_rng(seed)
    codes = [int(rng.integers(0, c)) for c in space.cardinalities]
    spare = [0 if seed % 2 and name.startswith("skip") else code for name, code in zip(space.names, codes, strict=True)]
    return space.decode(space.repair(spare))


@pytest.mark.parametrize("name", NETS)
def test_costs_are_those_of_the_real_network(name: str) -> None:
    net = named(name)
    stated = of_full(net.network)
    assert stated["params"] == count.parameters(net.model)
    assert stated["macs"] == count.macs(net.model, net.example)
    assert stated["size_bytes"] == 4 * sum(t.numel() for t in net.model.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_costs_of_a_plan_are_those_of_the_built_network(name: str, seed: int) -> None:
    net = named(name)
    plan = random_plan(net, seed)
    assert plan.widths and (plan.factors or plan.skips)
    stated, built = of(net.network, plan), compose(net.model, net.trace, net.ranking, plan)
    assert stated["params"] == count.parameters(built) < count.parameters(net.model)
    assert stated["macs"] == count.macs(built, net.example)
    if name in QUICK or (seed == 0 and name in ("resnet18", "mobilenet_v2")):
        assert stated["peak_activation_bytes"] == of_full(trace(built, net.example).network)["peak_activation_bytes"]


def test_random_plans_skip_blocks_where_there_are_any() -> None:
    assert all(random_plan(named(name), 0).skips for name in ("resnet20", "digits_cnn", "resnet18", "mobilenet_v2"))


def test_peak_activations_counted_by_hand() -> None:
    """Input 2x4x4, conv 8 (stride 1), relu (new tensor), conv 4: the pair around the relu is the largest."""
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    assert of_full(trace(net, torch.zeros(1, 2, 4, 4)).network)["peak_activation_bytes"] == 4 * (8 * 16 + 8 * 16)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet121"])
def test_cut_network_equals_masked_network(name: str) -> None:
    net, rng = named(name), np.random.default_rng(0)
    sizes = {g.name: (g.size, int(rng.integers(1, g.size))) for g in net.network.groups}
    kept = {group: sorted(rng.permutation(size)[:n].tolist()) for group, (size, n) in sizes.items()}
    cut = copy.deepcopy(net.model)
    slice_channels(cut, net.trace, kept)
    images = torch.randn(4, *net.example.shape[1:])
    with torch.no_grad():
        expected, got, whole = masked(net.model, net.trace, kept)(images), cut(images), net.model(images)
    scale = expected.abs().max()
    assert (got - expected).abs().max() <= 1e-5 * scale
    assert (whole - expected).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "googlenet"])
def test_everything_but_the_outputs_can_be_cut(name: str) -> None:
    assert {dense.reason for dense in named(name).network.dense} == {"is an output of the network"}


@pytest.mark.filterwarnings("ignore")
def test_coupling_equals_that_of_torch_pruning() -> None:
    import torch_pruning as tp

    net = named("resnet18")
    model = copy.deepcopy(net.model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=net.example)
    names = {module: name for name, module in model.named_modules()}

    def producers(conv: nn.Module) -> frozenset[str]:
        group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=[0])
        cut = [item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]
        return frozenset(names[module] for module in cut if isinstance(module, nn.Conv2d))

    oracle = {producers(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert {frozenset(group.producers) for group in net.network.groups} == oracle


def test_functional_code_shared_layers_and_several_outputs() -> None:
    net = known(Branches(), (3, 8, 8))
    assert of_full(net.network)["macs"] == count.macs(net.model, net.example)
    assert net.network.layer("shared").calls == 2
    groups = {group.producers: group.consumers for group in net.network.groups}
    assert groups == {("stem", "shared"): ("shared", "narrow"), ("narrow",): ("head", "side")}
    assert {dense.name for dense in net.network.dense} == {"side", "head"}
    for seed in range(3):
        plan = random_plan(net, seed)
        built = compose(net.model, net.trace, net.ranking, plan)
        assert {key: type(value) for key, value in built(net.example).items()} == {"logits": Tensor, "more": list}
        assert of(net.network, plan)["macs"] == count.macs(built, net.example)


def test_a_weight_used_outside_its_layer_stays() -> None:
    net = known(Borrowed(), (3, 8, 8))
    assert [layer.name for layer in net.network.layers] == ["middle", "head"]
    assert [group.producers for group in net.network.groups] == [("middle",)]
    assert of_full(net.network)["params"] == count.parameters(net.model)


def test_code_that_counts_on_channel_numbers_is_cut_evenly_or_keeps_them() -> None:
    assert [group.producers for group in known(Halves(), (3, 4, 4)).network.groups] == [("left", "right")]
    net = known(WrittenSize(), (3, 4, 4)).network
    assert [group.name for group in net.groups] == ["second"]
    assert "breaks the forward pass" in next(d.reason for d in net.dense if d.name == "first")


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [(p.requires_grad, id(p)) for p in model.parameters()]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return values, gradients, flags, [m.training for m in model.modules()], hooks


def test_the_users_network_is_left_as_it_was() -> None:
    model = copy.deepcopy(named("digits_cnn").model).train()
    model.bn.eval()  # frozen alone, as users do while they fine-tune
    model.head.bias.requires_grad_(False)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    before = state_of(model)
    net = known(model, (1, 8, 8))
    collect(model, [layer.name for layer in net.network.layers], torch.randn(8, 1, 8, 8), seed=0)
    compose(model, net.trace, net.ranking, random_plan(net, 0))
    count.macs(model, net.example)
    for old, new in zip(before, state_of(model), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.layer, self.value = nn.Conv2d(3, 4, 1), value

    def forward(self, x: Tensor) -> Any:
        self.layer(x)
        return self.value


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("cache")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(5, 4, 1)), "must run on an input of shape"),
        (Raises(), "must run on an input of shape"),
        (nn.Sequential(nn.ReLU()), "at least one Conv2d or Linear layer"),
        (Returns(None), "must return a tensor"),
        (Returns("logits"), "must return a tensor"),
        (Returns(object()), "must return a tensor"),
    ],
)
def test_a_model_that_cannot_be_traced_gets_one_sentence(model: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        trace(model, torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(caught.value) and "but got" in str(caught.value)


@pytest.mark.parametrize("name", QUICK)
def test_the_memory_format_changes_no_group(name: str) -> None:
    net = named(name)
    lasting = copy.deepcopy(net.model).to(memory_format=torch.channels_last)
    found = trace(lasting, net.example.contiguous(memory_format=torch.channels_last)).network
    assert found.groups == net.network.groups
    assert [d.channels for d in found.dense] == [d.channels for d in net.network.dense]
