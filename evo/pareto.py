"""Pareto dominance on arrays: minimised objective values of shape (N, M), one row per point."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


def finite_rows(values: Array) -> Array:
    """Which rows can take part in dominance at all: bool (N,)."""
    return np.asarray(np.isfinite(values).all(axis=1))


def ranks(values: Array) -> Array:
    """Non-dominated rank of every row, int64 (N,): 0 is the Pareto front; rows with inf or NaN share the last rank."""
    values = np.asarray(values, dtype=float)
    return constrained_ranks(values, np.zeros(len(values)))


def constrained_ranks(values: Array, violations: Array) -> Array:
    """Ranks under constrained dominance (Deb et al. 2002, section VI), int64 (N,).

    Feasible rows (violation 0) come first in non-dominated order, then the infeasible by violation, then the rows
    whose values or violation are not finite.
    """
    values, violations = np.asarray(values, dtype=float), np.asarray(violations, dtype=float)
    usable = finite_rows(values) & np.isfinite(violations)
    feasible, infeasible = usable & (violations <= 0), usable & (violations > 0)
    result = np.zeros(len(values), dtype=np.int64)
    if feasible.any():
        result[feasible] = moocore.pareto_rank(np.ascontiguousarray(values[feasible]))
    result[infeasible] = _after(result[feasible]) + np.unique(violations[infeasible], return_inverse=True)[1]
    result[~usable] = _after(result[usable])
    return result


def _after(used: Array) -> int:
    return int(used.max()) + 1 if used.size else 0


def front_indices(values: Array) -> Array:
    """Indices of the finite rows that no other row dominates; duplicates of a non-dominated row all count."""
    values = np.asarray(values, dtype=float)
    return np.flatnonzero((ranks(values) == 0) & finite_rows(values))


def hypervolume(values: Array, reference: ArrayLike) -> float:
    """Volume that the rows dominate up to the reference point (M,); rows beyond it or not finite add nothing."""
    values, bound = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    inside = values[finite_rows(values) & (values < bound).all(axis=1)]
    return float(moocore.hypervolume(np.ascontiguousarray(inside), ref=bound)) if len(inside) else 0.0


def hypervolume_gains(front: Array, candidates: Array, reference: ArrayLike) -> Array:
    """How much each candidate (C, M) alone would add to the hypervolume of the front (N, M): float64 (C,)."""
    base = hypervolume(front, reference)
    return np.array([hypervolume(np.vstack([front, row]), reference) - base for row in candidates])


def crowding_distance(values: Array) -> Array:
    """Crowding distance within one front (Deb et al. 2002, section III.B), float64 (N,).

    Extreme points of every objective get inf, an objective without spread adds nothing, rows that are not finite get 0.
    """
    values = np.asarray(values, dtype=float)
    finite = finite_rows(values)
    result = np.zeros(len(values))
    if finite.any():
        result[finite] = sum(_gaps(column) for column in values[finite].T)
    return result


def _gaps(column: Array) -> Array:
    """Distance between the two neighbours of each entry, as a share of the range."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    spread = ordered[-1] - ordered[0]
    gaps = np.full(len(column), np.inf)
    if len(column) > 2:
        inner = (ordered[2:] - ordered[:-2]) / spread if spread > 0 else np.zeros(len(column) - 2)
        gaps[order[1:-1]] = inner
    return gaps


def crowding_by_rank(values: Array, rank: Array) -> Array:
    """Crowding distance of every row within the rows of its own rank, float64 (N,)."""
    result = np.zeros(len(values))
    for level in np.unique(rank):
        members = rank == level
        result[members] = crowding_distance(values[members])
    return result


def knee(values: Array) -> int:
    """Index of the row closest to the ideal point after scaling every objective to 0..1; the first of equals."""
    values = np.asarray(values, dtype=float)
    finite = finite_rows(values)
    if not finite.any():
        raise ValueError(f"a knee needs at least one finite point, but got shape={values.shape}; evaluate more")
    low, high = values[finite].min(axis=0), values[finite].max(axis=0)
    scaled = (values[finite] - low) / np.where(high > low, high - low, 1.0)
    return int(np.flatnonzero(finite)[np.argmin((scaled**2).sum(axis=1))])


def as_matrix(rows: Sequence[Array], width: int) -> Array:
    """Rows stacked to (N, width), also where there are none."""
    return np.array(rows, dtype=float).reshape(len(rows), width)
