"""TAS (Dong and Yang, NeurIPS 2019) as a search: candidates of a distribution over architectures that the weights learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo.algorithms.population import check_sizes
from evo.algorithms.proposals import fresh, numbered, samples, starts
from evo.candidates import STEP2, Batch, Evaluation
from evo.loop.preferences import Preference
from evo.problem import Problem
from evo.randomness import stream
from search_spaces.genome import Genome


@dataclass(frozen=True)
class TasState:
    seed: int
    asked: int = 0
    generation: int = 0


@dataclass(frozen=True)
class TAS:
    """Every generation trains the weights and their preferences further, then measures the most probable network and
    `population` - 1 drawn ones. Where a limit is set, they are repaired to meet it.

    What is asked for before the weights were trained are anchors and random genomes, which `follow` replaces; genes without a
    preference stay as in the least compressed network.
    """

    problem: Problem
    population: int = 4
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population)

    def init(self, seed: int) -> TasState:
        return TasState(seed)

    def trained_on(self, state: TasState) -> tuple[Genome, ...]:
        """None in particular: the weights draw by themselves."""
        return ()

    def ask(self, state: TasState) -> tuple[Batch, TasState]:
        rng, space = stream(state.seed, "tas", state.asked), self.problem.space
        source = samples(space, rng) if state.asked else starts(space, rng)
        batch = numbered(fresh(source, (), self.population), state.asked, self.step)
        trained = tuple(c.genome for c in batch.candidates)
        return replace(batch, train_on=trained), replace(state, asked=state.asked + 1)

    def follow(self, state: TasState, batch: Batch, preferences: Sequence[Preference]) -> Batch:
        rng, space = stream(state.seed, "tas preferences", state.asked), self.problem.space
        chosen = [[int(np.argmax(p.probabilities)) for p in preferences]]
        chosen += [[drawn(rng, p) for p in preferences] for _ in batch.candidates[1:]]
        genomes = [space.repair(self._genome(preferences, choices)) for choices in chosen]
        candidates = (replace(c, genome=genome) for c, genome in zip(batch.candidates, genomes, strict=True))
        return replace(batch, candidates=tuple(candidates))

    def tell(self, state: TasState, evaluations: Sequence[Evaluation]) -> TasState:
        return replace(state, generation=state.generation + 1)

    def _genome(self, preferences: Sequence[Preference], choices: Sequence[int]) -> list[int]:
        space = self.problem.space
        at = {name: index for index, name in enumerate(space.names)}
        full = [c - 1 if ordinal else 0 for c, ordinal in zip(space.cardinalities, space.ordinal, strict=True)]
        for preference, choice in zip(preferences, choices, strict=True):
            for gene, allele in zip(preference.genes, preference.alleles[choice], strict=True):
                full[at[gene]] = allele
        return full


def drawn(rng: np.random.Generator, preference: Preference) -> int:
    chances = np.array(preference.probabilities)
    return int(rng.choice(len(chances), p=chances / chances.sum()))
