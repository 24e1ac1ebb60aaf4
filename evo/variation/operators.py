"""Variation of integer codes: arrays (N, L) in, new arrays out. Row i of `a` is crossed with row i of `b`.

Mutations never leave a picked gene as it was, unless it has a single allele: the rate is the true rate of change.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


class Crossover(Protocol):
    def __call__(self, rng: Rng, a: Array, b: Array) -> tuple[Array, Array]:
        """Two children per pair of parents; at every gene they hold the two alleles of the parents."""


class Mutation(Protocol):
    def __call__(
        self, rng: Rng, codes: Array, cardinalities: Array, ordinal: Array, rate: float | None = None
    ) -> Array:
        """Change each gene with probability `rate` (1 / L by default). Cardinalities int (L,), ordinal bool (L,)."""


def uniform_crossover(rng: Rng, a: Array, b: Array, swap: float = 0.5) -> tuple[Array, Array]:
    """Exchange every gene with probability `swap`."""
    return _exchange(rng.random(a.shape) < swap, a, b)


def two_point_crossover(rng: Rng, a: Array, b: Array) -> tuple[Array, Array]:
    """Exchange the genes between two cuts, drawn per row from the L + 1 places between genes."""
    rows, length = a.shape
    cuts = np.sort(rng.integers(0, length + 1, size=(rows, 2)), axis=1)
    gene = np.arange(length)
    return _exchange((gene >= cuts[:, :1]) & (gene < cuts[:, 1:]), a, b)


def _exchange(mask: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return np.where(mask, b, a), np.where(mask, a, b)


def flip_mutation(rng: Rng, codes: Array, cardinalities: Array, ordinal: Array, rate: float | None = None) -> Array:
    """Give picked genes a different allele, uniformly; for two alleles this flips the bit. Order means nothing here."""
    picked = _picked(rng, codes, rate)
    return np.where(picked, _another_allele(rng, codes, np.asarray(cardinalities)), codes)


def step_mutation(
    rng: Rng,
    codes: Array,
    cardinalities: Array,
    ordinal: Array,
    rate: float | None = None,
    reach: int = 2,
    resample: float = 0.1,
) -> Array:
    """Move picked ordinal genes by 1 .. `reach` alleles, reflected at the ends; others get a different allele.

    A share `resample` of the picked ordinal genes is also drawn uniformly, so that every allele stays within reach.
    """
    cardinalities = np.asarray(cardinalities)
    picked = _picked(rng, codes, rate)
    stepping = np.asarray(ordinal) & (rng.random(codes.shape) >= resample)
    moved = np.where(stepping, _neighbour(rng, codes, cardinalities, reach), _another_allele(rng, codes, cardinalities))
    return np.where(picked, moved, codes)


def segment_mutation(rng: Rng, codes: Array, cardinalities: Array, ordinal: Array, rate: float | None = None) -> Array:
    """Give every gene of one segment per genome a different allele; `rate` is the mean share of the genes inside it.

    The segment's share of the genome is drawn from Beta(1, 1 / rate - 1): at a rate of 1/3 these are two uniform cuts, the
    mutation of TEC and of Vega's PruneEA and QuantEA, where children of long genomes are next to random.
    """
    rows, length = codes.shape
    share = 1.0 / max(1, length) if rate is None else rate
    inside = rng.beta(1.0, 1.0 / share - 1.0, rows) if 0 < share < 1 else np.full(rows, float(share))
    size = np.floor(inside * length + rng.random(rows)).astype(np.int64).clip(0, length)
    start = np.floor(rng.random(rows) * (length - size + 1)).astype(np.int64)
    gene = np.arange(length)
    picked = (gene >= start[:, None]) & (gene < (start + size)[:, None])
    return np.where(picked, _another_allele(rng, codes, np.asarray(cardinalities)), codes)


def _picked(rng: Rng, codes: Array, rate: float | None) -> Array:
    return rng.random(codes.shape) < (1.0 / max(1, codes.shape[1]) if rate is None else rate)


def _another_allele(rng: Rng, codes: Array, cardinalities: Array) -> Array:
    others = np.maximum(cardinalities - 1, 1)
    offset = 1 + np.floor(rng.random(codes.shape) * others).astype(codes.dtype)
    return np.asarray((codes + offset) % cardinalities)


def _neighbour(rng: Rng, codes: Array, cardinalities: Array, reach: int) -> Array:
    last = cardinalities - 1
    size = np.minimum(rng.integers(1, reach + 1, size=codes.shape), last)
    step = np.where(rng.random(codes.shape) < 0.5, -size, size)
    there = codes + step
    inside = (there >= 0) & (there <= last)
    return np.asarray(np.clip(np.where(inside, there, codes - step), 0, last))
