"""The genotype: a tuple of allele indices, and what every search space must offer to an algorithm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from search_spaces.plan import CompressionPlan

Genome = tuple[int, ...]


@lru_cache(maxsize=2**14)
def genome_digest(genome: Genome) -> str:
    """Content digest of a genome: 16 hexadecimal digits, equal on every platform."""
    return hashlib.blake2b(",".join(map(str, genome)).encode(), digest_size=8).hexdigest()


class SearchSpace(Protocol):
    """An ordered set of genes. Algorithms see codes and cardinalities only; evaluators see plans only.

    `names[i]`, `cardinalities[i]` and `ordinal[i]` describe gene i: allele indices run from 0 to `cardinalities[i] - 1`;
    an ordinal gene has neighbouring alleles that mean similar things (widths, bits), a categorical one has not.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def cardinalities(self) -> tuple[int, ...]: ...
    @property
    def ordinal(self) -> tuple[bool, ...]: ...
    @property
    def digest(self) -> str:
        """Changes whenever a genome of the old space would mean something else."""

    def sample(self, rng: np.random.Generator) -> Genome:
        """A random legal genome, drawn so that a population covers the whole cost range."""

    def anchors(self) -> tuple[Genome, ...]:
        """Known good starts; the first is the uncompressed network, or what a limit leaves of it."""

    def validate(self, genome: Sequence[int]) -> None:
        """Raise ValueError in one sentence unless the genome is legal."""

    def repair(self, genome: Sequence[int]) -> Genome:
        """The canonical legal genome of any code: idempotent; equal phenotypes give equal genomes."""

    def decode(self, genome: Genome) -> CompressionPlan: ...


@runtime_checkable
class Blocked(Protocol):
    """A space some of whose genes only mean something together, such as inputs and operations of a node."""

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the genes that move together; every gene is in one block."""
