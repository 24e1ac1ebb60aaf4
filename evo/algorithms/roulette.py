"""The genetic algorithm of evolutionary compression (TEC; CCG by the same authors): roulette, elites, one operator per child."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evo.algorithms.population import PopulationState, check_shares, check_sizes
from evo.algorithms.proposals import Proposal, fresh, genomes, numbered, starts
from evo.candidates import STEP2, Batch, Evaluation
from evo.digests import GenomeSet
from evo.problem import Problem
from evo.randomness import stream
from evo.registry import CROSSOVERS, FITNESS, MUTATIONS, resolve
from evo.selection.fitness import Fitness
from evo.selection.survival import roulette
from search_spaces.genome import Genome, SearchSpace

INITIAL = ("sampled", "uniform")


@dataclass(frozen=True)
class RouletteGA:
    """Every generation holds the `elites` fittest, then children of parents drawn in proportion to fitness until it is full: with
    probability `copy_rate` a copy, with `crossover_rate` both children of a pair, else one mutant (Wang et al., arXiv 1707.08005;
    rates 0.2, 0.7, 0.1 in the authors' CCG code). The first generation is the anchors and random genomes, or, as there, genomes
    whose alleles are all equally likely (`initial: uniform`). Copies and elites are asked for again, which costs nothing: what
    was evaluated once is remembered.
    """

    problem: Problem
    population: int = 32
    elites: int = 1
    fitness: str | Fitness = "rank"
    fitness_params: Mapping[str, float] = field(default_factory=dict)
    copy_rate: float = 0.2
    crossover_rate: float = 0.7
    crossover: str = "two_point"
    mutation: str = "flip"
    mutation_rate: float | None = None
    initial: str = "sampled"
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population)
        check_shares(
            copy_rate=self.copy_rate, crossover_rate=self.crossover_rate, mutation_rate=self.mutation_rate or 0.0
        )
        if self.copy_rate + self.crossover_rate > 1:
            raise ValueError(
                "copy_rate + crossover_rate must be at most 1, since the rest are mutants, but got "
                f"copy_rate={self.copy_rate} and crossover_rate={self.crossover_rate}; lower one of them"
            )
        if not 0 <= self.elites < max(2, self.population):
            raise ValueError(f"0 <= elites < population must hold, but got elites={self.elites}; lower it")
        if self.initial not in INITIAL:
            raise ValueError(
                f"initial must be one of {', '.join(INITIAL)}, but got initial={self.initial!r}; correct it"
            )
        self._form()

    def init(self, seed: int) -> PopulationState:
        return PopulationState(seed)

    def ask(self, state: PopulationState) -> tuple[Batch, PopulationState]:
        rng = stream(state.seed, "proposals", state.asked)
        if state.population:
            proposals = [*self._best(state.population), *self._children(rng, state.population)]
        else:
            source = starts(self.problem.space, rng) if self.initial == "sampled" else _uniform(self.problem.space, rng)
            proposals = fresh(source, state.seen, self.population)
        batch = numbered(proposals[: self.population], state.asked, self.step)
        seen = GenomeSet() if state.population else state.seen.plus(genomes(batch))
        return batch, replace(state, asked=state.asked + 1, seen=seen)

    def tell(self, state: PopulationState, evaluations: Sequence[Evaluation]) -> PopulationState:
        """A new generation takes the place of the old one; what is told again later, better known, only corrects it."""
        told = sorted(evaluations, key=lambda e: e.candidate.key)
        young = tuple(e for e in told if e.candidate.id.startswith(f"{state.asked - 1:04d}-"))
        if state.generation < state.asked and young:
            return replace(state, generation=state.asked, population=self._complete(young))
        known: dict[Genome, Evaluation] = {e.candidate.genome: e for e in told}
        corrected = tuple(
            replace(known[e.candidate.genome], candidate=e.candidate) if e.candidate.genome in known else e
            for e in state.population
        )
        return replace(state, population=self._complete(corrected))

    def scale(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """The fitness of each evaluation (N,)."""
        return self._form()(self.problem, evaluations)

    def _form(self) -> Fitness:
        if not isinstance(self.fitness, str):
            return self.fitness
        made: Fitness = resolve(FITNESS, self.fitness)(**self.fitness_params)
        return made

    def _complete(self, evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
        complete = np.isfinite(self.problem.matrix(evaluations)).all(axis=1)
        return tuple(e for e, fine in zip(evaluations, complete, strict=True) if fine)

    def _best(self, population: Sequence[Evaluation]) -> Iterator[Proposal]:
        order = np.argsort(-self.scale(population), kind="stable")
        return (_copy(population[i]) for i in order[: self.elites])

    def _children(self, rng: np.random.Generator, population: Sequence[Evaluation]) -> list[Proposal]:
        space, fitness = self.problem.space, self.scale(population)
        limits, ordinal = np.array(space.cardinalities), np.array(space.ordinal, dtype=bool)
        cross, mutate = resolve(CROSSOVERS, self.crossover), resolve(MUTATIONS, self.mutation)
        made: list[Proposal] = []
        while len(made) < self.population:
            chance = rng.random()
            first, second = (population[i] for i in roulette(rng, fitness, 2))
            a, b = (np.array([e.candidate.genome], dtype=np.int64) for e in (first, second))
            if chance < self.copy_rate:
                made.append(_copy(first))
            elif chance < self.copy_rate + self.crossover_rate:
                lineage = tuple(dict.fromkeys((first.candidate.id, second.candidate.id)))
                made += [Proposal(space.repair(child[0].tolist()), lineage) for child in cross(rng, a, b)]
            else:
                mutant = mutate(rng, a, limits, ordinal, self.mutation_rate)[0]
                made.append(Proposal(space.repair(mutant.tolist()), (first.candidate.id,)))
        return made


def _copy(evaluation: Evaluation) -> Proposal:
    return Proposal(evaluation.candidate.genome, (evaluation.candidate.id,))


def _uniform(space: SearchSpace, rng: np.random.Generator) -> Iterator[Proposal]:
    """Every allele as likely as any other, without end."""
    while True:
        yield Proposal(space.repair(rng.integers(0, space.cardinalities).tolist()))
