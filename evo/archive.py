"""What a run has found: pure functions over all its evaluations. The order of the evaluations never matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from evo.candidates import STEP1, Evaluation
from evo.digests import of_genome
from evo.pareto import front_indices, hypervolume
from evo.problem import Problem
from evo.storage.columns import Archive
from search_spaces.genome import Genome

Z_95 = 1.959963984540054


class Agreement(NamedTuple):
    """Kendall's tau-b with a 95 % interval and the number of value pairs it rests on; NaN where undefined."""

    tau: float
    low: float
    high: float
    pairs: int


def feasible(problem: Problem, evaluations: Iterable[Evaluation], step: str) -> tuple[Evaluation, ...]:
    """Completed evaluations of a step that meet every constraint and carry every objective, ordered by key."""
    return tuple(sorted(_feasible(problem, evaluations, step), key=lambda e: e.candidate.key))


def _feasible(problem: Problem, evaluations: Iterable[Evaluation], step: str) -> list[Evaluation]:
    at_step = [e for e in evaluations if e.candidate.step == step and e.completed]
    good = (problem.excess(at_step) <= 0) & np.isfinite(problem.matrix(at_step)).all(axis=1)
    return [e for e, fine in zip(at_step, good, strict=True) if fine]


def objective_values(problem: Problem, evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Minimised objective values, float64 (N, M)."""
    return problem.matrix(evaluations)


def violations(problem: Problem, evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Constraint violations, float64 (N,)."""
    return problem.excess(evaluations)


def pareto_front(problem: Problem, evaluations: Sequence[Evaluation], step: str) -> tuple[Evaluation, ...]:
    """Feasible, non-dominated evaluations of a step, one per genome, by first objective and then id.

    Of a genome evaluated more than once the newest weights count, and among those the lowest id. An Archive is read in
    parts, of which a later one must not have older weights than one before.
    """
    if isinstance(evaluations, Archive):
        return _front_of_parts(problem, evaluations, step)
    latest: dict[Genome, Evaluation] = {}
    for evaluation in sorted(feasible(problem, evaluations, step), key=lambda e: -e.weights_version):
        latest.setdefault(evaluation.candidate.genome, evaluation)
    members = tuple(latest.values())
    front = [members[i] for i in front_indices(objective_values(problem, members))]
    return tuple(sorted(front, key=lambda e: (problem.values(e)[0], e.candidate.id)))


def _front_of_parts(problem: Problem, archive: Archive, step: str) -> tuple[Evaluation, ...]:
    front: tuple[Evaluation, ...] = ()
    newest: dict[int, int] = {}
    for part in archive.backwards():
        found = sorted(feasible(problem, part, step), key=lambda e: -e.weights_version)
        works = ((e, newest.setdefault(of_genome(e.candidate.genome), e.weights_version)) for e in found)
        current = [e for e, version in works if e.weights_version == version]
        front = pareto_front(problem, (*front, *current), step)
    return front


def dominated_share(problem: Problem, front: Sequence[Evaluation]) -> float:
    """Hypervolume as a share of the box between zero and the reference point; NaN without a reference."""
    reference = np.array(problem.reference)
    if not len(reference):
        return float("nan")
    scale = np.where(reference > 0, reference, 1.0)
    return hypervolume(objective_values(problem, front) / scale, reference / scale)


def best_under_budget(
    problem: Problem,
    evaluations: Iterable[Evaluation],
    step: str,
    measure: str,
    budgets: Sequence[tuple[str, float]] = (),
) -> float | None:
    """Best value of a measure among feasible evaluations within every (measure, upper); None where there is none.

    Best is the smallest value, or the largest where the problem maximises that measure.
    """
    sign = next((o.sign for o in problem.objectives if o.measure == measure), 1.0)
    values = [
        sign * e.measures[measure]
        for e in _feasible(problem, evaluations, step)
        if measure in e.measures and all(e.measures.get(name, np.inf) <= upper for name, upper in budgets)
    ]
    return sign * min(values) if values else None


def kendall_tau(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Kendall's tau-b of two samples (N,) in O(N log^2 N), with a 95 % interval.

    Interval: Fisher's z with variance 0.437 / (N - 4) (Fieller, Hartley and Pearson 1957); it is (-1, 1) below N = 5.
    At |tau| = 1 it is drawn as if half a pair disagreed. Positions where either value is not finite are left out.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"both samples must be 1-D and equally long, but got shapes={a.shape, b.shape}; pass pairs")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = _dense(a[both]), _dense(b[both])
    n = len(a)
    tau = _tau_b(a, b)
    if not np.isfinite(tau) or n < 5:
        return Agreement(tau, -1.0, 1.0, n)
    resolution = 1.0 - 1.0 / (n * (n - 1))
    centre = np.arctanh(np.clip(tau, -resolution, resolution))
    half = Z_95 * np.sqrt(0.437 / (n - 4))
    return Agreement(tau, min(tau, float(np.tanh(centre - half))), max(tau, float(np.tanh(centre + half))), n)


def step_agreement(
    evaluations: Sequence[Evaluation], lower_step: str, upper_step: str, lower_measure: str, upper_measure: str
) -> Agreement:
    """Kendall's tau between two fidelity steps over the candidates that both measured, joined by id."""
    lower = _measured(evaluations, lower_step, lower_measure)
    upper = _measured(evaluations, upper_step, upper_measure)
    ids = sorted(lower.keys() & upper.keys())
    return kendall_tau(np.array([lower[i] for i in ids]), np.array([upper[i] for i in ids]))


def _measured(evaluations: Iterable[Evaluation], step: str, measure: str) -> dict[str, float]:
    return {e.candidate.id: e.measures[measure] for e in measured_at(evaluations, step, measure)}


def measured_at(evaluations: Iterable[Evaluation], step: str, measure: str) -> list[Evaluation]:
    """Evaluations whose measure at a step compares with that of others: not what step 1 predicts beyond a tuned network."""
    completed = (e for e in evaluations if e.completed and e.candidate.step == step and measure in e.measures)
    return [e for e in completed if step != STEP1 or not e.candidate.predecessor]


def _dense(sample: np.ndarray) -> np.ndarray:
    return np.asarray(np.unique(sample, return_inverse=True)[1])


def _tau_b(a: np.ndarray, b: np.ndarray) -> float:
    """Knight's (1966) count: order by (a, b); the inversions left in b are the discordant pairs."""
    pairs = len(a) * (len(a) - 1) / 2
    tied_a, tied_b = _tied_pairs(a), _tied_pairs(b)
    tied_both = _tied_pairs(a * (len(b) + 1) + b)
    scale = np.sqrt((pairs - tied_a) * (pairs - tied_b))
    if scale == 0:
        return float("nan")
    discordant = _inversions(b[np.lexsort((b, a))])
    return float(np.clip((pairs - tied_a - tied_b + tied_both - 2 * discordant) / scale, -1.0, 1.0))


def _tied_pairs(codes: np.ndarray) -> float:
    counts = np.unique(codes, return_counts=True)[1].astype(float)
    return float((counts * (counts - 1) / 2).sum())


def _inversions(codes: np.ndarray) -> int:
    """Pairs i < j with codes[i] > codes[j], for codes in 0 .. N - 1: merge sort, all blocks of a level at once."""
    n, total, width = len(codes), 0, 1
    keys = codes.astype(np.int64)
    position = np.arange(n)
    while width < n:
        block = position // (2 * width)
        keyed = block * n + keys
        right = (position // width) % 2 == 1
        left_keys = keyed[~right]
        left_ends = np.searchsorted(left_keys, (block[right] + 1) * n)
        total += int((left_ends - np.searchsorted(left_keys, keyed[right], side="right")).sum())
        keys = np.sort(keyed) - block * n
        width *= 2
    return total
