"""Layers as stages of a search: which genes belong together, how much each stage keeps, and which alleles go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.genome import Genome, SearchSpace

Array = np.ndarray


@dataclass(frozen=True)
class Stage:
    """Genes that are searched together, and their highest alleles int (c,). A stage's level is the sum of its alleles: for a
    binary code the number of channels that are kept."""

    name: str
    genes: tuple[int, ...]
    highest: tuple[int, ...]

    @property
    def full(self) -> int:
        return sum(self.highest)

    def level(self, rate: float) -> int:
        """What is left after pruning at this rate (0 .. 1), at least 1 (Hu et al. 2018: the channels to keep)."""
        return max(1, round((1 - rate) * self.full))


def stages_of(space: SearchSpace) -> tuple[Stage, ...]:
    """One stage per channel group of a binary code: genes whose names differ after the last colon only."""
    members: dict[str, list[int]] = {}
    for at, name in enumerate(space.names):
        members.setdefault(name.rpartition(":")[0], []).append(at)
    tops = [c - 1 for c in space.cardinalities]
    return tuple(Stage(name, tuple(genes), tuple(tops[g] for g in genes)) for name, genes in members.items())


def lowered(genome: Genome, stage: Stage, importance: Array, level: int) -> Genome:
    """The genome with this stage at `level`, the least important genes (importance float (genes,)) lowered first."""
    codes, surplus = list(genome), sum(genome[g] for g in stage.genes) - level
    for gene in sorted(stage.genes, key=lambda g: (importance[g], g)):
        taken = min(max(surplus, 0), codes[gene])
        codes[gene] -= taken
        surplus -= taken
    return tuple(codes)


def at_level(rng: np.random.Generator, codes: Array, highest: Array, level: int) -> Array:
    """Codes (c,) of a stage with single steps of randomly chosen genes until they add up to `level`."""
    codes = codes.copy()
    while (missing := level - int(codes.sum())) != 0:
        able = np.flatnonzero(codes < highest) if missing > 0 else np.flatnonzero(codes > 0)
        chosen = rng.choice(able, size=min(abs(missing), len(able)), replace=False)
        codes[chosen] += np.sign(missing)
    return codes


def rates_within(losses: Array, rates: Sequence[float], threshold: float) -> tuple[float, ...]:
    """For each stage the highest rate whose loss (stages, rates), made to rise with the rate, is within the threshold."""
    within = (np.maximum.accumulate(losses, axis=1) <= threshold).sum(axis=1)
    return tuple(rates[count - 1] if count else 0.0 for count in within)


def thresholds(losses: Array) -> Array:
    """All thresholds that make a difference, ascending: one below every loss, then the losses."""
    finite = losses[np.isfinite(losses)]
    return np.concatenate([[-np.inf], np.unique(finite)])
