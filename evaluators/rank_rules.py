"""Ranks chosen from a trained weight alone: by kept energy, or by variational Bayes, which tells signal from noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from evaluators.layers import layer_of
from search_spaces.decompositions import RANKS, balanced, parts, suits
from search_spaces.genes import FactorOption
from search_spaces.network import Layer, Network

Rule = Callable[[np.ndarray], int]
GRID, REFINEMENTS = 400, 60


def energy(matrix: np.ndarray, share: float) -> int:
    """Smallest rank whose singular values hold this share (0..1] of the squared sum of all."""
    values = np.linalg.svd(matrix, compute_uv=False) ** 2
    kept = np.cumsum(values) / max(float(values.sum()), 1e-300)
    return int(min(len(values), np.searchsorted(kept, share * (1 - 1e-12)) + 1))


def vbmf(matrix: np.ndarray) -> int:
    """Rank of the global solution of empirical variational Bayesian matrix factorisation, noise variance estimated with it
    (Nakajima et al. 2013, theorem 2 and corollary 1). 0 for pure noise."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = short.shape
    values = np.linalg.svd(short, compute_uv=False)
    alpha = rows / columns
    tau = 2.5129 * np.sqrt(alpha)
    bound = (1 + tau) * (1 + alpha / tau)
    noise = _noise_variance(values, columns, alpha, bound)
    return int((values > np.sqrt(columns * noise * bound)).sum())


def _noise_variance(values: np.ndarray, columns: int, alpha: float, bound: float) -> float:
    """The variance with the least free energy between the bounds of theorem 2."""
    rows = len(values)
    highest = float((values**2).sum()) / (rows * columns)
    first = max(0, int(min(np.ceil(rows / (1 + alpha)) - 1, rows)) - 1)
    rest = values[first + 1 :] ** 2
    lowest = max(float(rest[0]) / (columns * bound), float(rest.mean()) / columns) if len(rest) else 0.0
    grid = np.geomspace(max(lowest, 1e-12 * highest, 1e-300), max(highest, 1e-300), GRID)
    at = int(np.argmin([_free_energy(s, values, columns, alpha, bound) for s in grid]))
    low, high = float(grid[max(0, at - 1)]), float(grid[min(GRID - 1, at + 1)])
    for _ in range(REFINEMENTS):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if _free_energy(a, values, columns, alpha, bound) <= _free_energy(b, values, columns, alpha, bound):
            high = b
        else:
            low = a
    return (low + high) / 2


def _free_energy(variance: float, values: np.ndarray, columns: int, alpha: float, bound: float) -> float:
    x = np.maximum(values**2 / (columns * variance), 1e-300)
    small, large = x[x <= bound], x[x > bound]
    t = (large - (1 + alpha) + np.sqrt(np.maximum((large - (1 + alpha)) ** 2 - 4 * alpha, 0.0))) / 2
    kept = large - t + np.log((t + 1) / large) + alpha * np.log(t / alpha + 1)
    return float((small - np.log(small)).sum() + kept.sum())


def rule_of(name: str) -> Rule:
    """ "vbmf", or "energy:0.9" with a share above 0 and at most 1; ValueError for anything else."""
    kind, _, text = name.partition(":")
    if name == "vbmf":
        return vbmf
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if kind == "energy" and 0 < share <= 1:
        return lambda matrix: energy(matrix, share)
    raise ValueError(f"a rank rule must be vbmf or energy:SHARE with 0 < SHARE <= 1, but got {name!r}; correct it")


def ranks_by(rule: Rule, weight: np.ndarray, method: str) -> tuple[int, ...]:
    """Ranks, at least 1, of a weight (outputs, inputs, ...) for a method; () where the method has no matrix to judge by."""
    if method == "svd":
        found: tuple[int, ...] = (rule(weight.reshape(len(weight), -1)),)
    elif method == "tucker2":
        found = (rule(weight.swapaxes(0, 1).reshape(weight.shape[1], -1)), rule(weight.reshape(len(weight), -1)))
    elif method == "spatial":
        n, c, height, width = weight.shape
        found = (rule(weight.transpose(1, 2, 0, 3).reshape(c * height, n * width)),)
    elif method == "tt2":
        (n1, n2), (c1, c2) = balanced(weight.shape[0], 2), balanced(weight.shape[1], 2)
        found = (rule(weight.reshape(n1, n2, c1, c2).transpose(0, 2, 1, 3).reshape(n1 * c1, n2 * c2)),)
    else:
        found = ()
    return tuple(max(1, rank) for rank in found)


def options_by(
    model: nn.Module, network: Network, methods: Sequence[str], rules: Sequence[str]
) -> Mapping[str, tuple[FactorOption, ...]]:
    """What the rules choose for every layer and method, as shares of the dense layer; nothing where that would save nothing."""
    found: dict[str, tuple[FactorOption, ...]] = {}
    for layer in network.layers:
        weight = layer_of(model, layer.name).weight.detach().double().cpu().numpy()
        chosen = [
            _as_option(layer, method, ranks)
            for method in methods
            if suits(layer, method)
            for rule in rules
            if (ranks := ranks_by(rule_of(rule), weight, method))
        ]
        found[layer.name] = tuple(dict.fromkeys(option for option in chosen if option.share < 1))
    return found


def _as_option(layer: Layer, method: str, ranks: tuple[int, ...]) -> FactorOption:
    sizes = np.array([layer.in_channels]), np.array([layer.out_channels])
    columns = np.array([[*ranks, 0][:2]])
    factors, (dense,) = parts(layer, method, *sizes, columns), parts(layer, "none", *sizes, columns)
    share = sum(int(part.weights[0]) for part in factors) / int(dense.weights[0])
    if RANKS[method] == 1:
        return FactorOption(method, share)
    return FactorOption(method, share, (ranks[0] / layer.in_channels) / (ranks[1] / layer.out_channels))
