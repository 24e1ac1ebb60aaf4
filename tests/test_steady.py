"""Steady-state search: nobody waits for a generation, and a killed one goes on from all it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_search_loop import Killed, kill_at
from toy import PROBLEM, ToyEvaluator, begin

from cluster.local import LocalBackend
from cluster.worker import answer
from evo.algorithms.nsga import NSGA2
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.two_step import TwoStep
from evo.archive import objective_values, pareto_front
from evo.candidates import STEP1, STEP2, Evaluation, Outcome, Request
from evo.config.checks import check
from evo.config.schema import validate
from evo.loop.budget import Budget
from evo.loop.steady import run_steady
from evo.pareto import hypervolume
from evo.storage.run_directory import RunDirectory


def keys(evaluations: Sequence[Evaluation]) -> list[str]:
    return [e.candidate.key for e in evaluations]


class Guess:
    """The size, and a number that rises with the error."""

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        return {"guess": -genomes.sum(axis=1) / 7.0, "size": genomes.sum(axis=1) + 12.0}


SCORERS = {STEP1: Guess()}
REFERENCE = (3.0, 30.0)


def plain() -> Any:
    return NSGA2(PROBLEM, population=6)


def two_step() -> Any:
    problem = replace(PROBLEM, reference=REFERENCE)
    return TwoStep(problem, NSGA2(problem, population=8), promote=6, surrogates={"error": "guess"}, cheap_rounds=2)


BOTH = pytest.mark.parametrize("made", [plain, two_step])


def steady(
    run: RunDirectory, evaluations: int, backend: object = None, made: Callable[[], Any] = plain
) -> tuple[Evaluation, ...]:
    """Measured evaluations, in order of completion."""
    backend, budget = backend or LocalBackend(ToyEvaluator), Budget(evaluations=evaluations)
    archive = run_steady(PROBLEM, made(), backend, run, 7, budget, scorers=SCORERS)  # type: ignore[arg-type]
    return tuple(e for e in archive if e.candidate.step == STEP2)


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


@BOTH
def test_every_evaluation_is_told_at_once_and_counted_once(tmp_path: Path, made: Callable[[], Any]) -> None:
    crowd = Crowd()
    archive = steady(begin(tmp_path), 40, crowd, made)
    assert len(archive) == len(set(keys(archive))) == 40
    assert sorted(crowd.started) == sorted(set(crowd.started)), "nothing is evaluated twice"
    assert RunDirectory.open(str(tmp_path)).latest().rounds == 7, "a commit per 6 evaluations, and one at the end"


def test_only_what_was_scored_is_measured_and_measurements_bring_new_candidates(tmp_path: Path) -> None:
    measured = steady(begin(tmp_path), 40, Crowd(), two_step)
    run = RunDirectory.open(str(tmp_path))
    scored = [e for e in run.evaluations() if e.candidate.step == STEP1]
    assert {e.candidate.id for e in measured} < {e.candidate.id for e in scored}
    assert len({e.candidate.genome for e in measured}) == 40, "a genome is measured once"
    assert {e.candidate.generation for e in measured} >= {0, 1, 2, 3, 4}


def test_measuring_what_is_expected_to_add_most_finds_more_than_the_inner_algorithm_alone(tmp_path: Path) -> None:
    def found(made: Callable[[], Any], seed: int) -> float:
        run, budget = begin(tmp_path / f"{made.__name__}{seed}"), Budget(evaluations=42)
        archive = run_steady(PROBLEM, made(), Crowd(), run, seed, budget, scorers=SCORERS)
        return hypervolume(objective_values(PROBLEM, pareto_front(PROBLEM, archive, STEP2)), np.array(REFERENCE))

    gains = [found(two_step, seed) - found(plain, seed) for seed in range(3)]
    assert sum(gains) > 1.0, gains


@BOTH
@pytest.mark.parametrize("workers", [3])
def test_killed_at_every_change_it_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, workers: int, made: Callable[[], Any]
) -> None:
    for moment in range(10_000):
        folder, done = tmp_path / str(moment), False
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                steady(begin(folder), 14, Crowd(workers), made)
                done = True
            except Killed:
                pass
        had = {e.candidate.key: e for e in begin(folder).evaluations() if e.candidate.step == STEP2}
        archive = steady(begin(folder), 14, Crowd(workers), made)
        assert len(archive) == len(set(keys(archive))) == 14, moment
        found = {e.candidate.key: e for e in archive}
        assert all(found[key] == evaluation for key, evaluation in had.items()), moment
        if done:
            break
    assert moment > 20


@BOTH
def test_with_one_worker_it_is_the_same_search_however_often_it_is_interrupted(
    tmp_path: Path, made: Callable[[], Any]
) -> None:
    whole = steady(begin(tmp_path / "whole"), 30, made=made)
    for limit in (4, 11, 12, 29, 30):
        parts = steady(begin(tmp_path / "parts"), limit, made=made)
    assert [e.candidate for e in parts] == [e.candidate for e in whole]


def test_a_generation_of_the_budget_is_as_many_evaluations_as_the_population(tmp_path: Path) -> None:
    algorithm = RandomSearch(PROBLEM, population=5)
    archive = run_steady(PROBLEM, algorithm, LocalBackend(ToyEvaluator), begin(tmp_path), 7, Budget(generations=3))
    assert len(archive) == 15


def test_an_algorithm_of_rounds_is_refused() -> None:
    values = {"model": {"factory": "resnet20"}, "data": {"factory": "digits"}, "execution": {"asynchronous": True}}
    rounds = {**values, "algorithm": {"name": "ga"}}
    with pytest.raises(ValueError, match=r"one candidate at a time, but got algorithm.name='ga'; set it to two_step"):
        check(validate(rounds), ["top1_error", "macs", "size_bytes"])
    rungs = {**values, "evaluation": {"rungs": [{}]}}
    with pytest.raises(ValueError, match=r"rungs compare candidates of one generation, but got evaluation.rungs with"):
        check(validate(rungs), ["top1_error", "macs", "size_bytes"])
    for name in ("two_step", "nsga2"):
        check(validate({**values, "algorithm": {"name": name}}), ["top1_error", "macs", "size_bytes"])
