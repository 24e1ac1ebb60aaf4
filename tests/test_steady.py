"""Steady-state search: nobody waits for a generation, and a killed one goes on from all it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from test_search_loop import Killed, kill_at
from toy import PROBLEM, ToyEvaluator, begin

from cluster.local import LocalBackend
from cluster.worker import answer
from evo.algorithms.nsga import NSGA2
from evo.algorithms.random_search import RandomSearch
from evo.budget import Budget
from evo.candidates import Evaluation, Outcome, Request
from evo.checks import check
from evo.config import validate
from evo.steady import run_steady
from evo.storage import RunDirectory


def keys(evaluations: Sequence[Evaluation]) -> list[str]:
    return [e.candidate.key for e in evaluations]


def steady(
    run: RunDirectory, evaluations: int, backend: object = None, algorithm: object = None
) -> tuple[Evaluation, ...]:
    algorithm = algorithm or NSGA2(PROBLEM, population=6)
    backend = backend or LocalBackend(ToyEvaluator)
    return run_steady(PROBLEM, algorithm, backend, run, 7, Budget(evaluations=evaluations))  # type: ignore[arg-type]


class Crowd:
    """Workers of different speed: the last of three to begin is the first to finish. Counts who was idle."""

    def __init__(self, workers: int = 3) -> None:
        self.workers, self.at_work, self.started = workers, list[Request](), list[str]()

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        while new := [*more(self.workers - len(self.at_work)), *self.at_work]:
            self.started += [r.key for r in new if r not in self.at_work]
            *self.at_work, done = sorted(new, key=lambda r: r.key)
            yield answer(ToyEvaluator(), done, 1, "crowd")

    def close(self) -> None: ...


def test_every_evaluation_is_told_at_once_and_counted_once(tmp_path: Path) -> None:
    crowd = Crowd()
    archive = steady(begin(tmp_path), 40, crowd)
    assert len(archive) == len(set(keys(archive))) == 40
    assert sorted(crowd.started) == sorted(set(crowd.started)), "nothing is evaluated twice"
    assert RunDirectory.open(str(tmp_path)).latest().rounds == 7, "a commit per 6 evaluations, and one at the end"
    late = [e for e in archive if e.candidate.generation > 20]
    assert late and all(e.candidate.parents for e in late if e.candidate.parents)


@pytest.mark.parametrize("workers", [3])
def test_killed_at_every_change_it_loses_nothing_and_counts_nothing_twice(tmp_path: Path, workers: int) -> None:
    for moment in range(10_000):
        folder, done = tmp_path / str(moment), False
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                steady(begin(folder), 14, Crowd(workers))
                done = True
            except Killed:
                pass
        had = {e.candidate.key: e for e in begin(folder).evaluations()}
        archive = steady(begin(folder), 14, Crowd(workers))
        assert len(archive) == len(set(keys(archive))) == 14, moment
        found = {e.candidate.key: e for e in archive}
        assert all(found[key] == evaluation for key, evaluation in had.items()), moment
        if done:
            break
    assert moment > 20


def test_with_one_worker_it_is_the_same_search_however_often_it_is_interrupted(tmp_path: Path) -> None:
    whole = steady(begin(tmp_path / "whole"), 30)
    for limit in (4, 11, 12, 29, 30):
        parts = steady(begin(tmp_path / "parts"), limit)
    assert [e.candidate for e in parts] == [e.candidate for e in whole]


def test_a_generation_of_the_budget_is_as_many_evaluations_as_the_population(tmp_path: Path) -> None:
    algorithm = RandomSearch(PROBLEM, population=5)
    archive = run_steady(PROBLEM, algorithm, LocalBackend(ToyEvaluator), begin(tmp_path), 7, Budget(generations=3))
    assert len(archive) == 15


def test_an_algorithm_of_rounds_is_refused() -> None:
    values = {"model": {"factory": "resnet20"}, "data": {"factory": "digits"}, "execution": {"asynchronous": True}}
    with pytest.raises(
        ValueError, match=r"one candidate at a time, but got algorithm.name='two_step'; set it to nsga2"
    ):
        check(validate(values), ["top1_error", "macs", "size_bytes"])
    check(validate({**values, "algorithm": {"name": "nsga2"}}), ["top1_error", "macs", "size_bytes"])
