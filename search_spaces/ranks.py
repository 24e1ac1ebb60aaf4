"""Ranks that spend a given share of the dense layer's weights, so that no choice can cost more than the layer itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from search_spaces.costs import parts
from search_spaces.network import Layer, Network
from search_spaces.phenotype import METHODS, Phenotypes, axis_sizes


def ranks_for(
    layer: Layer, method: str, share: float, c_in: np.ndarray, c_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N, 2) for layers of these channel counts (N,), and which rows are worth it (N,) bool.

    svd: rank r with r (k k C + N) <= share k k C N, second column 0. tucker2: ranks proportional to C and N, the positive root
    of k k C N t^2 + (C^2 + N^2) t = share k k C N. A row is worth it when both weights and MACs fall below the dense layer's.
    """
    if method not in ("svd", "tucker2"):
        raise ValueError(f"a factorisation must be 'svd' or 'tucker2', but got method={method!r}; choose one of these")
    dense_weights = c_in * c_out * layer.kernel_area
    if method == "svd":
        fan_in = c_in * layer.kernel_area
        rank = np.floor(share * dense_weights / (fan_in + c_out))
        first, second = np.clip(rank, 1, np.minimum(fan_in, c_out)), np.zeros_like(c_in)
    else:
        linear = (c_in.astype(float) ** 2 + c_out.astype(float) ** 2) / dense_weights
        t = (-linear + np.sqrt(linear**2 + 4 * share)) / 2
        first = np.clip(np.floor(t * c_in), 1, c_in)
        second = np.clip(np.floor(t * c_out), 1, c_out)
    ranks = np.stack([first, second], axis=1).astype(np.int64)
    factors = parts(layer, method, c_in, c_out, ranks)
    (dense,) = parts(layer, "none", c_in, c_out, ranks)
    weights, macs = sum(p.weights for p in factors), sum(p.macs for p in factors)
    return ranks, (weights < dense.weights) & (macs < dense.macs)


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
    options: tuple[tuple[str, float], ...]
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
        for method, share in self.options:
            meanings.append((0, 0, 0))
            if method != "none":
                ranks, worth = ranks_for(layer, method, share, c_in, c_out)
                if worth[0]:
                    meanings[-1] = (METHODS.index(method), int(ranks[0, 0]), int(ranks[0, 1]))
        table = np.array(meanings, dtype=np.int64)
        return Options(table[:, 0], table[:, 1:], np.array([meanings.index(m) for m in meanings]))


PAIR = 1 << 20  # channel counts are far smaller
