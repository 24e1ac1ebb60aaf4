"""MetaPruning's evolution (Liu et al., ICCV 2019, section 3.3): the best of all time, mutated and crossed, under a hard limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from evo.algorithms.population import PopulationState, check_shares, check_sizes, contenders
from evo.algorithms.proposals import PATIENCE, Proposal, fresh, genomes, numbered
from evo.archive import objective_values, violations
from evo.candidates import STEP2, Batch, Candidate, Evaluation
from evo.digests import GenomeSet
from evo.pareto import constrained_ranks
from evo.problem import Problem
from evo.randomness import stream
from evo.variation.feasible_space import Limited
from evo.variation.operators import flip_mutation, uniform_crossover
from search_spaces.genome import Genome

Rng = np.random.Generator


@dataclass(frozen=True)
class MetaPruning:
    """Every generation `mutation_share` x population mutants of the `parents` best so far (a gene changes with probability
    `mutation_rate`, and never stays as it was), crossovers of two of them for the rest, and random genomes where too few of both
    are new. Random genomes draw every gene evenly.

    A genome over the limits of the space is drawn again, as in the authors' code; where hardly any are within, it is repaired.
    """

    problem: Problem
    population: int = 50
    parents: int = 10
    mutation_share: float = 0.5
    mutation_rate: float = 0.1
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population, parents=self.parents)
        check_shares(mutation_share=self.mutation_share, mutation_rate=self.mutation_rate)
        if len(self.problem.objectives) != 1:
            names = [o.measure for o in self.problem.objectives]
            raise ValueError(
                f"metapruning needs one objective, but got objectives={names}; make the others constraints, or use nsga2"
            )

    def init(self, seed: int) -> PopulationState:
        return PopulationState(seed)

    def ask(self, state: PopulationState) -> tuple[Batch, PopulationState]:
        rng = stream(state.seed, "metapruning", state.asked)
        if not state.asked:
            proposals = _new(map(Proposal, self.problem.space.anchors()), state.seen, self.population)
        else:
            proposals = self._children(rng, [e.candidate for e in state.population], state.seen)
        missing = self.population - len(proposals)
        proposals += fresh(self._within(rng, _evenly), state.seen.plus(p.genome for p in proposals), missing)
        batch = numbered(proposals, state.asked, self.step)
        return batch, replace(state, asked=state.asked + 1, seen=state.seen.plus(genomes(batch)))

    def tell(self, state: PopulationState, evaluations: Sequence[Evaluation]) -> PopulationState:
        pool = contenders(self.problem, state.population, evaluations)
        ranks = constrained_ranks(objective_values(self.problem, pool), violations(self.problem, pool))
        best = np.argsort(ranks, kind="stable")[: self.parents]
        return replace(state, generation=state.generation + 1, population=tuple(pool[i] for i in best))

    def _children(self, rng: Rng, parents: Sequence[Candidate], seen: GenomeSet) -> list[Proposal]:
        if not parents:
            return []
        mutants = round(self.mutation_share * self.population)
        found = _new(self._within(rng, lambda r, p: self._mutant(r, p, parents)), seen, mutants)
        if len(parents) < 2:
            return found
        seen = seen.plus(p.genome for p in found)
        return found + _new(self._within(rng, lambda r, p: _crossed(r, parents)), seen, self.population - mutants)

    def _mutant(self, rng: Rng, problem: Problem, parents: Sequence[Candidate]) -> Proposal:
        parent, space = parents[int(rng.integers(len(parents)))], problem.space
        limits, ordinal = np.array(space.cardinalities), np.array(space.ordinal, dtype=bool)
        (code,) = flip_mutation(rng, np.array([parent.genome]), limits, ordinal, self.mutation_rate)
        return Proposal(tuple(code.tolist()), (parent.id,))

    def _within(self, rng: Rng, draw: Callable[[Rng, Problem], Proposal]) -> Iterator[Proposal]:
        """What `draw` gives, again and again, within the limits."""
        space = self.problem.space
        while True:
            drawn = (draw(rng, self.problem) for _ in range(PATIENCE))
            if isinstance(space, Limited):
                drawn = (p._replace(genome=space.space.repair(p.genome)) for p in drawn)
                found = next((p for p in drawn if space.within(p.genome)), None) or draw(rng, self.problem)
            else:
                found = next(drawn)
            yield found._replace(genome=space.repair(found.genome))


def _evenly(rng: Rng, problem: Problem) -> Proposal:
    return Proposal(tuple(int(code) for code in rng.integers(0, problem.space.cardinalities)))


def _crossed(rng: Rng, parents: Sequence[Candidate]) -> Proposal:
    first, second = (parents[int(i)] for i in rng.choice(len(parents), 2, replace=False))
    child, _ = uniform_crossover(rng, np.array([first.genome]), np.array([second.genome]))
    return Proposal(tuple(child[0].tolist()), (first.id, second.id))


def _new(proposals: Iterator[Proposal], seen: GenomeSet, count: int) -> list[Proposal]:
    """Up to so many genomes that are neither in `seen` nor equal to one another."""
    found: dict[Genome, Proposal] = {}
    for proposal in islice(proposals, PATIENCE * count):
        if proposal.genome not in seen:
            found.setdefault(proposal.genome, proposal)
        if len(found) == count:
            break
    return list(found.values())
