"""Parts of a genome that are searched by populations of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from search_spaces.genome import Genome, SearchSpace


@dataclass(frozen=True)
class Codes:
    """The genes of a part alone, to be joined with the rest before they are repaired."""

    cardinalities: tuple[int, ...]
    ordinal: tuple[bool, ...]

    def repair(self, genome: Sequence[int]) -> Genome:
        return tuple(int(code) for code in genome)


@dataclass(frozen=True)
class Part:
    """The genes of one population, as a space of its own for variation."""

    name: str
    space: SearchSpace
    genes: tuple[int, ...]

    @property
    def codes(self) -> Codes:
        cardinalities, ordinal = self.space.cardinalities, self.space.ordinal
        return Codes(tuple(cardinalities[gene] for gene in self.genes), tuple(ordinal[gene] for gene in self.genes))

    def of(self, genome: Genome) -> Genome:
        return tuple(genome[gene] for gene in self.genes)

    def joined(self, codes: Genome, rest: Genome) -> Genome:
        """The legal genome with these codes in this part and everything else from `rest`."""
        whole = np.array(rest)
        whole[list(self.genes)] = codes
        return self.space.repair(whole.tolist())


def parts_of(space: SearchSpace, patterns: Mapping[str, str]) -> tuple[Part, ...]:
    """The parts that patterns of gene names make; raises ValueError unless every gene belongs to exactly one of them."""
    length = len(space.names)
    if not patterns:
        return Part("first", space, tuple(range(length // 2))), Part("second", space, tuple(range(length // 2, length)))
    parts = tuple(
        Part(name, space, tuple(i for i, gene in enumerate(space.names) if fnmatchcase(gene, pattern)))
        for name, pattern in patterns.items()
    )
    for i, gene in enumerate(space.names):
        mine = [part.name for part in parts if i in part.genes]
        if len(mine) != 1:
            raise ValueError(
                f"every gene must belong to exactly one of the parts {', '.join(patterns)}, but got gene {gene} in "
                f"{', '.join(mine) or 'none'}; correct the patterns in algorithm.params.parts"
            )
    return parts
