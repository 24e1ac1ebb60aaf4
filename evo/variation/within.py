"""Codes of a part within limits of their own: what is too large loses units, in an order that the codes themselves decide, and
what is smaller than it may be gains some where that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evo.randomness import stream
from search_spaces.genome import Genome, genome_digest

FEWEST = 0.1  # least share of the units of one code that a random one keeps on average


@dataclass(frozen=True)
class Within:
    """`codes` holds for each binary code of the part the positions of its bits, `excess` maps codes (N, genes of the part) to how
    far each is above a limit, (N,), at most 0 where it is within all; a unit more never lowers it. With `fill` no unit that is
    missing could be added to a fitted genome."""

    codes: tuple[tuple[int, ...], ...]
    excess: Callable[[np.ndarray], np.ndarray]
    fill: bool = False

    def sampled(self, rng: np.random.Generator, genome: Genome) -> Genome:
        """Random bits, each code with a keep probability of its own, so that widths differ from code to code; other genes as
        given."""
        drawn = np.array(genome)
        for bits in self.codes:
            drawn[list(bits)] = rng.random(len(bits)) < rng.uniform(FEWEST, 1.0)
        return self.fitted(tuple(drawn.tolist()))

    def fitted(self, genome: Genome) -> Genome:
        """The genome without as many of its units as it takes to be within the limits, and with `fill` with as many others as
        fit; itself where nothing is to be done, or nothing helps. A code that keeps no unit keeps its first."""
        legal = np.array(genome)
        for first in (bits[0] for bits in self.codes if not legal[list(bits)].any()):
            legal[first] = 1
        genome = tuple(legal.tolist())
        rng = stream(0, "within", int(genome_digest(genome), 16))
        kept = (rng.permutation([bit for bit in bits if genome[bit]]) for bits in self.codes)
        # One unit of every code stays.
        order = rng.permutation(np.array([bit for bits in kept for bit in bits[1:]], dtype=int))
        fewer = _one_after_the_other(legal, order, 0)
        fits = np.flatnonzero(self.excess(fewer) <= 0)
        if not len(fits):
            return genome
        fitted = fewer[fits[0]]
        return tuple((self._filled(fitted, rng) if self.fill else fitted).tolist())

    def _filled(self, fitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """With missing units added in a random order, passing over those that do not fit any more."""
        missing = rng.permutation(np.array([bit for bits in self.codes for bit in bits if not fitted[bit]], dtype=int))
        while len(missing):
            alone = np.tile(fitted, (len(missing), 1))
            alone[np.arange(len(missing)), missing] = 1
            missing = missing[self.excess(alone) <= 0]
            more = _one_after_the_other(fitted, missing, 1)
            added = int((self.excess(more) <= 0).sum()) - 1
            fitted, missing = more[added], missing[added:]
        return fitted


def _one_after_the_other(codes: np.ndarray, order: np.ndarray, value: int) -> np.ndarray:
    """The codes, and with ever more of the bits set to the value, (len(order) + 1, genes)."""
    rows = np.tile(codes, (len(order) + 1, 1))
    for count, bit in enumerate(order, start=1):
        rows[count:, bit] = value
    return rows
