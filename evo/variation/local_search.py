"""Good genomes of the cheap step, over the whole range of costs: what a search begins with and keeps adding to its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from evo.variation.separable import Separable, descend

Array = np.ndarray
Rng = np.random.Generator

PRICES = (0.02, 0.98)  # quantiles of loss per cost saved, over the steps of all genes, between which prices are drawn
FREE = 0.1  # share of the prices that are nothing
DRAWN = 0.5  # share of the rows that use weights drawn from the posterior instead of its mode
FROM_FULL = 0.5  # share of the rows that begin at the uncompressed network


class Tabulated(Protocol):
    @property
    def separable(self) -> Separable:
        """The cheap step as tables; made when first asked for."""


class Weigher(Protocol):
    def weights(self, codes: Array, value: Array, draws: int, rng: Rng) -> Array:
        """Weights (1 + draws, T) given K >= 0 measured codes (K, L) and values (K,): the most likely ones, then draws."""


@dataclass(frozen=True)
class Unweighted:
    """The closed form as it is."""

    terms: int

    def weights(self, codes: Array, value: Array, draws: int, rng: Rng) -> Array:
        return np.ones((1 + draws, self.terms))


@dataclass(frozen=True)
class LocalSearch:
    """Descends on loss + prices . costs from given codes, for prices that cover all useful trade-offs.

    `priced` are the costs that have a price, `measure` is the measured quantity that the weights are learned from.
    """

    tables: Tabulated
    priced: tuple[str, ...]
    weigher: Weigher
    measure: str

    @cached_property
    def model(self) -> Separable:
        return self.tables.separable.columns(self.priced)

    def propose(self, rng: Rng, count: int, starts: Array, codes: Array, value: Array) -> Array:
        """Unrepaired codes (at most count, L) without repetition; starts (S, L), measured codes (K, L) and values (K,)."""
        drawn = round(DRAWN * count)
        weights = self.weigher.weights(codes, value, drawn, rng)
        prices = prices_between(rng, count, *price_range(self.model.alone(weights[0])))
        rows = np.concatenate([weights[1:], np.repeat(weights[:1], count - drawn, axis=0)])
        full = np.array(self.model.full)
        pool = starts if len(starts) else full[None]
        begin = np.where(rng.random((count, 1)) < FROM_FULL, full, pool[rng.integers(0, len(pool), count)])
        return np.unique(descend(self.model, begin, rows, prices), axis=0)


def price_range(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Lowest and highest price of every cost, each (M,): what its savings cost in loss, along the sensitivity curve of each gene,
    loss (alleles,) and costs (alleles, M). Where nothing trades loss for a cost its price is nothing."""
    measures = curves[0][1].shape[1]
    low, high = np.zeros(measures), np.zeros(measures)
    for m in range(measures):
        slopes = np.concatenate([_slopes(loss, cost[:, m]) for loss, cost in curves])
        if len(slopes):
            low[m], high[m] = np.quantile(slopes, PRICES)
    return low, high


def _slopes(loss: Array, cost: Array) -> Array:
    """Loss per cost between each allele and the next cheaper one, where one trades for the other."""
    order = np.argsort(cost, kind="stable")
    rise, saved = -np.diff(loss[order]), np.diff(cost[order])
    trade = (rise > 0) & (saved > 0)
    return np.asarray(rise[trade] / saved[trade])


def prices_between(rng: Rng, count: int, low: Array, high: Array) -> Array:
    """Prices (count, M), log-uniform and evenly spread: multiples of the generalised golden ratio, shifted at random."""
    at = (np.arange(count)[:, None] * _ratios(len(low)) + rng.random(len(low))) % 1.0
    some = (high > 0) & (at >= FREE)
    exponent = (at - FREE) / (1 - FREE)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(low) + exponent * (np.log(high) - np.log(low))
        return np.asarray(np.where(some, np.exp(logarithms), 0.0))


def _ratios(dimensions: int) -> Array:
    root = 2.0
    for _ in range(40):
        root = (1 + root) ** (1 / (dimensions + 1))
    return np.asarray(root ** -np.arange(1.0, dimensions + 1))


def priced(objectives: Sequence[str], measures: Sequence[str]) -> tuple[str, ...]:
    """The costs to put a price on: those of the problem that the tables give, or macs where there is none."""
    named = tuple(name for name in objectives if name in measures)
    return named or tuple(name for name in ("macs",) if name in measures)
