"""What the population-based algorithms share: their state, their proposals, and who takes part in survival."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np

from evo.algorithms.proposals import Proposal, Variation, children, fresh, genomes, numbered, samples, starts
from evo.archive import objective_values, violations
from evo.candidates import Batch, Evaluation
from evo.digests import GenomeSet
from evo.pareto import constrained_ranks, crowding_by_rank
from evo.problem import Problem
from evo.randomness import stream
from evo.selection.survival import tournament
from search_spaces.genome import Genome


@dataclass(frozen=True)
class PopulationState:
    """`asked` batches were handed out and `generation` of them came back; `seen` holds the digests of all genomes."""

    seed: int
    asked: int = 0
    generation: int = 0
    population: tuple[Evaluation, ...] = ()
    seen: GenomeSet = GenomeSet()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Breeding:
    """How many to propose: `size` at the start, then `offspring` a generation, a share of them random."""

    size: int
    offspring: int
    random_share: float
    variation: Variation
    step: str


def propose(problem: Problem, breeding: Breeding, state: PopulationState) -> tuple[Batch, PopulationState]:
    """Anchors and samples at first (and whenever everything failed), then children of binary tournaments."""
    rng = stream(state.seed, "proposals", state.asked)
    count = breeding.offspring if state.asked else breeding.size
    if state.asked == 0:
        source: Iterator[Proposal] = starts(problem.space, rng)
    elif not state.population:
        source = samples(problem.space, rng)
    else:
        source = _bred(problem, breeding, state.population, rng)
    batch = numbered(fresh(source, state.seen, count), state.asked, breeding.step)
    return batch, replace(state, asked=state.asked + 1, seen=state.seen.plus(genomes(batch)))


def _bred(
    problem: Problem, breeding: Breeding, population: Sequence[Evaluation], rng: np.random.Generator
) -> Iterator[Proposal]:
    """Some random genomes, then children; random ones again if the children are all known already."""
    values = objective_values(problem, population)
    ranks = constrained_ranks(values, violations(problem, population))
    mate = partial(tournament, rng, ranks, crowding_by_rank(values, ranks))
    bred = children(problem.space, rng, [e.candidate for e in population], mate, breeding.variation)
    unrelated = samples(problem.space, rng)
    immigrants = islice(unrelated, round(breeding.random_share * breeding.offspring))
    return chain(immigrants, islice(bred, 10 * breeding.offspring), unrelated)


def contenders(problem: Problem, *groups: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Everyone who can survive: completed with all objectives, one per genome; later groups replace earlier ones.

    So an evaluation that is told again, better known, replaces the old one, and one that failed then removes it. Within
    a group the order does not matter.
    """
    latest: dict[Genome, Evaluation] = {}
    for group in groups:
        for e in sorted(group, key=lambda e: e.candidate.key):
            latest[e.candidate.genome] = e
    members = tuple(latest.values())
    complete = np.isfinite(problem.matrix(members)).all(axis=1)
    return tuple(e for e, fine in zip(members, complete, strict=True) if fine)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless every named size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, but got {name}={size}; give a positive number")


def check_counts(**counts: int) -> None:
    """Raise ValueError unless every named number is at least 0."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must be at least 0, but got {name}={count}; give 0 to switch it off")


def check_shares(**shares: float) -> None:
    """Raise ValueError unless every named probability or share is within 0 .. 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be within 0 and 1, but got {name}={share}; give a share of one")
