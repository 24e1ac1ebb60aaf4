"""Two populations: who is paired with whom, both kinds of fitness, and a search that stops in the middle of a turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toy import INFO, ToySpace, rows

from cluster.local import LocalBackend
from evo.algorithms.coevolution import Coevolution
from evo.algorithms.parts import parts_of
from evo.candidates import Batch, Candidate, Evaluation, Status
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.problem import Constraint, Objective, Problem
from evo.storage.run_directory import RunDirectory
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan


class Uncoupled(ToySpace):
    """No gene of one half decides over one of the other."""

    def repair(self, genome: Sequence[int]) -> Genome:
        return tuple(genome)


PROBLEM = Problem(Uncoupled(), (Objective("error"), Objective("size")))
HALVES = {"left": "layer[012]", "right": "layer[345]"}


def score(candidate: Candidate) -> Evaluation:
    """Each half has a target of its own, and loses where the other one's sum is odd; error and size as in a real search."""
    left, right = (np.array(half) for half in (candidate.genome[:3], candidate.genome[3:]))
    away = {
        "left": abs(left - (1, 2, 3)).sum() + right.sum() % 2,
        "right": abs(right - (3, 2, 1)).sum() + left.sum() % 2,
    }
    fit = {name: 1 / (1 + distance) for name, distance in away.items()}
    measures = {f"fit_{name}": float(value) for name, value in fit.items()}
    measures |= {f"flat_{name}": float(10 + value) for name, value in fit.items()}
    measures |= {f"joint_{name}": float(1 / (1 + sum(away.values()))) for name in away}
    alone = {f"alone_{name}": float(half.sum()) for name, half in (("left", left), ("right", right))}
    size = float(left.sum() + right.sum())
    return Evaluation(candidate, Status.COMPLETED, {**measures, **alone, "error": 1 / (1 + size), "size": size})


def played(algorithm: Coevolution, turns: int, seed: int = 5) -> list[tuple[Batch, list[Evaluation]]]:
    state, history = algorithm.init(seed), []
    for _ in range(turns):
        batch, asked = algorithm.ask(state)
        evaluations = [score(c) for c in batch.candidates]
        state = algorithm.tell(asked, evaluations)
        history.append((batch, evaluations))
    return history


def by_fitness(**settings: object) -> Coevolution:
    return Coevolution(
        PROBLEM,
        population=12,
        parts=HALVES,
        fitness_measure="fit",
        first_measure="alone",
        **settings,  # type: ignore[arg-type]
    )


def half(candidate: Candidate, role: str) -> tuple[int, ...]:
    return candidate.genome[:3] if role == "left" else candidate.genome[3:]


def test_populations_take_turns_and_everyone_meets_the_best_of_the_other_part() -> None:
    history = played(by_fitness(), 8)
    assert [{c.role for c in batch.candidates} for batch, _ in history] == [{"left"}, {"right"}] * 4
    assert [batch.candidates[0].generation for batch, _ in history] == [0, 0, 1, 1, 2, 2, 3, 3]
    for turn in range(2, 8):
        before = history[turn - 1][1]
        other = before[0].candidate.role
        name = f"alone_{other}" if turn == 2 else f"fit_{other}"
        best = max(before, key=lambda e: e.measures[name])
        for candidate in history[turn][0].candidates:
            (opponent,) = candidate.opponents
            met = next(e for e in before if e.candidate.id == opponent)
            assert met.measures[name] == best.measures[name]
            assert half(candidate, other) == half(met.candidate, other)


@pytest.mark.parametrize("alone", [1, 3])
def test_the_first_generations_have_no_partner(alone: int) -> None:
    history = played(by_fitness(alone=alone), 2 * alone + 2)
    for batch, _ in history[: 2 * alone]:
        assert all(c.opponents == () for c in batch.candidates)
        assert all(half(c, "right" if c.role == "left" else "left") == (3, 3, 3) for c in batch.candidates[1:])
    assert all(c.opponents for batch, _ in history[2 * alone :] for c in batch.candidates)


def test_the_best_pair_never_gets_worse_under_a_fitness_of_the_pair() -> None:
    for seed in range(5):
        algorithm = dataclasses.replace(by_fitness(alone=2), fitness_measure="joint")
        bests = [max(e.measures["joint_left"] for e in told) for _, told in played(algorithm, 16, seed)]
        assert bests[4:] == sorted(bests[4:]) and bests[-1] > bests[4]


