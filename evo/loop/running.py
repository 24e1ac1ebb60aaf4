"""Sums over a growing archive that read every evaluation once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo.archive import Agreement, kendall_tau, measured_at, pareto_front
from evo.candidates import Evaluation
from evo.digests import DigestMap, as_keys, of_text
from evo.loop.observers import Standing
from evo.problem import Problem


class RunningFront:
    """`pareto_front` of a search at a step, from the front before and what is new.

    Evaluations of one genome with equal weights must be equal, which the search's memory sees to.
    """

    def __init__(self, problem: Problem, step: str) -> None:
        self._problem, self._step = problem, step
        self._front: tuple[Evaluation, ...] = ()
        self._read = 0

    def update(self, standing: Standing) -> tuple[Evaluation, ...]:
        for part in standing.since(self._read):
            if self._superseded_by(part):  # what a member dominated with its old weights may come back
                self._front = pareto_front(self._problem, standing.evaluations, self._step)
                break
            self._front = pareto_front(self._problem, (*self._front, *part), self._step)
        self._read = len(standing.evaluations)
        return self._front

    def _superseded_by(self, evaluations: Sequence[Evaluation]) -> bool:
        known = {e.candidate.genome: e.weights_version for e in self._front}
        newer = (e for e in evaluations if e.weights_version and e.candidate.step == self._step)
        return any(e.weights_version > known.get(e.candidate.genome, e.weights_version) for e in newer)


class RunningAgreement:
    """`step_agreement` of a growing archive: a number per candidate and step is kept."""

    def __init__(self, lower_step: str, lower_measure: str, upper_step: str, upper_measure: str) -> None:
        self._of_lower, self._of_upper = (lower_step, lower_measure), (upper_step, upper_measure)
        self._lower, self._upper = DigestMap(), DigestMap()

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        self._lower = _with(self._lower, evaluations, *self._of_lower)
        self._upper = _with(self._upper, evaluations, *self._of_upper)

    @property
    def value(self) -> Agreement:
        both, lower = self._lower.find(self._upper.keys)
        return kendall_tau(lower, self._upper.values[both])


def _with(known: DigestMap, evaluations: Sequence[Evaluation], step: str, measure: str) -> DigestMap:
    found = measured_at(evaluations, step, measure)
    keys = as_keys(of_text(e.candidate.id) for e in found)
    return known.plus(keys, np.array([e.measures[measure] for e in found], dtype=float))
