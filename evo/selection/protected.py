"""Survival that protects large networks which learn slowly (pNSGA-III: Yang et al. 2020, CARS, section 3.4).

Small networks learn faster, so that early in the training of shared weights plain non-dominated sorting drops the large ones
("small model trap"). A second sorting keeps them, and the fronts of both are merged stage by stage. The paper's second sorting
looks at the speed of accuracy, the authors' code (vega) at the inverted size; neither has the niches of NSGA-III, nor has this.
"""

from __future__ import annotations

import numpy as np

from evo.pareto import constrained_ranks, crowding_by_rank, finite_rows

Array = np.ndarray

SECOND_SORTS = ("none", "inverse_size", "acc_speed", "two_stage")


def protected_survival(
    values: Array, violations: Array, speeds: Array, size: int, second_sort: str = "inverse_size", late: bool = False
) -> Array:
    """Indices (min(size, N),) of the survivors, the better first.

    values (N, M) are minimised: an error, then costs. speeds (N,): by how much the error falls per version of the weights.

    - none: fronts of the values alone;
    - inverse_size: for every cost o the fronts of (error, o) and of (error, -o), as in the authors' code;
    - acc_speed: fronts of the values, and of (error, -speed), as in the paper;
    - two_stage: fronts of (error (1 - s), 1 - s) with s the first cost scaled to 0..1; when `late`, picks alternate between these
      and the fronts of (error, cost).

    Feasible rows survive before infeasible ones, rows that are not finite come last. Within the last union that fits only in
    part, members of less crowded places come first; the authors' code draws them at random.
    """
    values = np.asarray(values, dtype=float)
    if second_sort == "two_stage" and late:
        plain, auxiliary = (_ranked(v, violations) for v in (values[:, :2], _auxiliary(values)))
        return _alternating(_order(values, plain), _order(values, auxiliary))[:size]
    stage = np.min([_ranked(v, violations) for v in _sorted_by(values, speeds, second_sort)], axis=0)
    return _order(values, stage)[:size]


def _sorted_by(values: Array, speeds: Array, second_sort: str) -> list[Array]:
    error, costs = values[:, :1], values[:, 1:]
    if second_sort == "none":
        return [values]
    if second_sort == "inverse_size":
        return [np.hstack([error, sign * costs[:, [o]]]) for o in range(costs.shape[1]) for sign in (1.0, -1.0)]
    if second_sort == "acc_speed":
        return [values, np.hstack([error, -np.asarray(speeds, dtype=float)[:, None]])]
    if second_sort == "two_stage":
        return [_auxiliary(values)]
    raise ValueError(
        f"second_sort must be one of {', '.join(SECOND_SORTS)}, but got second_sort={second_sort!r}; choose one"
    )


def _auxiliary(values: Array) -> Array:
    error, cost = values[:, 0], values[:, 1]
    finite = cost[np.isfinite(cost)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    left = 1.0 - (cost - low) / (high - low if high > low else 1.0)
    with np.errstate(invalid="ignore"):
        return np.stack([error * left, left], axis=1)


def _ranked(values: Array, violations: Array) -> Array:
    return constrained_ranks(values, violations)


def _order(values: Array, stage: Array) -> Array:
    """By stage, and within one by crowding distance; rows that are not finite last."""
    scaled = np.where(finite_rows(values)[:, None], values, np.nan)
    crowding = crowding_by_rank(scaled, stage)
    return np.lexsort((-crowding, stage, ~finite_rows(values))).astype(np.int64)


def _alternating(first: Array, second: Array) -> Array:
    """Both orders in turns, each index once."""
    return np.array(list(dict.fromkeys(np.stack([first, second], axis=1).ravel().tolist())), dtype=np.int64)
