"""Which cheaply scored candidates deserve a measurement next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo.pareto import constrained_ranks, crowding_by_rank, hypervolume_gains
from evo.selection.calibration import NODE_WEIGHTS


def promotion_order(
    values: np.ndarray,
    violations: np.ndarray,
    front: np.ndarray | None = None,
    reference: Sequence[float] = (),
    by_gain: int = 0,
    possible: Sequence[np.ndarray] = (),
) -> list[int]:
    """Rows (N, M) in the order of promotion; rows that are not finite are left out.

    The first `by_gain` are picked one by one by the hypervolume (up to the reference point) that they would add to the
    measured front and to the picks before them, as long as they add any; with `possible` values (N, M), one per node of
    `evo.selection.calibration.NODES`, by the expectation of that gain. All others follow by constrained Pareto rank,
    then by crowding distance.
    """
    ranks = constrained_ranks(values, violations)
    by_rank = np.lexsort((-crowding_by_rank(values, ranks), ranks))
    usable = np.isfinite(values).all(axis=1) & np.isfinite(violations)
    left = [int(i) for i in by_rank if usable[i]]
    able = [i for i in left if ranks[i] == 0 and violations[i] <= 0]  # a dominated row never adds most
    measured = np.zeros((0, values.shape[1])) if front is None else front
    chosen: list[int] = []
    while able and len(chosen) < by_gain:
        gains = expected_gains(measured, [v[able] for v in possible] or [values[able]], reference)
        if gains.max() <= 0:
            break
        chosen.append(able.pop(int(gains.argmax())))
        measured = np.vstack([measured, values[chosen[-1]]])
    return chosen + [i for i in left if i not in set(chosen)]


def expected_gains(front: np.ndarray, possible: Sequence[np.ndarray], reference: Sequence[float]) -> np.ndarray:
    """Hypervolume that each row would add to the front on average, (C,), given its possible values: an array (C, M) per node.

    All uncertain values of a row are taken to be off by as many standard deviations in the same direction.
    """
    weights = NODE_WEIGHTS if len(possible) > 1 else (1.0,)
    gains = [w * hypervolume_gains(front, values, reference) for w, values in zip(weights, possible, strict=True)]
    return np.asarray(np.sum(gains, axis=0))
