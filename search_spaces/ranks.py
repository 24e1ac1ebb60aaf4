"""Ranks that spend a given share of the dense layer's weights, so that no choice can cost more than the layer itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from search_spaces.decompositions import METHODS, RANKS, balanced, parts, tt_limits
from search_spaces.genes import FactorOption
from search_spaces.network import Layer, Network
from search_spaces.phenotype import Phenotypes, axis_sizes

PAIR = 1 << 20  # channel counts are far smaller
SLACK = 1e-9  # of a rank: a share worked out from a rank must lead back to it


def ranks_for(layer: Layer, option: FactorOption, c_in: np.ndarray, c_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N, 2) for layers of these channel counts (N,), and which rows are worth it (N,) bool.

    One rank r: the largest with weights(r) <= share x dense weights, second column 0. tucker2: ranks t sqrt(aspect) C and
    t / sqrt(aspect) N, t the positive root of the quadratic equation of their weights. tt3: both ranks equal, likewise. A row is
    worth it when both weights and MACs fall below the dense layer's.
    """
    if option.method not in RANKS:
        raise ValueError(f"a factorisation must be one of {tuple(RANKS)}, but got {option}; choose one of these")
    (dense,) = parts(layer, "none", c_in, c_out, np.zeros((len(c_in), 2), dtype=np.int64))
    budget = option.share * dense.weights.astype(float)
    ranks = np.stack(_ranks(layer, option, c_in, c_out, budget), axis=1).astype(np.int64)
    factors = parts(layer, option.method, c_in, c_out, ranks)
    weights, macs = sum(p.weights for p in factors), sum(p.macs for p in factors)
    return ranks, (weights < dense.weights) & (macs < dense.macs)


def _ranks(
    layer: Layer, option: FactorOption, c_in: np.ndarray, c_out: np.ndarray, budget: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if option.method == "tucker2":
        first, second = c_in * np.sqrt(option.aspect), c_out / np.sqrt(option.aspect)
        t = _root(layer.kernel_area * first * second, c_in * first + c_out * second, budget)
        return _floor(t * first, c_in), _floor(t * second, c_out)
    if option.method == "tt3":
        sizes = _core_sizes(c_in, c_out)
        t = _root(sizes[:, 1].astype(float), (sizes[:, 0] + sizes[:, 2]).astype(float), budget)
        limits = np.array([tt_limits(tuple(row), (int(max(1, r)),)) for row, r in zip(sizes.tolist(), t, strict=True)])
        return _floor(t, limits[:, 0]), _floor(t, limits[:, 1])
    one = np.ones((len(c_in), 2), dtype=np.int64)
    per_rank = sum(part.weights for part in parts(layer, option.method, c_in, c_out, one))
    return _floor(budget / per_rank, largest_rank(layer, option.method, c_in, c_out)), np.zeros_like(c_in)


def largest_rank(layer: Layer, method: str, c_in: np.ndarray, c_out: np.ndarray) -> np.ndarray:
    """Largest useful rank (N,) of a method with one rank."""
    height, width = layer.kernel
    if method == "tt2":
        cores = [(balanced(int(c), 2), balanced(int(n), 2)) for c, n in zip(c_in, c_out, strict=True)]
        return np.array([min(n[0] * c[0], n[1] * c[1]) for c, n in cores], dtype=np.int64)
    limits = {
        "svd": (c_in * layer.kernel_area, c_out),
        "spatial": (c_in * height, c_out * width),
        "cp": (c_in * layer.kernel_area, c_out * layer.kernel_area),
    }
    least: np.ndarray = np.minimum(*limits[method])
    return least


def _core_sizes(c_in: np.ndarray, c_out: np.ndarray) -> np.ndarray:
    pairs = [(balanced(int(c), 3), balanced(int(n), 3)) for c, n in zip(c_in, c_out, strict=True)]
    return np.array([[a * b for a, b in zip(*pair, strict=True)] for pair in pairs], dtype=np.int64).reshape(-1, 3)


def _root(square: np.ndarray, linear: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The positive root of square t^2 + linear t = budget."""
    root: np.ndarray = (-linear + np.sqrt(linear**2 + 4 * square * budget)) / (2 * square)
    return root


def _floor(value: np.ndarray, limit: np.ndarray) -> np.ndarray:
    kept: np.ndarray = np.clip(np.floor(value * (1 + SLACK)), 1, limit)
    return kept


@dataclass(frozen=True)
class Options:
    """What each allele of a factor gene means for one pair of channel counts: method (A,), ranks (A, 2), and the first allele
    with the same meaning (A,)."""

    method: np.ndarray
    ranks: np.ndarray
    canonical: np.ndarray


@dataclass(frozen=True)
class FactorChoice:
    """The decomposition options of one layer, worked out once for every pair of channel counts that occurs."""

    network: Network
    column: int
    options: tuple[FactorOption, ...]
    _known: dict[tuple[int, int], Options] = field(default_factory=dict, repr=False, compare=False)

    def meaning(self, phenotypes: Phenotypes, alleles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Method (N,) and ranks (N, 2) of these alleles (N,) at the widths of the phenotypes."""
        found, which = self._at(phenotypes)
        method, ranks = np.stack([o.method for o in found]), np.stack([o.ranks for o in found])
        return method[which, alleles], ranks[which, alleles]

    def canonical(self, phenotypes: Phenotypes, alleles: np.ndarray) -> np.ndarray:
        """The first allele (N,) that means the same: small layers have equal ranks for several shares, or none worth it."""
        found, which = self._at(phenotypes)
        first: np.ndarray = np.stack([o.canonical for o in found])[which, alleles]
        return first

    def _at(self, phenotypes: Phenotypes) -> tuple[list[Options], np.ndarray]:
        """Options per pair of channel counts that occurs, and which of them each row has (N,)."""
        c_in, c_out = axis_sizes(self.network, phenotypes, self.network.layers[self.column])
        pairs, which = np.unique(c_in * PAIR + c_out, return_inverse=True)
        return [self._options(int(pair) // PAIR, int(pair) % PAIR) for pair in pairs], which

    def _options(self, c_in: int, c_out: int) -> Options:
        if (c_in, c_out) not in self._known:
            self._known[(c_in, c_out)] = self._worked_out(np.array([c_in]), np.array([c_out]))
        return self._known[(c_in, c_out)]

    def _worked_out(self, c_in: np.ndarray, c_out: np.ndarray) -> Options:
        layer = self.network.layers[self.column]
        meanings: list[tuple[int, int, int]] = []
        for option in self.options:
            meanings.append((0, 0, 0))
            if option.method != "none":
                ranks, worth = ranks_for(layer, option, c_in, c_out)
                if worth[0]:
                    meanings[-1] = (METHODS.index(option.method), int(ranks[0, 0]), int(ranks[0, 1]))
        table = np.array(meanings, dtype=np.int64)
        return Options(table[:, 0], table[:, 1:], np.array([meanings.index(m) for m in meanings]))
