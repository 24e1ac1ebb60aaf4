"""A small search space and analytic problems whose Pareto fronts are known, for tests of algorithms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo.algorithm import AnyAlgorithm
from evo.candidates import STEP1, STEP2, Batch, Candidate, Evaluation, Status
from evo.pareto import hypervolume
from evo.problem import Objective, Problem
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan


@dataclass(frozen=True)
class Grid:
    """Genes of any cardinality, every other one categorical. Where the first gene is 0 the last one has no effect."""

    cardinalities: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"gene{i}" for i in range(len(self.cardinalities)))

    @property
    def ordinal(self) -> tuple[bool, ...]:
        return tuple(i % 2 == 0 for i in range(len(self.cardinalities)))

    @property
    def digest(self) -> str:
        return hashlib.blake2b(repr(self.cardinalities).encode(), digest_size=8).hexdigest()

    def sample(self, rng: np.random.Generator) -> Genome:
        return self.repair([int(rng.integers(0, c)) for c in self.cardinalities])

    def anchors(self) -> tuple[Genome, ...]:
        return (self.repair([c - 1 for c in self.cardinalities]), (0,) * len(self.cardinalities))

    def validate(self, genome: Sequence[int]) -> None:
        if tuple(genome) != self.repair(genome) or len(genome) != len(self.cardinalities):
            raise ValueError(f"a genome must be canonical, but got genome={tuple(genome)}; repair it")

    def repair(self, genome: Sequence[int]) -> Genome:
        legal = [min(max(0, int(g)), c - 1) for g, c in zip(genome, self.cardinalities, strict=True)]
        return (*legal[:-1], 0 if legal[0] == 0 else legal[-1])

    def decode(self, genome: Genome) -> CompressionPlan:
        return CompressionPlan()


SPACE = Grid((7, 3, 6, 4, 5, 2, 8, 3, 6, 4, 5, 3))


def error(genome: Genome, space: Grid = SPACE) -> float:
    """Falls with every gene, by less the larger it is; some genes matter more than others."""
    share = np.array(genome) / (np.array(space.cardinalities) - 1)
    weight = np.linspace(1.0, 4.0, len(share)) % 1.7 + 0.2
    return float(((1 - share) ** 2 * weight).sum() / weight.sum())


def cost(genome: Genome, space: Grid = SPACE) -> float:
    """Rises with every gene, by amounts unrelated to what it does for the error."""
    share = np.array(genome) / (np.array(space.cardinalities) - 1)
    weight = np.linspace(4.0, 1.0, len(share)) % 1.3 + 0.2
    return float((share * weight).sum() / weight.sum())


def surrogate(genome: Genome) -> float:
    """Ranks like the error but for noise that belongs to the genome, in a unit of its own."""
    noise = int(hashlib.blake2b(repr(genome).encode(), digest_size=4).hexdigest(), 16) / 2**32
    return float(np.exp(5 * error(genome)) * (0.8 + 0.4 * noise))


TWO = Problem(SPACE, (Objective("error"), Objective("cost")), reference=(1.0, 1.0))
ONE = Problem(SPACE, (Objective("weighted"),), reference=(2.0,))


def measure(candidate: Candidate) -> Evaluation:
    """All measures of the analytic problems."""
    e, c = error(candidate.genome), cost(candidate.genome)
    return Evaluation(candidate, Status.COMPLETED, {"error": e, "cost": c, "weighted": e + 0.7 * c})


def measure_step1(candidate: Candidate) -> Evaluation:
    measures = {"surrogate": surrogate(candidate.genome), "cost": cost(candidate.genome)}
    return Evaluation(candidate, Status.COMPLETED, measures)


def fail(candidate: Candidate) -> Evaluation:
    return Evaluation(candidate, Status.FAILED, reason="out of memory")


def evaluate(batch: Batch) -> list[Evaluation]:
    return [measure_step1(c) if c.step == STEP1 else measure(c) for c in batch.candidates]


Evaluate = Callable[[Batch], list[Evaluation]]


def run(
    algorithm: AnyAlgorithm, rounds: int, seed: int = 0, evaluate: Evaluate = evaluate, state: Any = None
) -> list[tuple[Batch, list[Evaluation], Any]]:
    """Every round's batch and evaluations, and the state after it."""
    state = algorithm.init(seed) if state is None else state
    history = []
    for _ in range(rounds):
        batch, asked = algorithm.ask(state)
        evaluations = evaluate(batch)
        state = algorithm.tell(asked, evaluations)
        history.append((batch, evaluations, state))
    return history


def reached(algorithm: AnyAlgorithm, problem: Problem, seed: int, budget: int) -> float:
    """Hypervolume of the first `budget` evaluations at step 2."""
    state, found = algorithm.init(seed), []
    while len(found) < budget:
        batch, asked = algorithm.ask(state)
        evaluations = evaluate(batch)
        state = algorithm.tell(asked, evaluations)
        found += [problem.values(e) for e in evaluations if e.candidate.step == STEP2]
    return hypervolume(np.array(found[:budget]), problem.reference)
