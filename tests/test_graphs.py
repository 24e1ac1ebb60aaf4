"""Attention, normalisations, parameters beside layers, splits by number: cut safely, costed exactly, or left with a reason."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_nets import GRAPHS, Encoder, Fused, Normalised, own_layers
from nets import Known, known
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import evo
from evaluators import count
from evaluators.compose import compose
from evaluators.describe import trace
from evaluators.layers import TransposedConv2d
from evaluators.prepare import prepared
from evaluators.probe import masked
from evaluators.slicing import slice_channels
from evaluators.unfolding import unfold
from search_spaces.costs import costs
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import full, of_plan


@cache
def graph(name: str) -> Known:
    """A network of the table, prepared, in eval mode, whose parameters all act. Tests must not change it."""
    factory, side, _ = GRAPHS[name]
    torch.manual_seed(0)
    model = factory().eval()
    for parameter in model.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            nn.init.uniform_(parameter, 0.5, 1.5)
    with torch.no_grad():
        model(torch.randn(2, 3, side, side))  # as a user does before a search, which may leave something cached
    return known(prepared(model, torch.randn(1, 3, side, side)), (3, side, side))


def stated(network: Network, measure: str) -> float:
    return float(costs(network, full(network, 1))[measure][0])


@pytest.mark.parametrize("name", GRAPHS)
def test_groups_are_those_that_can_be_cut(name: str) -> None:
    assert {g.name: (g.size, g.unit) for g in graph(name).network.groups} == GRAPHS[name][2]


@pytest.mark.parametrize("name", GRAPHS)
def test_cut_equals_masked(name: str) -> None:
    net, rng = graph(name), np.random.default_rng(0)
    kept = {g.name: sorted(rng.permutation(g.size)[: max(1, g.size * 2 // 3)].tolist()) for g in net.network.groups}
    cut = copy.deepcopy(net.model)
    slice_channels(cut, net.trace, kept)
    images = torch.randn(2, *net.example.shape[1:])
    with torch.no_grad():
        expected, got, whole = masked(net.model, net.trace, kept)(images), cut(images), net.model(images)
    scale = expected.abs().max()
    assert (got - expected).abs().max() <= 1e-5 * scale
    assert (whole - expected).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("name", GRAPHS)
def test_costs_of_random_plans_are_those_of_the_built_network(name: str) -> None:
    net = graph(name)
    assert stated(net.network, "params") == count.parameters(net.model)
    assert stated(net.network, "macs") == count.macs(net.model, net.example)
    space = build_space(net.network, SpaceOptions(criteria=("l1",), multiple=2))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        plan = space.decode(space.repair([int(rng.integers(0, c)) for c in space.cardinalities]))
        built = compose(net.model, net.trace, net.ranking, plan)
        found = costs(net.network, of_plan(net.network, plan))
        assert found["params"][0] == count.parameters(built)
        assert found["macs"][0] == count.macs(built, net.example)


@pytest.mark.parametrize("name", GRAPHS)
def test_peak_activations_are_those_of_the_built_network(name: str) -> None:
    net, rng = graph(name), np.random.default_rng(0)
    space = build_space(net.network, SpaceOptions(criteria=("l1",), multiple=2, weight_bits=(), activation_bits=()))
    plan = space.decode(space.repair([int(rng.integers(0, c)) for c in space.cardinalities]))
    built = trace(compose(net.model, net.trace, net.ranking, plan), net.example).network
    expected = costs(net.network, of_plan(net.network, plan), peak=True)["peak_activation_bytes"][0]
    assert expected == costs(built, full(built, 1), peak=True)["peak_activation_bytes"][0]


def test_attention_macs_counted_by_hand() -> None:
    """17 places, 4 heads of 6: scores and their mixture each take 17 x 17 x 24; half of the heads, half of that."""
    net = graph("fused_heads").network
    assert sum(product.macs for product in net.products) == 2 * 17 * 17 * 24
    kept = {group.name: group.size // 2 for group in net.groups}
    assert sum(p.macs * p.elements.size(kept) // p.of for p in net.products) == 17 * 17 * 24


def test_integers_that_the_forward_pass_reads_follow_the_cut() -> None:
    net = graph("fused_heads")
    cut = copy.deepcopy(net.model)
    slice_channels(cut, net.trace, {"attention.qkv": (0, 2, 3)})
    assert (cut.attention.num_heads, cut.attention.head_dim, cut.attention.attn_dim) == (3, 6, 18)
    assert cut.attention.temperature.shape == (3, 1, 1)
    net = graph("normalised")
    cut = copy.deepcopy(net.model)
    slice_channels(cut, net.trace, {"first": (1, 2)})
    assert (cut.norm.num_groups, cut.norm.num_channels) == (2, 8)


def test_what_layer_normalisation_sees_stays_with_that_reason() -> None:
    dense = {site.name.partition("+")[0]: site.reason for site in graph("separate_heads").network.dense}
    assert dense == {
        "embed": "layer normalisation mixes all of its channels",
        "head": "is an output of the network",
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_a_prepared_network_gives_the_same_and_leaves_the_given_one(name: str) -> None:
    factory, side, _ = GRAPHS[name]
    torch.manual_seed(1)
    given, images = factory().eval(), torch.randn(2, 3, side, side)
    before = {key: value.clone() for key, value in given.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(prepared(given, images[:1])(images), given(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(given.state_dict()), before, rtol=0, atol=0)


def test_layers_of_own_making_become_plain_ones() -> None:
    net = graph("own_layers").network
    assert [(layer.name, layer.kind) for layer in net.layers] == [("0.1", "conv"), ("2", "conv"), ("5", "linear")]
    unprepared = trace(own_layers().eval(), torch.randn(1, 3, 12, 12)).network
    assert [layer.name for layer in unprepared.layers] == ["5"]


@pytest.mark.parametrize(
    "arguments", [(8, 6, 3, 2, 1, 1), (8, 6, 2, 2), (8, 8, 3, 2, 0, 0, 4), (8, 6, 3, 1, 1, 0, 2, True, 2)]
)
def test_rows_of_a_transposed_convolution_times_its_weight_are_its_output(arguments: tuple[int, ...]) -> None:
    given = nn.ConvTranspose2d(*arguments)
    layer, x = TransposedConv2d(given), torch.randn(2, 8, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), given(x))
        rows, groups = unfold(layer, x), layer.groups
        per_group = rows.unflatten(0, (2, -1, groups))
        weight = layer.weight.flatten(1).unflatten(0, (groups, -1))
        places = torch.einsum("npgf,gof->ngop", per_group, weight).flatten(1, 2)
    torch.testing.assert_close(places + given.bias[:, None], given(x).flatten(2), rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    """Two layers that hold one weight, between two that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.last = (nn.Linear(12, 12, bias=False) for _ in range(4))
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.a(self.first(x).relu()).relu()).relu())


