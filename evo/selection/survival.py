"""Survival and mating selection. The only file that knows DEAP, which is imported when a survival first runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from typing import Any, Protocol

import numpy as np

from evo.pareto import constrained_ranks, crowding_by_rank, finite_rows

Array = np.ndarray
Rng = np.random.Generator


class Survival(Protocol):
    def __call__(self, values: Array, violations: Array, size: int, rng: Rng) -> Array:
        """Indices (min(size, N),) of the survivors, the better first.

        `values` (N, M) are minimised. Feasible rows (violation 0) survive before infeasible ones, these by violation,
        and rows that are not finite come last (Deb et al. 2002).
        """


def nsga2_survival(values: Array, violations: Array, size: int, rng: Rng) -> Array:
    """NSGA-II: fronts, the last one by crowding distance (Deb et al. 2002). Draws nothing from `rng`."""
    rank = constrained_ranks(values, violations)
    crowding = crowding_by_rank(_unit_range(np.asarray(values, dtype=float)), rank)
    return np.lexsort((-crowding, rank))[:size].astype(np.int64)


def nsga3_survival(values: Array, violations: Array, size: int, rng: Rng) -> Array:
    """NSGA-III: fronts, the last one by niches around Das-Dennis reference points (Deb and Jain 2014).

    There are about as many reference points as survivors.
    """

    def select(individuals: list[_Individual], count: int) -> list[_Individual]:
        from deap import tools

        objectives = len(individuals[0].fitness.wvalues)
        points = tools.uniform_reference_points(objectives, divisions(size, objectives))
        with _global_numpy_seed(int(rng.integers(2**32))):
            chosen: list[_Individual] = tools.selNSGA3(individuals, count, points, nd="log")
        return chosen

    return _feasible_first(select, values, violations, size)


def divisions(size: int, objectives: int) -> int:
    """The most divisions per objective whose Das-Dennis points, C(M + p - 1, p), do not outnumber the population."""
    p = 1
    while objectives > 1 and comb(objectives + p, p + 1) <= size:
        p += 1
    return p


def tournament(rng: Rng, ranks: Array, crowding: Array, n: int) -> Array:
    """Winners (n,) of n binary tournaments, as indices: lower rank, then larger crowding distance, then the first."""
    first, second = rng.integers(0, len(ranks), size=(2, n))
    wins = (ranks[second] < ranks[first]) | ((ranks[second] == ranks[first]) & (crowding[second] > crowding[first]))
    return np.asarray(np.where(wins, second, first))


def roulette(rng: Rng, fitness: Array, n: int) -> Array:
    """Indices (n,) drawn with replacement in proportion to fitness (N,) >= 0 (Holland 1975); evenly where all are 0."""
    fitness = np.asarray(fitness, dtype=float)
    total = fitness.sum()
    return np.asarray(rng.choice(len(fitness), size=n, p=fitness / total if total > 0 else None))


@dataclass
class _Fitness:
    values: tuple[float, ...]
    wvalues: tuple[float, ...]
    crowding_dist: float = 0.0


@dataclass
class _Individual:
    index: int
    fitness: _Fitness


class _Select(Protocol):
    def __call__(self, individuals: list[_Individual], count: int) -> list[_Individual]: ...


def _feasible_first(select: _Select, values: Array, violations: Array, size: int) -> Array:
    values, violations = np.asarray(values, dtype=float), np.asarray(violations, dtype=float)
    feasible = np.flatnonzero(finite_rows(values) & (violations <= 0))
    count = min(size, len(feasible))
    best = _select_rows(select, values[feasible], count)
    rank = constrained_ranks(values, violations)
    others = np.setdiff1d(np.arange(len(values)), feasible)
    others = others[np.argsort(rank[others], kind="stable")]
    return np.concatenate([feasible[best], others[: size - count]]).astype(np.int64)


def _select_rows(select: _Select, values: Array, count: int) -> Array:
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    if values.shape[1] == 1:
        return np.argsort(values[:, 0], kind="stable")[:count]
    scaled = _unit_range(values)
    individuals = [_Individual(i, _Fitness(tuple(row), tuple(-row))) for i, row in enumerate(scaled)]
    return np.array([individual.index for individual in select(individuals, count)], dtype=np.int64)


def _unit_range(values: Array) -> Array:
    """Every objective scaled to 0..1: DEAP's NSGA-III has absolute tolerances and takes the ideal point off twice."""
    finite = values[finite_rows(values)]
    low, high = finite.min(axis=0, initial=np.inf), finite.max(axis=0, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        return np.asarray((values - low) / np.where(high > low, high - low, 1.0))


@contextmanager
def _global_numpy_seed(seed: int) -> Iterator[None]:
    """DEAP's NSGA-III shuffles with numpy's global generator: lend it a seeded one and give the old state back."""
    before: Any = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
