"""Masks of weights: which stay, by every criterion, and how those make up for the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import named
from torch import Tensor

from evaluators.compose import compose, data_aware_layers
from evaluators.gradients import collect_gradients
from evaluators.masks import compensated_mask, mask_of
from evaluators.moments import collect_moments
from evaluators.saliency import l1, rank
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from evo.registry import MASK_CRITERIA, resolve
from search_spaces.options import SpaceOptions, build_space
from search_spaces.plan import Bits, CompressionPlan, Sparse
from search_spaces.sparsity import CRITERIA, nonzero, pattern_of

LAYER = "block2.conv1"


def inputs(seed: int, rows: int = 80, columns: int = 10) -> Tensor:
    """Correlated inputs of very different sizes."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, columns, generator=rng) @ torch.randn(columns, columns, generator=rng)
    return mixed * torch.logspace(-1, 1, columns)


def weights(seed: int) -> Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed + 1))


def errors(change: Tensor, x: Tensor) -> Tensor:
    """Mean squared output error of every row."""
    return (change @ x.T).square().mean(1)


def test_the_table_names_what_plans_may_say() -> None:
    assert tuple(MASK_CRITERIA) == CRITERIA


@pytest.mark.parametrize("name", MASK_CRITERIA)
@pytest.mark.parametrize("pattern", ["2:4", "1:3", 0.3])
def test_every_criterion_keeps_as_many_as_the_pattern_says(name: str, pattern: str | float) -> None:
    x, weight, kept = inputs(0), weights(0), pattern_of(pattern)
    mask = mask_of(weight, kept, name, x.T @ x / len(x))
    assert mask.shape == weight.shape and mask.dtype == torch.bool
    sizes = np.array([[kept.kept, kept.of, kept.structured]]), np.array([6]), np.array([10])
    assert int(mask.sum()) == nonzero(*sizes)[0]
    importance = resolve(MASK_CRITERIA, name)(weight, x.T @ x / len(x))
    if not kept.structured:
        assert importance[mask].min() >= importance[~mask].max()


def test_importance_is_the_error_of_removing_one_weight() -> None:
    """gram: with all others as they are. obs: with the others of that output chosen anew, but for the damping."""
    mixing = torch.eye(10) + 0.2 * torch.randn(10, 10, generator=torch.Generator().manual_seed(2))
    x, weight = (
        (torch.randn(400, 10, generator=torch.Generator().manual_seed(1)) @ mixing).double(),
        weights(1).double(),
    )
    alone, made_up = (resolve(MASK_CRITERIA, name)(weight, x.T @ x / len(x)).square() for name in ("gram", "obs"))
    for at in range(10):
        rest = [i for i in range(10) if i != at]
        without, best = weight.clone(), torch.zeros_like(weight)
        without[:, at] = 0
        best[:, rest] = torch.linalg.lstsq(x[:, rest], x @ weight.T).solution.T
        assert torch.allclose(alone[:, at], errors(without - weight, x))
        ratio = made_up[:, at] / errors(best - weight, x)
        assert ((ratio >= 1) & (ratio < 1.2)).all()


def test_regard_to_the_inputs_keeps_outputs_closer() -> None:
    worse = {"gram": 0, "obs": 0}
    for seed in range(20):
        x, weight = inputs(seed), weights(seed)
        moment, pattern = x.T @ x / len(x), pattern_of("2:4")
        plain = errors(weight * mask_of(weight, pattern) - weight, x).sum()
        for name in worse:
            mask = mask_of(weight, pattern, name, moment)
            left = compensated_mask(weight, mask, moment) if name == "obs" else weight * mask
            worse[name] += int(errors(left - weight, x).sum() > plain)
    assert max(worse.values()) <= 2


@given(st.integers(0, 2**16), st.sampled_from(CRITERIA), st.sampled_from(["2:4", "1:5", 0.2, 0.7]))
def test_compensation_never_raises_the_error_of_an_output(seed: int, name: str, pattern: str | float) -> None:
    x, weight = inputs(seed), weights(seed)
    moment = x.T @ x / len(x)
    mask = mask_of(weight, pattern_of(pattern), name, moment)
    made_up = compensated_mask(weight, mask, moment)
    assert not made_up[~mask].any()
    before, after = errors(weight * mask - weight, x), errors(made_up - weight, x)
    assert (after <= before * (1 + 1e-4) + 1e-6).all()


@pytest.mark.parametrize("bits", [32, 4])
def test_a_masked_network_gives_closer_outputs(bits: int) -> None:
    net = named("digits_cnn")
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = CompressionPlan(sparse=(Sparse(LAYER, 1, 4),), bits=(Bits(LAYER, bits),) if bits < 32 else ())
    plan = replace(plain, sparse=(Sparse(LAYER, 1, 4, True, "obs", True),))
    assert data_aware_layers(net.trace, plain) == () and data_aware_layers(net.trace, plan) == (LAYER,)
    moments = collect_moments(net.model, [LAYER], [images])
    with torch.no_grad():
        seen, layer = [], net.model.get_submodule(LAYER)
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        net.model(images)
        handle.remove()
        got = [
            compose(net.model, net.trace, net.ranking, p, moments).get_submodule(LAYER)(seen[0]) for p in (plain, plan)
        ]
        expected = layer(seen[0])
    plain_error, error = ((out - expected).square().mean() for out in got)
    assert error < 0.7 * plain_error
    with pytest.raises(ValueError, match="must come with the moments"):
        compose(net.model, net.trace, net.ranking, plan)


def test_step_1_predicts_what_a_criterion_saves() -> None:
    net = named("digits_cnn")
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    ranking = rank(net.trace, net.model, found, {"l1": l1})
    options = SpaceOptions(widths=(), weight_bits=(), activation_bits=(), factors=(), skip_blocks=False)
    losses = []
    for criterion, compensate in (("magnitude", False), ("gram", False), ("obs", True)):
        chosen = replace(options, sparsity=(pattern_of("1:4"),), mask_criterion=criterion, compensate=compensate)
        space = build_space(net.network, chosen)
        tables = build_tables(space, net.model, net.trace, found, gradients, ranking)
        genome = np.ones((1, len(space.genes)), dtype=np.int64)
        losses.append(float(tables.score(genome)["predicted_loss_increase"][0]))
        assert space.decode(space.repair(genome[0].tolist())).sparse[0] == Sparse(
            "stem", 1, 4, True, criterion, compensate
        )
    assert losses[0] > losses[1] > losses[2] > 0