def test_tied_weights_are_counted_once_and_stay() -> None:
    net = known(Tied(), (12,))
    assert [layer.name for layer in net.network.layers] == ["first", "last"]
    assert stated(net.network, "params") == count.parameters(net.model) == 3 * 144
    assert stated(net.network, "macs") == count.macs(net.model, net.example) == 4 * 144
    assert "is contracted by a matrix product" in {site.reason for site in net.network.dense}


class TwoInputs(nn.Module):
    """Two inputs, a branch that depends on the data, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.other, self.head = nn.Conv2d(3, 8, 3), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, image: Tensor, other: Tensor) -> dict[str, Tensor]:
        x = self.image(image).mean((2, 3)) + self.other(other)
        if float(other.sum()) > 1e9:
            x = x[:, :4]
        return {"logits": self.head(x.relu()), "count": torch.tensor(len(x))}


def test_several_inputs_dicts_and_branches_on_data() -> None:
    model, example = TwoInputs(), (torch.randn(1, 3, 6, 6), torch.randn(1, 4))
    network = trace(model, example).network
    assert [(g.producers, g.size) for g in network.groups] == [(("image", "other"), 8)]
    assert stated(network, "macs") == count.macs(model, example)
    with pytest.raises(ValueError, match=r"must run on an input of shape \(1, 3, 6, 6\), but got TypeError"):
        trace(model, example[0])


def test_frozen_parameters_change_nothing() -> None:
    torch.manual_seed(0)
    model = Encoder(Fused())
    assert (
        trace(model.requires_grad_(False), torch.ones(1, 3, 16, 16)).network.groups
        == graph("fused_heads").network.groups
    )


def test_half_precision_is_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"float32, but got scale in torch.float16; call model.float\(\) first"):
        trace(Normalised().half(), torch.zeros(1, 3, 16, 16).half())


class Reads(nn.Module):
    """Asks a layer for its device instead of calling it, and a block for its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.second.weight.device)).relu()
        return self.head(self.second(x).mean((2, 3)))


def test_a_layer_that_the_forward_code_reads_is_not_replaced() -> None:
    net = known(Reads(), (3, 4, 4))
    assert [layer.name for layer in net.network.layers if not layer.replaceable] == ["second"]
    assert "no attribute 'weight'" in next(site.reason for site in net.network.dense if site.name == "second")
    space = build_space(net.network, SpaceOptions(criteria=("l1",)))
    assert "width:second" in space.names
    assert not {"weight_bits:second", "factor:second"} & set(space.names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_search_over_attention_and_a_transposed_convolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(24, 4, batch_first=True, dropout=0.1)
    model = nn.Sequential(nn.ConvTranspose2d(1, 3, 2, 2), Encoder(attention, classes=10))
    images = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 10)
    result = evo.search(
        model,
        (images, images),
        ["top1_error", "macs"],
        tmp_path / "run",
        validation=20,
        space={"widths": [0.5, 1.0], "weight_bits": [4, 32], "activation_bits": [8, 32]},
        algorithm={"params": {"promote": 2}, "inner": {"name": "nsga2", "params": {"population": 8}}},
        evaluation={"step1": {"images": 8}, "step2": {"recalibration": 16, "validation": 20}},
        execution={"backend": "local"},
        budget={"generations": 1},
        tracking={"tracker": "none"},
    )
    point = min(result.front, key=lambda p: p.objectives["macs"])
    assert point.plan.widths
    written = result.pick(point.candidate_id).export(tmp_path / "model.pt2")
    logits = torch.export.load(written).module()(torch.rand(4, 1, 8, 8))
    assert logits.shape == (4, 10)
