"""NSGA-II (Deb et al. 2002) and NSGA-III (Deb and Jain 2014) as elitist mu + lambda over integer codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from evo.algorithms.population import Breeding, PopulationState, check_shares, check_sizes, contenders, propose
from evo.algorithms.proposals import Variation
from evo.archive import objective_values, violations
from evo.candidates import STEP2, Batch, Evaluation
from evo.problem import Problem
from evo.randomness import stream
from evo.registry import CROSSOVERS, MUTATIONS, SELECTIONS, resolve


@dataclass(frozen=True)
class NSGA:
    """Crossover, mutation and selection are names of their registry tables; a mutation rate of None means 1 / L."""

    problem: Problem
    population: int = 40
    offspring: int | None = None
    selection: str = "nsga2"
    crossover: str = "uniform"
    crossover_rate: float = 0.9
    mutation: str = "step"
    mutation_rate: float | None = None
    random_share: float = 0.05
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population, offspring=self.population if self.offspring is None else self.offspring)
        check_shares(
            crossover_rate=self.crossover_rate, mutation_rate=self.mutation_rate or 0.0, random_share=self.random_share
        )

    def init(self, seed: int) -> PopulationState:
        return PopulationState(seed)

    def steady(self) -> tuple[NSGA, int]:
        """As a steady-state algorithm (mu + 1)."""
        return replace(self, offspring=1), self.population

    def ask(self, state: PopulationState) -> tuple[Batch, PopulationState]:
        return propose(self.problem, self._breeding(), state)

    def tell(self, state: PopulationState, evaluations: Sequence[Evaluation]) -> PopulationState:
        pool = contenders(self.problem, state.population, evaluations)
        survive = resolve(SELECTIONS, self.selection)
        rng = stream(state.seed, "survival", state.generation)
        kept = survive(objective_values(self.problem, pool), violations(self.problem, pool), self.population, rng)
        return replace(state, generation=state.generation + 1, population=tuple(pool[i] for i in kept))

    def _breeding(self) -> Breeding:
        variation = Variation(
            resolve(CROSSOVERS, self.crossover),
            self.crossover_rate,
            resolve(MUTATIONS, self.mutation),
            self.mutation_rate,
        )
        return Breeding(
            self.population,
            self.population if self.offspring is None else self.offspring,
            self.random_share,
            variation,
            self.step,
        )


NSGA2 = partial(NSGA, selection="nsga2")
NSGA3 = partial(NSGA, selection="nsga3")
