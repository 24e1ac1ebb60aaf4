"""From what step 1 predicts to what step 2 would measure: maps fitted on every candidate that has both."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Array = np.ndarray


class Calibration(Protocol):
    def __call__(self, codes: Array, surrogate: Array, value: Array, query_codes: Array, query: Array) -> Array:
        """Estimated step-2 values (Q,) of the queries.

        Known candidates: codes (K, L), step-1 surrogate (K,), step-2 value (K,), K >= 1. Queries: codes (Q, L),
        surrogate (Q,).
        """


def isotonic_estimate(codes: Array, surrogate: Array, value: Array, query_codes: Array, query: Array) -> Array:
    """Least-squares increasing map from surrogate to value, the same for every genome."""
    knots, levels = isotonic(surrogate, value)
    return interpolate(knots, levels, query)


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
