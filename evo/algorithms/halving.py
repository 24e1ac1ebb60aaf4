"""Which candidates go on from one rung of the ladder to the next: successive halving (Jamieson and Talwalkar 2016) for several
objectives, by predicted hypervolume gain and non-dominated rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from evo.algorithms.fidelity_pairs import joined
from evo.archive import feasible, objective_values, violations
from evo.candidates import Evaluation
from evo.problem import Problem
from evo.selection.calibration import BEST, Isotonic
from evo.selection.promotion import promotion_order

ENOUGH = 4  # candidates with both measures before one step is corrected to the other


def hopeful(
    problem: Problem,
    learned: Iterable[str],
    raced: Sequence[Evaluation],
    before: Sequence[Evaluation],
    measured: Sequence[Evaluation],
    upper: str,
    keep: float,
) -> tuple[Evaluation, ...]:
    """The share `keep` (at least one) of the evaluations `raced` at a rung that promises most at the step `upper`.

    `before` are all earlier evaluations at this rung, `measured` those at `upper`: what they have in common tells how far tuning
    on improves the `learned` measures. Failed evaluations never go on.
    """
    completed = [e for e in raced if e.completed]
    expected = completed
    for measure in learned:
        expected = lifted(expected, before, measured, measure)
    count = min(len(completed), max(1, ceil(keep * len(raced))))
    front = objective_values(problem, feasible(problem, measured, upper))
    values, excess = objective_values(problem, expected), violations(problem, expected)
    order = promotion_order(values, excess, front, problem.reference, count if problem.reference else 0)
    return tuple(completed[i] for i in order[:count])


def lifted(
    raced: Sequence[Evaluation], before: Sequence[Evaluation], measured: Sequence[Evaluation], measure: str
) -> list[Evaluation]:
    """With the measure as it would be at the upper step, by the increasing map that fits the candidates known at both."""
    x, y = joined(before, measured, measure)
    if len(x) < ENOUGH:
        return list(raced)
    unused = x[:, None]
    query = np.array([e.measures.get(measure, np.nan) for e in raced])
    estimate = Isotonic()(unused, x, y, unused[:0], query)[:, BEST]
    return [replace(e, measures={**e.measures, measure: float(v)}) for e, v in zip(raced, estimate, strict=True)]
