"""Random search: the baseline every other algorithm has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evo.algorithms.population import check_sizes
from evo.algorithms.proposals import fresh, genomes, numbered, samples, starts
from evo.candidates import STEP2, Batch, Evaluation
from evo.digests import GenomeSet
from evo.problem import Problem
from evo.randomness import stream


@dataclass(frozen=True)
class RandomState:
    seed: int
    asked: int = 0
    generation: int = 0
    seen: GenomeSet = GenomeSet()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class RandomSearch:
    """Anchors first, then samples of the space, `population` at a time."""

    problem: Problem
    population: int = 40
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population)

    def init(self, seed: int) -> RandomState:
        return RandomState(seed)

    def steady(self) -> tuple[RandomSearch, int]:
        return replace(self, population=1), self.population

    def ask(self, state: RandomState) -> tuple[Batch, RandomState]:
        rng = stream(state.seed, "proposals", state.asked)
        source = samples(self.problem.space, rng) if state.asked else starts(self.problem.space, rng)
        batch = numbered(fresh(source, state.seen, self.population), state.asked, self.step)
        return batch, replace(state, asked=state.asked + 1, seen=state.seen.plus(genomes(batch)))

    def tell(self, state: RandomState, evaluations: Sequence[Evaluation]) -> RandomState:
        return replace(state, generation=state.generation + 1)
