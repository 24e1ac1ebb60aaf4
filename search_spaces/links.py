"""Where the alleles of a space's genes go in `Phenotypes`, and which genes mean something only together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from search_spaces.genes import (
    BLOCK,
    GROUP,
    LAYER,
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    Gene,
    MaskGene,
    RangeGene,
    SchemeGene,
    SparsityGene,
    WeightBitsGene,
    WidthGene,
)
from search_spaces.network import Network
from search_spaces.plan import FLOAT_BITS
from search_spaces.ranks import FactorChoice
from search_spaces.schemes import SchemeChoice

G = TypeVar("G")


@dataclass(frozen=True)
class Links:
    """Positions of the genes of one space, by what they decide."""

    network: Network
    genes: tuple[Gene, ...]

    def of(self, kind: type[G]) -> Iterator[tuple[int, G]]:
        """Genes of a kind with their positions."""
        return ((at, gene) for at, gene in enumerate(self.genes) if isinstance(gene, kind))

    @cached_property
    def columns(self) -> dict[str, dict[str, int]]:
        """Scope of a gene -> name of what it belongs to -> column in `Phenotypes`."""
        return {
            GROUP: {group.name: i for i, group in enumerate(self.network.groups)},
            LAYER: {layer.name: i for i, layer in enumerate(self.network.layers)},
            BLOCK: {block.name: i for i, block in enumerate(self.network.blocks)},
        }

    @cached_property
    def lookups(self) -> list[tuple[int, str, int, np.ndarray]]:
        """(gene, field of `Phenotypes`, its column, the field's value for every allele) of genes that need no other one."""
        return [
            (at, gene.field, self.columns[gene.scope][gene.place], gene.values)
            for at, gene in enumerate(self.genes)
            if gene.field
        ]

    @cached_property
    def factors(self) -> dict[int, FactorChoice]:
        layers = self.columns[LAYER]
        return {at: FactorChoice(self.network, layers[g.layer], g.options) for at, g in self.of(FactorGene)}

    @cached_property
    def sparsity(self) -> dict[int, int]:
        """Column of a layer -> its sparsity gene."""
        return {self.columns[LAYER][gene.layer]: at for at, gene in self.of(SparsityGene)}

    @cached_property
    def schemes(self) -> dict[int, tuple[int, int, SchemeChoice]]:
        """Scheme gene -> (the weight-bits gene that it serves, the layer's column, what both mean together)."""
        bits = {gene.layer: (at, gene.bits) for at, gene in self.of(WeightBitsGene)}
        found = {}
        for at, gene in self.of(SchemeGene):
            if gene.layer in bits:
                served, widths = bits[gene.layer]
                found[at] = (served, self.columns[LAYER][gene.layer], SchemeChoice(widths, gene.schemes))
        return found

    @cached_property
    def served(self) -> dict[int, int | None]:
        """Genes that mean nothing while another one is at its full allele: criterion of a width, range of activation bits."""
        widths = {gene.group: at for at, gene in self.of(WidthGene)}
        floats = {gene.layer: at for at, gene in self.of(ActivationBitsGene) if gene.bits[-1] == FLOAT_BITS}
        criteria = {at: widths.get(gene.group) for at, gene in self.of(CriterionGene)}
        return criteria | {at: floats[gene.layer] for at, gene in self.of(RangeGene) if gene.layer in floats}

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Channel group -> its mask genes, by unit."""
        found: dict[str, list[tuple[int, int]]] = {}
        for at, gene in self.of(MaskGene):
            for group in gene.places:
                found.setdefault(group, []).append((gene.unit, at))
        return {group: np.array([at for _, at in sorted(units)]) for group, units in found.items()}

    @cached_property
    def compensated(self) -> frozenset[str]:
        """Groups for whose lost channels the layers that read them make up."""
        widths = (gene.group for _, gene in self.of(WidthGene) if gene.compensate)
        codes = (group for _, gene in self.of(MaskGene) if gene.compensate for group in gene.places)
        return frozenset((*widths, *codes))

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Layer -> what its decomposition keeps close."""
        return {gene.layer: gene.metric for _, gene in self.of(FactorGene)}

    @cached_property
    def masked(self) -> dict[str, SparsityGene]:
        """Layer -> its sparsity gene, which says how the weights of a mask are chosen."""
        return {gene.layer: gene for _, gene in self.of(SparsityGene)}

    @cached_property
    def scheme_of(self) -> dict[str, int]:
        """Layer -> its scheme gene."""
        return {gene.layer: at for at, gene in self.of(SchemeGene) if at in self.schemes}

    @cached_property
    def ranges(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Layer -> its range gene and the rules that it chooses between."""
        return {gene.layer: (at, gene.rules) for at, gene in self.of(RangeGene)}