def test_the_best_of_a_population_lives_on_with_the_new_partner() -> None:
    history = played(by_fitness(), 8)
    for turn in range(2, 8):
        before, role = history[turn - 2][1], history[turn][0].candidates[0].role
        name = f"alone_{role}" if turn < 4 else f"fit_{role}"
        best = max(e.measures[name] for e in before)
        elite = history[turn][0].candidates[0]
        (kept,) = [e for e in before if e.candidate.id == elite.parents[0]]
        assert kept.measures[name] == best and half(elite, role) == half(kept.candidate, role)


def test_a_fitness_is_raised_within_the_constraints() -> None:
    free = played(by_fitness(), 40)[-1][1]
    assert max(e.measures["fit_right"] for e in free) == 1.0, "both reached their targets"
    problem = Problem(Uncoupled(), PROBLEM.objectives, (Constraint("size", 8.0),))
    bound = played(dataclasses.replace(by_fitness(), problem=problem), 40)
    best = min(e.measures["size"] for e in bound[-1][1])
    assert best <= 8.0


def test_tournaments_select_where_roulette_hardly_does() -> None:
    def reached(mating: str) -> float:
        algorithm = dataclasses.replace(by_fitness(mating=mating), fitness_measure="flat", first_measure="")
        lasts = [played(algorithm, 12, seed)[-1][1] for seed in range(4)]
        return float(np.mean([e.measures["fit_right"] for last in lasts for e in last]))

    assert reached("tournament") > reached("roulette") + 0.1
    with pytest.raises(
        ValueError, match="mating must be one of roulette, tournament, but got mating='lottery'; choose"
    ):
        by_fitness(mating="lottery")


def test_independent_parts_never_meet() -> None:
    for batch, _ in played(by_fitness(independent=True), 8):
        for candidate in batch.candidates[1:]:
            assert candidate.opponents == ()
            assert half(candidate, "right" if candidate.role == "left" else "left") == (3, 3, 3)


def test_without_fitness_partners_come_from_the_other_front() -> None:
    algorithm = Coevolution(PROBLEM, population=12, parts=HALVES)
    history = played(algorithm, 6)
    sizes = {
        next(e for e in history[turn - 1][1] + history[turn - 3][1] if e.candidate.id == c.opponents[0]).measures[
            "size"
        ]
        for turn in (3, 4, 5)
        for c in history[turn][0].candidates
        if any(e.candidate.id == c.opponents[0] for e in history[turn - 1][1] + history[turn - 3][1])
    }
    assert len(sizes) > 3, "one knee for everyone would leave the ends of the front alone"


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        ({"left": "layer[01]", "right": "layer[345]"}, "layer2 in none"),
        ({"all": "*", "b": "layer5"}, "layer5 in all, b"),
    ],
)
def test_parts_must_share_out_all_genes(patterns: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=f"exactly one of the parts .* but got gene {fault}; correct"):
        parts_of(ToySpace(), patterns)


@dataclass
class Stopping:
    """Scores plans of the toy space, and stops like a user after so many."""

    left: int

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        genome = tuple(bits.weight - 2 for bits in plan.bits)
        return dict(score(Candidate("", 0, genome, step)).measures)


def searched(path: Path, stops: Sequence[int], algorithm: Coevolution) -> list[dict[str, object]]:
    """All rows of a search that is begun again after each stop."""
    for at, stop in enumerate(stops):
        run = RunDirectory.open(str(path)) if at else RunDirectory.create(str(path), "toy: true\n", INFO)
        backend = LocalBackend(lambda stop=stop: Stopping(stop))  # type: ignore[misc]
        try:
            return rows(run_search(PROBLEM, algorithm, backend, {}, run, 7, Budget(3)))
        except KeyboardInterrupt:
            continue
    raise AssertionError("the search did not end")


@pytest.mark.parametrize("algorithm", [by_fitness(), Coevolution(PROBLEM, population=12, parts=HALVES)])
def test_a_search_stopped_within_either_turn_ends_as_if_it_had_not(algorithm: Coevolution, tmp_path: Path) -> None:
    """Twelve a turn: the stops fall into the first, second, third and fourth one."""
    whole = searched(tmp_path / "whole", [10_000], algorithm)
    stopped = searched(tmp_path / "stopped", [5, 13, 12, 10, 10_000], algorithm)
    assert {row["role"] for row in whole} == {"left", "right"} and len(whole) == 6 * 12
    assert stopped == whole
