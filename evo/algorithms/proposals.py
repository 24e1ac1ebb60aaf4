"""New genomes: how algorithms start, vary what they have, avoid what they have seen, and number the result."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from evo.candidates import Batch, Candidate
from evo.variation.operators import Crossover, Mutation
from search_spaces.genome import Genome, SearchSpace

Array = np.ndarray
Rng = np.random.Generator

PATIENCE = 20  # proposals looked at per genome wanted, before an already seen one is proposed again


class Proposal(NamedTuple):
    genome: Genome
    parents: tuple[str, ...] = ()


class HasGenome(Protocol):
    @property
    def genome(self) -> Genome: ...


ProposalT = TypeVar("ProposalT", bound=HasGenome)


class Variable(Protocol):
    """What variation needs to know of a space, or of a part of one."""

    @property
    def cardinalities(self) -> tuple[int, ...]: ...
    @property
    def ordinal(self) -> tuple[bool, ...]: ...
    def repair(self, genome: Sequence[int]) -> Genome: ...


class Variation(NamedTuple):
    """Crossover with probability `crossover_rate` per pair of parents, then mutation of every child."""

    crossover: Crossover
    crossover_rate: float
    mutation: Mutation
    mutation_rate: float | None


Mating = Callable[[int], Array]


def samples(space: SearchSpace, rng: Rng) -> Iterator[Proposal]:
    """Random genomes without end."""
    while True:
        yield Proposal(space.sample(rng))


def starts(space: SearchSpace, rng: Rng) -> Iterator[Proposal]:
    """The anchors of the space, then random genomes without end."""
    return chain(map(Proposal, space.anchors()), samples(space, rng))


def children(
    space: Variable, rng: Rng, parents: Sequence[Candidate], mate: Mating, variation: Variation
) -> Iterator[Proposal]:
    """Repaired children of the parents without end; `mate(n)` gives n indices of parents."""
    codes = np.array([p.genome for p in parents], dtype=np.int64)
    pairs = max(1, len(parents) // 2)
    while True:
        first, second = mate(pairs), mate(pairs)
        crossed, bred = _breed(space, rng, codes[first], codes[second], variation)
        both = (_twice(first, second), _twice(second, first), _twice(crossed, crossed), bred)
        for own, other, mixed, code in zip(*both, strict=True):
            lineage = (parents[own].id, parents[other].id) if mixed and own != other else (parents[own].id,)
            yield Proposal(space.repair(code.tolist()), lineage)


def _twice(first: Array, second: Array) -> Array:
    return np.concatenate([first, second])


def _breed(space: Variable, rng: Rng, a: Array, b: Array, variation: Variation) -> tuple[Array, Array]:
    """Which pairs were crossed (P,), and their mutated children (2 P, L)."""
    crossed = rng.random(len(a)) < variation.crossover_rate
    child_a, child_b = variation.crossover(rng, a, b)
    both = np.concatenate([np.where(crossed[:, None], child_a, a), np.where(crossed[:, None], child_b, b)])
    limits, ordinal = np.array(space.cardinalities), np.array(space.ordinal, dtype=bool)
    return crossed, variation.mutation(rng, both, limits, ordinal, variation.mutation_rate)


def fresh(proposals: Iterable[ProposalT], seen: Container[Genome], count: int) -> list[ProposalT]:
    """The first `count` genomes not seen before and not equal to one another.

    Where too few turn up among PATIENCE x count proposals, seen ones fill the rest.
    """
    known: set[Genome] = set()
    new: list[ProposalT] = []
    old: list[ProposalT] = []
    for proposal in islice(proposals, PATIENCE * count):
        genome = proposal.genome
        (old if genome in known or genome in seen else new).append(proposal)
        known.add(genome)
        if len(new) == count:
            break
    return (new + old)[:count]


def numbered(proposals: Sequence[Proposal], generation: int, step: str) -> Batch:
    """The batch of a generation, with ids "GGGG-IIII"."""
    return Batch(
        tuple(
            Candidate(f"{generation:04d}-{index:04d}", generation, p.genome, step, p.parents)
            for index, p in enumerate(proposals)
        )
    )


def genomes(batch: Batch) -> list[Genome]:
    return [c.genome for c in batch.candidates]
