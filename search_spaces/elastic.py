"""The part of a compression space that shared weights can serve."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from search_spaces.genes import CriterionGene, WidthGene
from search_spaces.space import CompressionSpace


def without_widths(space: CompressionSpace, groups: Collection[str]) -> CompressionSpace:
    """The space in which these channel groups stay whole. Raises ValueError where no gene is left."""
    genes = tuple(g for g in space.genes if not (isinstance(g, WidthGene | CriterionGene) and g.group in groups))
    if not any(gene.cardinality > 1 for gene in genes):
        raise ValueError(
            f"an elastic supernet must have something to choose, but got a space whose widths all belong to the groups "
            f"{', '.join(sorted(groups))}, which must stay whole; allow bits or skipped blocks, or search without a supernet"
        )
    return replace(space, genes=genes)


def largest(space: CompressionSpace) -> tuple[int, ...]:
    """The genome of the uncompressed network."""
    return space.anchors()[0]


def narrowest(space: CompressionSpace) -> tuple[int, ...]:
    """The genome with the fewest channels, everything else uncompressed: the lower bound of the sandwich rule."""
    codes = [0 if isinstance(g, WidthGene) else code for g, code in zip(space.genes, largest(space), strict=True)]
    return space.repair(codes)
