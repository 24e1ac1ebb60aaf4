"""The costs of `search_spaces.costs` for a whole population by table look-ups: the same numbers, many times faster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod

import numpy as np

from search_spaces.costs import costs
from search_spaces.genes import BLOCK, GROUP, Gene, MaskGene, SkipGene, WidthGene
from search_spaces.network import Axis, Block, Layer, Network, Vector
from search_spaces.phenotype import Phenotypes, full
from search_spaces.space import CompressionSpace
from search_spaces.tables import Table, summed, tabulate

MOST_ENTRIES = 50_000  # of one table; what depends on more combinations is computed anew for every genome


@dataclass(frozen=True)
class Part:
    """Layers, vectors and blocks whose costs depend on the same genes (indices into the space)."""

    genes: frozenset[int]
    layers: tuple[Layer, ...] = ()
    vectors: tuple[Vector, ...] = ()
    blocks: tuple[Block, ...] = ()

    def joined(self, other: Part) -> Part:
        return Part(
            self.genes | other.genes,
            self.layers + other.layers,
            self.vectors + other.vectors,
            self.blocks + other.blocks,
        )


@dataclass(frozen=True)
class CostTables:
    """Costs of codes (N, genes) of one space; the tables are built when first used."""

    space: CompressionSpace

    def costs(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """The measures of `search_spaces.costs.costs`, each float64 (N,), without the peak of activations."""
        if self._masks:
            return self._of_counts.costs(self._counts(codes))
        total = summed(self._tables, codes, len(self._measures)) + self._fixed
        large = self._large_costs(self._large, codes) if self._large else {}
        return {name: total[:, i] + large.get(name, 0.0) for i, name in enumerate(self._measures)}

    @property
    def measures(self) -> tuple[str, ...]:
        return self._measures

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Tables over the genes of the space whose sum is the costs, up to a constant.

        Exact, except for parts too large for a table and for binary codes: these are linear around the uncompressed network.
        """
        if self._masks:
            return tuple(self._alone(gene, self.costs) for gene in range(len(self.space.genes)))
        rest = [
            self._alone(gene, partial(self._large_costs, [part for part in self._large if gene in part.genes]))
            for gene in sorted(frozenset().union(*(part.genes for part in self._large)))
        ]
        return (*self._tables, *rest)

    def _alone(self, gene: int, worth: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> Table:
        """What every allele of one gene alone changes."""
        codes = np.tile(np.array(self.space.full), (self.space.cardinalities[gene], 1))
        codes[:, gene] = np.arange(len(codes))
        values = np.stack(list(worth(codes).values()), axis=1)
        return Table((gene,), (len(codes),), values - values[self.space.full[gene]])

    def _large_costs(self, parts: Sequence[Part], codes: np.ndarray) -> dict[str, np.ndarray]:
        total = np.zeros((len(codes), len(self._measures)))
        for part in parts:
            sub = self._sub_space(part)
            total += _stacked(sub.network, sub.phenotypes(codes[:, sorted(part.genes)]))
        return {name: total[:, i] for i, name in enumerate(self._measures)}

    @cached_property
    def _masks(self) -> dict[str, list[int]]:
        """Mask genes by channel group."""
        found: dict[str, list[int]] = {}
        for at, gene in enumerate(self.space.genes):
            if isinstance(gene, MaskGene):
                for group in gene.places:
                    found.setdefault(group, []).append(at)
        return found

    @cached_property
    def _others(self) -> list[int]:
        return [at for at, gene in enumerate(self.space.genes) if not isinstance(gene, MaskGene)]

    @cached_property
    def _of_counts(self) -> CostTables:
        """Tables of the space in which a group has one gene, its number of channels, instead of a bit for each of them."""
        network = self.space.network
        widths = (WidthGene(name, tuple(range(network.group(name).size + 1))) for name in self._masks)
        return CostTables(CompressionSpace(network, (*(self.space.genes[at] for at in self._others), *widths)))

    def _counts(self, codes: np.ndarray) -> np.ndarray:
        counts = [codes[:, units].sum(axis=1) for units in self._masks.values()]
        return np.column_stack([codes[:, self._others], *counts])

    @cached_property
    def _measures(self) -> tuple[str, ...]:
        return tuple(costs(self.space.network, full(self.space.network, 1)))

    @cached_property
    def _fixed(self) -> np.ndarray:
        """Costs (1, measures) of what no gene changes."""
        network = _only(self.space.network, Part(frozenset()))
        whole = self.space.network
        constant = replace(network, fixed_parameters=whole.fixed_parameters, fixed_buffers=whole.fixed_buffers)
        return _stacked(constant, full(constant, 1))

    @cached_property
    def _tables(self) -> tuple[Table, ...]:
        return tuple(self._tabulated(part) for part in self._parts if not self._is_large(part))

    @cached_property
    def _large(self) -> tuple[Part, ...]:
        return tuple(part for part in self._parts if self._is_large(part))

    def _tabulated(self, part: Part) -> Table:
        sub = self._sub_space(part)
        return tabulate(
            tuple(sorted(part.genes)),
            self.space.cardinalities,
            lambda alleles: _stacked(sub.network, sub.phenotypes(alleles)),
        )

    def _sub_space(self, part: Part) -> CompressionSpace:
        genes = tuple(self.space.genes[g] for g in sorted(part.genes))
        return CompressionSpace(_only(self.space.network, part), genes)

    def _is_large(self, part: Part) -> bool:
        return prod(self.space.cardinalities[gene] for gene in part.genes) > MOST_ENTRIES

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """Every layer, vector and block once; what needs no more genes than a part before it joins that part."""
        found: list[Part] = []
        for part in sorted(_pieces(self.space), key=lambda piece: -len(piece.genes)):
            at = next((i for i, known in enumerate(found) if part.genes <= known.genes), None)
            if at is None:
                found.append(part)
            else:
                found[at] = found[at].joined(part)
        return tuple(found)


def genes_of_layer(space: CompressionSpace, layer: Layer) -> frozenset[int]:
    """The genes (without criteria) that change what a layer is: its own, those of its channel groups and of its block."""
    return _touching(space, layer.name, (layer.in_axis, layer.out_axis))


def _pieces(space: CompressionSpace) -> Iterator[Part]:
    for layer in space.network.layers:
        yield Part(genes_of_layer(space, layer), layers=(layer,))
    for vector in space.network.vectors:
        yield Part(_touching(space, vector.name, (vector.axis,)), vectors=(vector,))
    for block in space.network.blocks:
        mine = (i for i, gene in enumerate(space.genes) if isinstance(gene, SkipGene) and gene.block == block.name)
        yield Part(frozenset(mine), blocks=(block,))


def _touching(space: CompressionSpace, name: str, axes: Sequence[Axis]) -> frozenset[int]:
    groups = {group for axis in axes for group, _ in axis.terms}
    blocks = {block.name for block in space.network.blocks if name in (*block.layers, *block.vectors)}
    return frozenset(i for i, gene in enumerate(space.genes) if _concerns(gene, name, groups, blocks))


def _concerns(gene: Gene, name: str, groups: Collection[str], blocks: Collection[str]) -> bool:
    concerned: Collection[str] = {GROUP: groups, BLOCK: blocks}.get(gene.scope, (name,))
    return gene.decides and any(place in concerned for place in gene.places)


def _only(network: Network, part: Part) -> Network:
    """The network with nothing but these layers, vectors and blocks, and the blocks around them without costs of their own."""
    mine = {layer.name for layer in part.layers} | {vector.name for vector in part.vectors}
    around = (b for b in network.blocks if b not in part.blocks and mine & {*b.layers, *b.vectors})
    hollow = tuple(replace(block, fixed_parameters=0, fixed_buffers=0) for block in around)
    return Network(part.layers, network.groups, part.vectors, (*part.blocks, *hollow), (), (), (), (), 0, 0)


def _stacked(network: Network, phenotypes: Phenotypes) -> np.ndarray:
    return np.stack(list(costs(network, phenotypes).values()), axis=1)
