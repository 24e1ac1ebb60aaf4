"""From what step 1 predicts to what step 2 would measure: maps fitted on every candidate that has both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray


NODES = (-(3.0**0.5), 0.0, 3.0**0.5)  # of Gauss-Hermite quadrature for a standard normal variable
NODE_WEIGHTS = (1 / 6, 2 / 3, 1 / 6)
BEST = 1  # the middle node: the estimate itself


class Calibration(Protocol):
    @property
    def fewest(self) -> int:
        """How many known candidates it needs."""

    def __call__(self, codes: Array, surrogate: Array, value: Array, query_codes: Array, query: Array) -> Array:
        """Step-2 values (Q, 3) of the queries: as many standard deviations from the estimate as NODES says, increasing.

        Known candidates: codes (K, L), step-1 surrogate (K,), step-2 value (K,), K >= `fewest`. Queries: codes (Q, L),
        surrogate (Q,).
        """


@dataclass(frozen=True)
class Isotonic:
    """Least-squares increasing map from surrogate to value, the same for every genome; spread as the residuals are."""

    fewest: int = 1

    def __call__(self, codes: Array, surrogate: Array, value: Array, query_codes: Array, query: Array) -> Array:
        knots, levels = isotonic(surrogate, value)
        residuals = np.asarray(value) - interpolate(knots, levels, surrogate)
        return np.asarray(interpolate(knots, levels, query)[:, None] + residuals.std() * np.array(NODES))


def isotonic(x: Array, y: Array) -> tuple[Array, Array]:
    """Isotonic regression by pooling adjacent violators (Ayer et al. 1955).

    Returns the pools, in order: their mean x and their mean y, both increasing.
    """
    grid, index, count = np.unique(np.asarray(x, dtype=float), return_inverse=True, return_counts=True)
    mean = np.bincount(index, weights=np.asarray(y, dtype=float)) / count
    pools: list[tuple[float, float, float]] = []
    for pool in zip(grid.tolist(), mean.tolist(), count.astype(float).tolist(), strict=True):
        pools.append(pool)
        while len(pools) > 1 and pools[-2][1] >= pools[-1][1]:
            pools.append(_merged(pools.pop(), pools.pop()))
    table = np.array(pools)
    return table[:, 0], table[:, 1]


def _merged(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    weight = a[2] + b[2]
    return (a[0] * a[2] + b[0] * b[2]) / weight, (a[1] * a[2] + b[1] * b[2]) / weight, weight


def interpolate(knots: Array, levels: Array, query: Array) -> Array:
    """Piecewise linear between the pools' centres, so that a pool does not tie its members; constant outside."""
    return np.asarray(np.interp(query, knots, levels))
