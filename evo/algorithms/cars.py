"""Continuous evolution on shared weights (CARS: Yang et al. 2020): weights and population are both carried on.

Every generation trains the shared weights on the population, evaluates it again together with its offspring on the new weights,
and keeps the best by `evo.selection.protected`. A batch therefore holds parents under new ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from evo.algorithms.population import check_shares, check_sizes, contenders
from evo.algorithms.proposals import PATIENCE, Proposal, fresh, numbered, samples, starts
from evo.archive import objective_values, violations
from evo.candidates import STEP2, Batch, Candidate, Evaluation
from evo.problem import Problem
from evo.randomness import stream
from evo.selection.protected import SECOND_SORTS, protected_survival
from search_spaces.genome import Blocked, Genome, SearchSpace

Rng = np.random.Generator


@dataclass(frozen=True)
class CarsState:
    seed: int
    asked: int = 0
    generation: int = 0
    population: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class Cars:
    """`expand` x population children a generation: mutants, crossovers, and random genomes for the rest (a half, in the paper and
    its code). Parents are drawn evenly. Genes move in the blocks of the space (a node of a cell; else single genes): crossover
    takes each block from the other parent, mutation from a fresh random genome, with probability `swap_rate`.

    The first objective is the error, the others are costs. switch_at: the generation at which `second_sort: two_stage` turns
    from its first stage to the second.
    """

    problem: Problem
    population: int = 16
    expand: float = 1.0
    mutation_share: float = 0.25
    crossover_share: float = 0.25
    swap_rate: float = 0.5
    second_sort: str = "inverse_size"
    switch_at: int = 10
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population, children=round(self.expand * self.population))
        check_shares(
            mutation_share=self.mutation_share,
            crossover_share=self.crossover_share,
            swap_rate=self.swap_rate,
            mutation_and_crossover_share=self.mutation_share + self.crossover_share,
        )
        if self.second_sort not in SECOND_SORTS:
            raise ValueError(
                f"second_sort must be one of {', '.join(SECOND_SORTS)}, but got second_sort={self.second_sort!r}; choose one"
            )
        if len(self.problem.objectives) < 2:
            names = [o.measure for o in self.problem.objectives]
            raise ValueError(f"cars needs an error and a cost, but got objectives={names}; add a cost such as macs")

    def init(self, seed: int) -> CarsState:
        return CarsState(seed)

    def trained_on(self, state: CarsState) -> tuple[Genome, ...]:
        return tuple(e.candidate.genome for e in state.population)

    def ask(self, state: CarsState) -> tuple[Batch, CarsState]:
        rng, space = stream(state.seed, "cars", state.asked), self.problem.space
        if state.population:
            proposals = [Proposal(e.candidate.genome, (e.candidate.id,)) for e in state.population]
            known = {p.genome for p in proposals}
            children = islice(
                self._children(space, rng, [e.candidate for e in state.population]), PATIENCE * self.population
            )
            proposals += fresh(children, known, round(self.expand * self.population))
        else:
            proposals = fresh(samples(space, rng) if state.asked else starts(space, rng), (), self.population)
        batch = numbered(proposals, state.asked, self.step)
        trained = self.trained_on(state) or tuple(c.genome for c in batch.candidates)
        return replace(batch, train_on=trained), replace(state, asked=state.asked + 1)

    def tell(self, state: CarsState, evaluations: Sequence[Evaluation]) -> CarsState:
        pool = contenders(self.problem, evaluations)
        told = replace(state, generation=state.generation + 1)
        if not pool:
            return told
        values, excess = objective_values(self.problem, pool), violations(self.problem, pool)
        late = state.generation >= self.switch_at
        speeds = learning_speeds(self.problem, state.population, pool)
        kept = protected_survival(values, excess, speeds, self.population, self.second_sort, late)
        return replace(told, population=tuple(pool[i] for i in kept))

    def _children(self, space: SearchSpace, rng: Rng, parents: Sequence[Candidate]) -> Iterator[Proposal]:
        blocks = space.blocks if isinstance(space, Blocked) else tuple((i,) for i in range(len(space.names)))
        while True:
            first, second = (parents[int(i)] for i in rng.integers(0, len(parents), 2))
            kind, stranger = rng.random(), space.sample(rng)
            if kind < self.mutation_share:
                yield Proposal(space.repair(mixed(rng, first.genome, stranger, blocks, self.swap_rate)), (first.id,))
            elif kind < self.mutation_share + self.crossover_share:
                child = mixed(rng, first.genome, second.genome, blocks, self.swap_rate)
                yield Proposal(space.repair(child), tuple(dict.fromkeys((first.id, second.id))))
            else:
                yield Proposal(stranger)


def mixed(rng: Rng, a: Genome, b: Genome, blocks: Sequence[Sequence[int]], rate: float) -> list[int]:
    """`a`, with each block of genes taken from `b` with this probability."""
    child = list(a)
    for block, taken in zip(blocks, rng.random(len(blocks)) < rate, strict=True):
        for at in block if taken else ():
            child[at] = b[at]
    return child


def learning_speeds(problem: Problem, before: Sequence[Evaluation], now: Sequence[Evaluation]) -> np.ndarray:
    """By how much the error of each fell since the version before, float64 (N,). What was not measured then has the mean of its
    parents, or the median of all that were."""
    errors = {e.candidate.genome: problem.values(e)[0] for e in before}
    genomes = {e.candidate.id: e.candidate.genome for e in before}
    known = {
        e.candidate.genome: errors[e.candidate.genome] - problem.values(e)[0]
        for e in now
        if e.candidate.genome in errors
    }
    usual = float(np.median(list(known.values()))) if known else 0.0

    def speed(evaluation: Evaluation) -> float:
        candidate = evaluation.candidate
        if candidate.genome in known:
            return float(known[candidate.genome])
        parents = [known[genomes[p]] for p in candidate.parents if genomes.get(p) in known]
        return float(np.mean(parents)) if parents else usual

    return np.array([speed(e) for e in now])
