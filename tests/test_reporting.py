"""From a real (toy) search to displays and trackers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy import PROBLEM, ToySpace, begin, search

from evo.archive import pareto_front
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Status
from evo.loop.observers import Standing
from evo.problem import Problem
from evo.storage.columns import Archive
from evo.views.display import LiveDisplay, NoDisplay, PlainDisplay, display
from evo.views.progress import Listener, Progress, SearchInfo
from evo.views.reporting import FidelityPair, Summary, View, reports

INFO = SearchInfo("toy", "runs/toy")
BOUNDED = Problem(PROBLEM.space, PROBLEM.objectives, reference=(7.0, 40.0))
VIEW = View(BOUNDED, STEP2, FidelityPair(STEP1, "guess", STEP2, "error"), budgets=(("size", 25.0),))


class Recorder:
    def __init__(self) -> None:
        self.rounds: list[Progress] = []
        self.calls: list[str] = []

    def on_start(self, info: SearchInfo) -> None:
        self.calls.append("start")

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.calls.append("evaluation")

    def on_round(self, progress: Progress) -> None:
        self.rounds.append(progress)

    def on_end(self, progress: Progress, status: str) -> None:
        self.calls.append(status)


class Raising(NoDisplay):
    def on_round(self, progress: Progress) -> None:
        raise OSError("the pipe is closed")


def watched(path: Path, listeners: Sequence[Listener]) -> tuple[Evaluation, ...]:
    return search(begin(path), observers=reports(VIEW, INFO, listeners))


def test_progress_sums_up_the_archive(tmp_path: Path) -> None:
    recorder = Recorder()
    evaluations = watched(tmp_path, [recorder])
    last = recorder.rounds[-1]
    assert [p.generation for p in recorder.rounds] == [0, 1, 2, 3]
    assert (last.evaluations, last.scored) == (24, 24)
    assert last.failed == sum(not e.completed for e in evaluations)
    assert [p.candidate_id for p in last.front] == [e.candidate.id for e in pareto_front(PROBLEM, evaluations, STEP2)]
    assert all(p.plan == ToySpace().decode(ToySpace().repair(_genome(evaluations, p.candidate_id))) for p in last.front)
    volumes = [p.hypervolume for p in recorder.rounds]
    assert volumes == sorted(volumes)
    assert volumes[0] > 0
    assert last.best_under_budget["error"] == min(
        e.measures["error"]
        for e in evaluations
        if e.candidate.step == STEP2 and e.completed and e.measures["size"] <= 25
    )
    assert last.tau_low <= last.tau <= last.tau_high
    assert (last.done, last.seconds_left) == (1.0, 0.0)
    assert recorder.calls.count("evaluation") == len(evaluations)
    assert recorder.calls[-1] == "finished"


def _genome(evaluations: Sequence[Evaluation], candidate_id: str) -> tuple[int, ...]:
    return next(e.candidate.genome for e in evaluations if e.candidate.id == candidate_id)


def test_a_listener_that_fails_is_dropped_alone(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.warns(RuntimeWarning, match="the pipe is closed"):
        watched(tmp_path, [Raising(), recorder])
    assert len(recorder.rounds) == 4


def test_worker_use_counts_worker_time_only() -> None:
    def row(i: int, worker: str, seconds: float) -> Evaluation:
        candidate = Candidate(f"c{i}", 0, (i,) * 6, STEP2)
        return Evaluation(candidate, Status.COMPLETED, {"error": 1.0, "size": 1.0}, seconds=seconds, worker=worker)

    rows = (row(0, "worker-0", 4.0), row(1, "worker-1", 2.0), row(2, "driver", 9.0), row(3, "memory", 9.0))
    summary = Summary(View(BOUNDED, workers=2))
    assert math.isnan(summary.progress(Standing(0, -1, 0.0)).worker_use)
    assert summary.progress(Standing(1, 0, 6.0, Archive.of(rows))).worker_use == pytest.approx(0.5)


def test_plain_display_prints_a_line_per_generation_and_the_end(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = display(console=Console(file=out, width=40))
    assert isinstance(shown, PlainDisplay)
    watched(tmp_path, [shown])
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines[1:]] == [f"generation {g}" for g in range(4)]
    assert "hypervolume" in lines[1]
    assert lines[-1].endswith("finished")


def test_live_display_restores_the_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = display(console=Console(file=out, force_terminal=True, width=100, color_system=None))
    assert isinstance(shown, LiveDisplay)
    watched(tmp_path, [shown])
    text = out.getvalue()
    assert "hypervolume" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is visible again


def test_quiet_display_prints_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    watched(tmp_path, [display(quiet=True, console=Console(file=out))])
    assert out.getvalue() == ""


def test_unknown_numbers_are_left_out() -> None:
    known = Progress(2, 4, 10, 0, 30.0, np.nan).metrics()
    assert "tau" not in known
    assert "hypervolume" not in known
    assert known["evaluations"] == 10
