"""From what the search loop reports (evaluations) to what displays and trackers show (front, hypervolume, tau)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from evo.archive import Agreement, best_under_budget, dominated_share
from evo.candidates import STEP2, Evaluation
from evo.front import FrontPoint, plan_summary
from evo.loop.memory import MEMORY
from evo.loop.observers import SearchObserver, Standing
from evo.loop.running import RunningAgreement, RunningFront
from evo.loop.scoring import DRIVER
from evo.problem import Problem
from evo.views.progress import Listener, Progress, SearchInfo

UNKNOWN = Agreement(math.nan, math.nan, math.nan, 0)


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


class Summary:
    """Sums up a search for a view; of every standing it reads only what is new since the last one."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._front = RunningFront(view.problem, view.step)
        self._pair = None if view.pair is None else RunningAgreement(*astuple(view.pair))
        self._points: dict[str, FrontPoint] = {}
        self._read = self._measured = self._failed = 0
        self._busy = 0.0
        self._best: dict[str, float] = {}
        self._last: tuple[Standing, Progress] | None = None

    def progress(self, standing: Standing) -> Progress:
        """The same answer for the same standing, however many ask."""
        if self._last is None or self._last[0] is not standing:
            for part in standing.since(self._read):
                self._add(part)
            self._read = len(standing.evaluations)
            self._last = (standing, self._summed_up(standing))
        return self._last[1]

    def _add(self, evaluations: Sequence[Evaluation]) -> None:
        view, (first, *_) = self._view, self._view.problem.objectives
        self._measured += sum(e.candidate.step == view.step for e in evaluations)
        self._failed += sum(not e.completed for e in evaluations)
        self._busy += sum(e.seconds for e in evaluations if e.worker not in (DRIVER, MEMORY))
        best = best_under_budget(view.problem, evaluations, view.step, first.measure, view.budgets)
        if best is not None:
            self._best = {first.measure: first.sign * min(first.sign * v for v in (best, *self._best.values()))}
        if self._pair:
            self._pair.add(evaluations)

    def _summed_up(self, standing: Standing) -> Progress:
        view, problem = self._view, self._view.problem
        front = self._front.update(standing)
        tau, low, high, _ = self._pair.value if self._pair else UNKNOWN
        self._points = {e.candidate.key: self._points.get(e.candidate.key) or _point(problem, e) for e in front}
        return Progress(
            generation=standing.generation,
            round=standing.round,
            evaluations=self._measured,
            scored=self._read - self._measured,
            failed=self._failed,
            seconds=standing.seconds,
            hypervolume=dominated_share(problem, front),
            best_under_budget=self._best,
            budget=view.budget,
            tau=tau,
            tau_low=low,
            tau_high=high,
            worker_use=self._worker_use(standing.seconds),
            done=standing.done,
            front=tuple(self._points.values()),
            reference=dict(zip((o.measure for o in problem.objectives), problem.reference, strict=False)),
        )

    def _worker_use(self, seconds: float) -> float:
        return min(1.0, self._busy / (self._view.workers * seconds)) if seconds > 0 else math.nan


def front_points(problem: Problem, evaluations: Iterable[Evaluation]) -> tuple[FrontPoint, ...]:
    """The evaluations as points with their plans, in the same order."""
    return tuple(_point(problem, evaluation) for evaluation in evaluations)


def reports(view: View, info: SearchInfo, listeners: Iterable[Listener]) -> tuple[SearchObserver, ...]:
    """An observer of the search loop per listener, so that one that fails is dropped alone."""
    summary = Summary(view)
    return tuple(_Report(summary, info, listener) for listener in listeners)


def _point(problem: Problem, evaluation: Evaluation) -> FrontPoint:
    candidate = evaluation.candidate
    plan = problem.space.decode(problem.space.repair(candidate.genome))
    names = [objective.measure for objective in problem.objectives]
    objectives = dict(zip(names, problem.values(evaluation).tolist(), strict=True))
    return FrontPoint(
        candidate.id, candidate.generation, candidate.step, objectives, evaluation.measures, plan, plan_summary(plan)
    )


@dataclass(frozen=True)
class _Report:
    summary: Summary
    info: SearchInfo
    listener: Listener

    def on_start(self, standing: Standing) -> None:
        self.listener.on_start(self.info)
        if standing.evaluations:
            self.listener.on_round(self.summary.progress(standing))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.listener.on_evaluation(evaluation)

    def on_round(self, standing: Standing) -> None:
        self.listener.on_round(self.summary.progress(standing))

    def on_end(self, standing: Standing, status: str) -> None:
        self.listener.on_end(self.summary.progress(standing), status)
