"""From what the search loop reports (evaluations) to what displays and trackers show (front, hypervolume, tau)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evo.archive import best_under_budget, dominated_share, pareto_front, step_agreement
from evo.candidates import STEP2, Evaluation
from evo.front import FrontPoint, plan_summary
from evo.loop.generations import DRIVER, MEMORY
from evo.loop.observers import SearchObserver, Standing
from evo.problem import Problem
from evo.views.progress import Listener, Progress, SearchInfo


@dataclass(frozen=True)
class FidelityPair:
    """The two steps whose agreement is reported, and the measure compared at each."""

    lower_step: str
    lower_measure: str
    upper_step: str
    upper_measure: str


@dataclass(frozen=True)
class View:
    """How a search is summed up: the front at `step`, the best within `budgets` of (measure, upper), named `budget`."""

    problem: Problem
    step: str = STEP2
    pair: FidelityPair | None = None
    workers: int = 1
    budgets: tuple[tuple[str, float], ...] = ()
    budget: str = ""

    def progress(self, standing: Standing) -> Progress:
        rows = standing.evaluations
        front = pareto_front(self.problem, rows, self.step)
        measured = sum(e.candidate.step == self.step for e in rows)
        tau, low, high = self._agreement(rows)
        return Progress(
            generation=standing.generation,
            round=standing.round,
            evaluations=measured,
            scored=len(rows) - measured,
            failed=sum(not e.completed for e in rows),
            seconds=standing.seconds,
            hypervolume=dominated_share(self.problem, front),
            best_under_budget=self._best(rows),
            budget=self.budget,
            tau=tau,
            tau_low=low,
            tau_high=high,
            worker_use=_worker_use(rows, self.workers, standing.seconds),
            done=standing.done,
            front=front_points(self.problem, front),
            reference=dict(zip((o.measure for o in self.problem.objectives), self.problem.reference, strict=False)),
        )

    def _best(self, rows: Sequence[Evaluation]) -> dict[str, float]:
        measure = self.problem.objectives[0].measure
        best = best_under_budget(self.problem, rows, self.step, measure, self.budgets)
        return {} if best is None else {measure: best}

    def _agreement(self, rows: Sequence[Evaluation]) -> tuple[float, float, float]:
        if self.pair is None:
            return math.nan, math.nan, math.nan
        pair = self.pair
        found = step_agreement(rows, pair.lower_step, pair.upper_step, pair.lower_measure, pair.upper_measure)
        return found.tau, found.low, found.high


def front_points(problem: Problem, evaluations: Iterable[Evaluation]) -> tuple[FrontPoint, ...]:
    """The evaluations as points with their plans, in the same order."""
    return tuple(_point(problem, evaluation) for evaluation in evaluations)


def reports(view: View, info: SearchInfo, listeners: Iterable[Listener]) -> tuple[SearchObserver, ...]:
    """An observer of the search loop per listener, so that one that fails is dropped alone."""
    summary = _Summary(view)
    return tuple(_Report(summary, info, listener) for listener in listeners)


def _point(problem: Problem, evaluation: Evaluation) -> FrontPoint:
    candidate = evaluation.candidate
    plan = problem.space.decode(problem.space.repair(candidate.genome))
    names = [objective.measure for objective in problem.objectives]
    objectives = dict(zip(names, problem.values(evaluation).tolist(), strict=True))
    return FrontPoint(
        candidate.id, candidate.generation, candidate.step, objectives, evaluation.measures, plan, plan_summary(plan)
    )


def _worker_use(rows: Iterable[Evaluation], workers: int, seconds: float) -> float:
    busy = sum(e.seconds for e in rows if e.worker not in (DRIVER, MEMORY))
    return min(1.0, busy / (workers * seconds)) if seconds > 0 else math.nan


class _Summary:
    """Sums up a standing once, however many listeners ask."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last: tuple[Standing, Progress] | None = None

    def __call__(self, standing: Standing) -> Progress:
        if self._last is None or self._last[0] is not standing:
            self._last = (standing, self._view.progress(standing))
        return self._last[1]


@dataclass(frozen=True)
class _Report:
    summary: _Summary
    info: SearchInfo
    listener: Listener

    def on_start(self, standing: Standing) -> None:
        self.listener.on_start(self.info)
        if standing.evaluations:
            self.listener.on_round(self.summary(standing))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.listener.on_evaluation(evaluation)

    def on_round(self, standing: Standing) -> None:
        self.listener.on_round(self.summary(standing))

    def on_end(self, standing: Standing, status: str) -> None:
        self.listener.on_end(self.summary(standing), status)
