"""A generational genetic algorithm with elitism and feasibility rules, for one objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo.algorithms.population import Breeding, PopulationState, check_shares, check_sizes, contenders, propose
from evo.algorithms.proposals import Variation
from evo.archive import objective_values, violations
from evo.candidates import STEP2, Batch, Evaluation
from evo.pareto import constrained_ranks
from evo.problem import Problem
from evo.registry import CROSSOVERS, MUTATIONS, resolve


@dataclass(frozen=True)
class GA:
    """Feasible before infeasible, these by violation (Deb 2000): the `elites` best live on, offspring fill the rest."""

    problem: Problem
    population: int = 40
    elites: int = 2
    crossover: str = "uniform"
    crossover_rate: float = 0.9
    mutation: str = "step"
    mutation_rate: float | None = None
    random_share: float = 0.05
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population, elites=self.elites)
        check_shares(
            crossover_rate=self.crossover_rate, mutation_rate=self.mutation_rate or 0.0, random_share=self.random_share
        )
        if len(self.problem.objectives) != 1:
            names = [o.measure for o in self.problem.objectives]
            raise ValueError(f"ga needs one objective, but got objectives={names}; constrain the others or use nsga2")

    def init(self, seed: int) -> PopulationState:
        return PopulationState(seed)

    def ask(self, state: PopulationState) -> tuple[Batch, PopulationState]:
        variation = Variation(
            resolve(CROSSOVERS, self.crossover),
            self.crossover_rate,
            resolve(MUTATIONS, self.mutation),
            self.mutation_rate,
        )
        breeding = Breeding(self.population, self.population, self.random_share, variation, self.step)
        return propose(self.problem, breeding, state)

    def tell(self, state: PopulationState, evaluations: Sequence[Evaluation]) -> PopulationState:
        pool = contenders(self.problem, state.population, evaluations)
        ranks = constrained_ranks(objective_values(self.problem, pool), violations(self.problem, pool))
        order = np.argsort(ranks, kind="stable")
        elite, told = np.zeros(len(pool), dtype=bool), {e.candidate.key for e in evaluations}
        elite[order[: self.elites]] = True
        young = np.array([e.candidate.key in told for e in pool], dtype=bool)
        kept = np.lexsort((ranks, ~young, ~elite))[: self.population]
        return replace(state, generation=state.generation + 1, population=tuple(pool[i] for i in kept))
