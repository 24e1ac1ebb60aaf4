"""Codes of a part within limits of their own: what is too large loses units, in an order that the codes themselves decide."""

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
    far each is above a limit, (N,), at most 0 where it is within all."""

    codes: tuple[tuple[int, ...], ...]
    excess: Callable[[np.ndarray], np.ndarray]

    def sampled(self, rng: np.random.Generator, genome: Genome) -> Genome:
        """Random bits, each code with a keep probability of its own, so that widths differ from code to code; other genes as
        given."""
        drawn = np.array(genome)
        for bits in self.codes:
            drawn[list(bits)] = rng.random(len(bits)) < rng.uniform(FEWEST, 1.0)
        return self.fitted(tuple(drawn.tolist()))

    def fitted(self, genome: Genome) -> Genome:
        """The genome without as many of its units as it takes to be within the limits; itself where it is, or nothing helps. A
        code that keeps no unit keeps its first."""
        legal = np.array(genome)
        for first in (bits[0] for bits in self.codes if not legal[list(bits)].any()):
            legal[first] = 1
        genome = tuple(legal.tolist())
        order = self._order(genome)
        fewer = np.tile(legal, (len(order) + 1, 1))
        for dropped, bit in enumerate(order, start=1):
            fewer[dropped:, bit] = 0
        fits = np.flatnonzero(self.excess(fewer) <= 0)
        return tuple(fewer[fits[0]].tolist()) if len(fits) else genome

    def _order(self, genome: Genome) -> np.ndarray:
        """Bits to be dropped one after the other, at random; one unit of every code stays."""
        rng = stream(0, "within", int(genome_digest(genome), 16))
        kept = (rng.permutation([bit for bit in bits if genome[bit]]) for bits in self.codes)
        return rng.permutation(np.array([bit for bits in kept for bit in bits[1:]], dtype=int))
