"""What spaces of integer codes have in common: one gene per place of the genome."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Generic, Protocol, TypeVar


class CodedGene(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def cardinality(self) -> int: ...
    @property
    def ordinal(self) -> bool: ...


G = TypeVar("G", bound=CodedGene)


class CodedSpace(Generic[G]):
    """A space whose genome holds one allele of every gene, in their order."""

    genes: tuple[G, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(gene.name for gene in self.genes)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        return tuple(gene.cardinality for gene in self.genes)

    @cached_property
    def ordinal(self) -> tuple[bool, ...]:
        return tuple(gene.ordinal for gene in self.genes)

    def validate(self, genome: Sequence[int]) -> None:
        """Raises ValueError for a genome of another length or with an allele out of range."""
        if len(genome) != len(self.genes):
            raise ValueError(
                f"a genome of this space must have {len(self.genes)} genes, but got {len(genome)}; was it made elsewhere?"
            )
        for code, gene in zip(genome, self.genes, strict=True):
            if not 0 <= code < gene.cardinality:
                raise ValueError(
                    f"0 <= allele < {gene.cardinality} must hold for gene {gene.name}, but got allele={code}; correct the genome"
                )
