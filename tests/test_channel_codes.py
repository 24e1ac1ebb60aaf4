"""Binary channel codes: one bit per channel, from genome to the network really cut and its predicted loss."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import named

from evaluators.compose import compose
from evaluators.count import parameters
from evaluators.describe import trace
from evaluators.gradients import Gradients, collect_gradients
from evaluators.loss_tables import LossTables, MaskTerm
from evaluators.models.cifar_resnet import resnet20
from evaluators.probe import masked
from evaluators.saliency import Ranking
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from evaluators.step1_file import read_step1, write_step1
from search_spaces.costs import costs
from search_spaces.options import SpaceOptions, build_space
from search_spaces.plan import CompressionPlan
from search_spaces.space import CompressionSpace

OPTIONS = SpaceOptions(channel_codes=True, weight_bits=(4, 8), activation_bits=(), factors=(), skip_blocks=True)


@cache
def study() -> tuple[CompressionSpace, LossTables, Gradients]:
    net = named("digits_cnn")
    space = build_space(net.network, OPTIONS)
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    return space, build_tables(space, net.model, net.trace, found, gradients, Ranking({})), gradients


def bits_of(space: CompressionSpace) -> list[int]:
    return [at for at, name in enumerate(space.names) if name.startswith("mask:")]


def test_a_resnet20_has_a_bit_for_every_channel_that_can_go() -> None:
    """112 inner channels per block of each stage, as in Vega's prune_ea, and 16 shared by all that additions join."""
    network = trace(resnet20().eval(), torch.zeros(1, 3, 32, 32)).network
    space = build_space(network, SpaceOptions(channel_codes=True, weight_bits=(), activation_bits=(), factors=()))
    assert len(bits_of(space)) == 112 * (20 - 2) // 6 + 16


def test_all_ones_is_the_network_and_random_codes_keep_every_share() -> None:
    space, *_ = study()
    assert space.decode(space.anchors()[0]).masks == ()
    rng = np.random.default_rng(0)
    shares = [np.mean(np.array(space.sample(rng))[bits_of(space)]) for _ in range(200)]
    assert min(shares) < 0.25 and max(shares) > 0.9, "a keep probability of its own for every individual"


def test_a_code_that_keeps_nothing_of_a_group_is_repaired() -> None:
    space, *_ = study()
    nothing = np.array(space.anchors()[0])
    nothing[bits_of(space)] = 0
    repaired = space.repair(nothing.tolist())
    assert space.repair(repaired) == repaired
    assert all(len(mask.kept) == 1 for mask in space.decode(repaired).masks)


def test_costs_of_codes_are_those_of_the_cut_network() -> None:
    space, tables, _ = study()
    rng = np.random.default_rng(1)
    codes = np.array([space.sample(rng) for _ in range(30)])
    found = tables.score(codes)
    expected = costs(space.network, space.phenotypes(codes))
    for measure, values in expected.items():
        np.testing.assert_array_equal(found[measure], values, err_msg=measure)


def test_a_code_is_cut_out_of_the_network() -> None:
    """The smaller network computes what the whole one does without those channels."""
    space, *_ = study()
    net = named("digits_cnn")
    code = np.array(space.anchors()[0])
    code[bits_of(space)] = np.random.default_rng(4).random(len(bits_of(space))) < 0.6
    masks = space.decode(space.repair(code.tolist())).masks
    cut = compose(net.model, net.trace, Ranking({}), CompressionPlan(masks=masks)).eval()
    whole = masked(net.model, net.trace, {mask.group: mask.kept for mask in masks})
    assert parameters(cut) < parameters(net.model)
    torch.testing.assert_close(cut(net.example), whole(net.example), rtol=1e-4, atol=1e-5)


def test_the_fitness_of_a_code_is_the_quadratic_form() -> None:
    """(1 - b)^T F (1 - b), written out for one layer, and by the gradient of what is really dropped."""
    space, tables, gradients = study()
    net = named("digits_cnn")
    (term,) = [t for t in tables.terms if isinstance(t, MaskTerm) and t.layer == "block1.conv2"]
    rng = np.random.default_rng(2)
    code = np.array(space.anchors()[0])
    dropped = rng.random(len(term.genes)) < 0.4
    code[list(term.genes)] = ~dropped
    form = term.shifts.astype(np.float64) @ term.shifts.T / term.shifts.shape[1]
    expected = term.scale * dropped @ form @ dropped
    own = [at for at, t in enumerate(tables.terms) if t is term]
    assert tables.contributions(code[None])[0, own[0]] == pytest.approx(expected, rel=1e-4)
    change = torch.zeros_like(net.model.block1.conv2.weight)
    change[:, torch.from_numpy(dropped)] = -net.model.block1.conv2.weight.detach()[:, torch.from_numpy(dropped)]
    direct = gradients.layers["block1.conv2"].linear_shifts(change.flatten(1)).square().mean()
    assert expected == pytest.approx(term.scale * float(direct), rel=1e-3)


def test_codes_survive_their_file(tmp_path: Path) -> None:
    space, tables, _ = study()
    write_step1(tmp_path / "step1.safetensors", Ranking({}), tables)
    _, again = read_step1(tmp_path / "step1.safetensors", space, peak=False)
    rng = np.random.default_rng(3)
    codes = np.array([space.sample(rng) for _ in range(20)])
    assert (again.score(codes)["predicted_loss_increase"] == tables.score(codes)["predicted_loss_increase"]).all()


def test_the_reconstruction_form_is_the_squared_error_of_the_layers_outputs() -> None:
    """As Hu et al. 2018 fit codes: what the next layer gives with the channels zeroed, beside what it gave, bias apart."""
    net, images = named("digits_cnn"), torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    space = build_space(net.network, OPTIONS)
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    tables = build_tables(space, net.model, net.trace, found, gradients, Ranking({}), codes="reconstruction")
    (at,) = [i for i, t in enumerate(tables.terms) if isinstance(t, MaskTerm) and t.layer == "block1.conv2"]
    term, layer = tables.terms[at], net.model.block1.conv2
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net.model(images)
    handle.remove()
    dropped = np.random.default_rng(5).random(len(term.genes)) < 0.4
    code = np.array(space.anchors()[0])
    code[list(term.genes)] = ~dropped
    zeroed = seen[0].clone()
    zeroed[:, torch.from_numpy(dropped)] = 0
    bias = 0 if layer.bias is None else layer.bias.view(-1, 1, 1)
    with torch.no_grad():
        whole, cut = layer(seen[0]) - bias, layer(zeroed) - bias
    expected = (whole - cut).square().sum() / whole.square().sum()
    assert tables.contributions(code[None])[0, at] == pytest.approx(float(expected), rel=1e-4)
