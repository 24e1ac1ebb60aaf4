"""Layers make up for the input channels that pruning takes: never worse than not, and in the same currency as step 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import known, named
from torch import nn

from evaluators.compensation import compensated
from evaluators.compose import compose, data_aware_layers
from evaluators.gradients import collect_gradients
from evaluators.moments import collect_moments
from evaluators.saliency import Site, contribution_gram, gram, l1, rank
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from search_spaces.options import SpaceOptions, build_space
from search_spaces.plan import CompressionPlan, Mask, Width


def data(seed: int, rows: int = 60, columns: int = 9) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=rng) @ torch.randn(columns, columns, generator=rng) + 1


@given(st.integers(0, 2**16), st.sets(st.integers(0, 8), min_size=1, max_size=8))
def test_the_error_never_exceeds_that_of_dropping(seed: int, kept: set[int]) -> None:
    x, weight = data(seed), torch.randn(4, 9, generator=torch.Generator().manual_seed(seed + 1))
    columns = sorted(kept)
    dropped = torch.zeros_like(weight)
    dropped[:, columns] = weight[:, columns]
    corrected = compensated(weight, columns, x.T @ x / len(x))
    assert not corrected[:, [i for i in range(9) if i not in kept]].any()
    errors = [((w - weight) @ x.T).square().sum(1) for w in (dropped, corrected)]
    assert (errors[1] <= errors[0] * (1 + 1e-5) + 1e-6).all()


def test_it_is_the_least_squares_solution_but_for_the_damping() -> None:
    x, weight, columns = data(0, 500), torch.randn(4, 9), [0, 2, 3, 7]
    corrected = compensated(weight, columns, x.T @ x / len(x))
    best = torch.linalg.lstsq(x[:, columns], x @ weight.T).solution.T
    errors = [
        ((w - weight) @ x.T).square().sum()
        for w in (corrected, torch.zeros(4, 9).index_add(1, torch.tensor(columns), best))
    ]
    assert errors[1] <= errors[0] <= 1.05 * errors[1]


@pytest.mark.parametrize("bias", [True, False])
def test_a_cut_network_gives_closer_outputs(bias: bool) -> None:
    """On the images whose moments were taken, the layer that reads the cut channels is closer to the uncut network."""
    torch.manual_seed(0)
    net = known(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3, bias=bias)), (3, 10, 10))
    images = torch.randn(16, 3, 10, 10)
    plain = CompressionPlan(masks=(Mask("0", (0, 1, 4, 5, 7, 11)),))
    plan = replace(plain, masks=(replace(plain.masks[0], compensate=True),))
    assert data_aware_layers(net.trace, plan) == ("2",) and data_aware_layers(net.trace, plain) == ()
    moments = collect_moments(net.model, ["2"], [images[:8], images[8:]])
    with torch.no_grad():
        expected = net.model(images)
        outputs = [compose(net.model, net.trace, net.ranking, p, moments)(images) for p in (plain, plan)]
    errors = [float((out - expected).square().mean()) for out in outputs]
    assert errors[1] < 0.7 * errors[0]
    with pytest.raises(ValueError, match="must come with the moments"):
        compose(net.model, net.trace, net.ranking, plan)


def test_step_1_predicts_what_compensation_leaves() -> None:
    net = named("digits_cnn")
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    ranking = rank(net.trace, net.model, found, {"l1": l1})
    options = SpaceOptions(criteria=("l1",), weight_bits=(), activation_bits=(), factors=(), skip_blocks=False)
    losses = []
    for compensate in (False, True):
        space = build_space(net.network, replace(options, compensate=compensate))
        tables = build_tables(space, net.model, net.trace, found, gradients, ranking)
        lowest = np.zeros((1, len(space.genes)), dtype=np.int64)
        losses.append(float(tables.score(lowest)["predicted_loss_increase"][0]))
        assert space.decode(space.repair(lowest[0].tolist())).widths[0] == Width("stem", 8, "l1", compensate)
    assert 0 < losses[1] < 0.8 * losses[0]


def test_gram_removal_keeps_the_reconstruction_error_low() -> None:
    """Its sums are the real output errors of the layers that read the group, and its order beats random ones."""
    net = named("digits_cnn")
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    index = [g.name for g in net.network.groups].index("block1.conv1")
    site = Site(net.trace, net.model, found, index)
    products, size = contribution_gram(site), site.group.size
    weight, covariance = (
        net.model.block1.conv2.weight.detach().double(),
        found["block1.conv2"].input_covariance.double(),
    )
    lost = torch.zeros_like(weight)
    lost[:, [1, 5, 6]] = weight[:, [1, 5, 6]]
    direct = float(((lost.flatten(1) @ covariance) * lost.flatten(1)).sum())
    assert float(products[[1, 5, 6]][:, [1, 5, 6]].sum()) == pytest.approx(direct, rel=1e-5)
    removed = gram(site).argsort()[: size // 2]
    greedy = float(products[removed][:, removed].sum())
    rng = np.random.default_rng(0)
    others = [rng.permutation(size)[: size // 2] for _ in range(200)]
    assert greedy < 0.9 * min(float(products[o][:, o].sum()) for o in others)
