"""Genomes over a limit of a cost are moved below it by what the cheap step says costs least: a repair for every algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from evo.candidates import Scorer
from evo.problem import Constraint
from evo.variation.local_search import Tabulated, price_range
from evo.variation.separable import Separable, descend
from search_spaces.genome import Genome, SearchSpace
from search_spaces.plan import CompressionPlan

Array = np.ndarray

PRICES = 24  # tried at once, from the lowest to far above the highest that any single step of a gene costs
ABOVE = 100.0
SWEEPS = 2
REMEMBERED = 100_000  # repaired genomes


@runtime_checkable
class Limited(Protocol):
    """A space whose repair also meets limits, around one whose repair does not."""

    @property
    def space(self) -> SearchSpace: ...
    def within(self, genome: Genome) -> bool: ...


@dataclass(frozen=True)
class FeasibleSpace:
    """The search space `space` in which `repair` also meets `limits` on what the cheap step predicts: costs, which it knows
    exactly, and latency.

    A genome over a limit pays a price for the cost, which rises until what is left of it fits: every gene then has the allele
    of least loss plus price times cost, among those that cost no more than its own. Genomes within the limits, and those that no
    price brings there, are repaired as in `space`. `charged` names, for every limit, the column of `tables` that is charged for
    it: its own measure, or one that rises and falls with it.
    """

    space: SearchSpace
    scorer: Scorer
    tables: Tabulated
    limits: tuple[Constraint, ...]
    charged: tuple[str, ...]
    _known: dict[Genome, Genome] = field(default_factory=dict, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        return self.space.names

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.space.cardinalities

    @property
    def ordinal(self) -> tuple[bool, ...]:
        return self.space.ordinal

    @property
    def digest(self) -> str:
        return self.space.digest

    def sample(self, rng: np.random.Generator) -> Genome:
        return self.repair(self.space.sample(rng))

    def anchors(self) -> tuple[Genome, ...]:
        return tuple(dict.fromkeys(self.repair(genome) for genome in self.space.anchors()))

    def validate(self, genome: Sequence[int]) -> None:
        self.space.validate(genome)

    def decode(self, genome: Genome) -> CompressionPlan:
        return self.space.decode(genome)

    def repair(self, genome: Sequence[int]) -> Genome:
        legal = self.space.repair(genome)
        if legal not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[legal] = self._within(legal)
        return self._known[legal]

    def within(self, genome: Genome) -> bool:
        """Whether a repaired genome of `space` meets all limits as it is."""
        return bool((self._excess(np.array([genome]))[0] <= 0).all())

    def _within(self, genome: Genome) -> Genome:
        over = self._excess(np.array([genome]))[0] > 0
        if not over.any():
            return genome
        for charged in (over, np.ones_like(over)):  # saving one cost may have raised another
            repaired = self._cheaper(genome, self._ladder * charged)
            fits = (self._excess(np.array(repaired)) <= 0).all(axis=1)
            if fits.any():
                return repaired[int(fits.argmax())]
        return genome

    def _cheaper(self, genome: Genome, prices: Array) -> list[Genome]:
        weights = np.ones((len(prices), self.model.weights))
        codes = descend(self.model, np.tile(np.array(genome), (len(prices), 1)), weights, prices, SWEEPS, cheaper=True)
        return [self.space.repair(code) for code in codes.tolist()]

    def _excess(self, codes: Array) -> Array:
        """How far each code (N, L) is above each limit: (N, limits)."""
        scores: Mapping[str, Array] = self.scorer.score(codes)
        return np.stack([scores[limit.measure] - limit.upper for limit in self.limits], axis=1)

    @cached_property
    def model(self) -> Separable:
        return self.tables.separable.columns(self.charged)

    @cached_property
    def _ladder(self) -> Array:
        """Prices (PRICES, limits), rising."""
        low, high = price_range(self.model.alone(np.ones(self.model.weights)))
        share = np.linspace(0, 1, PRICES)[:, None]
        return np.asarray(
            np.where(high > 0, low, 1.0) ** (1 - share) * (ABOVE * np.where(high > 0, high, 1.0)) ** share
        )
