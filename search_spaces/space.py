"""The joint compression space of one network: genes, legal genomes, and what a genome means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from search_spaces.genes import (
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    Gene,
    SkipGene,
    WeightBitsGene,
    WidthGene,
    full_allele,
)
from search_spaces.genome import Genome
from search_spaces.network import Network
from search_spaces.phenotype import METHODS, Phenotypes, axis_sizes, full
from search_spaces.plan import FLOAT_BITS, Bits, CompressionPlan, Factor, Skip, Width
from search_spaces.ranks import ranks_for

LEVELS = (1.0, 0.75, 0.5, 0.25)  # anchors: shares of the way from the most to the least compressed allele


@dataclass(frozen=True)
class CompressionSpace:
    """Implements `SearchSpace` for the genes of one network. Deterministic: the same description gives the same digest."""

    network: Network
    genes: tuple[Gene, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(gene.name for gene in self.genes)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        return tuple(gene.cardinality for gene in self.genes)

    @cached_property
    def ordinal(self) -> tuple[bool, ...]:
        return tuple(gene.ordinal for gene in self.genes)

    @cached_property
    def digest(self) -> str:
        text = json.dumps([self.network.digest, [asdict(g) for g in self.genes]], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def _factor_genes(self) -> dict[int, int]:
        """Gene -> layer of every factor gene, as positions."""
        numbers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        return {i: numbers[gene.layer] for i, gene in enumerate(self.genes) if isinstance(gene, FactorGene)}

    @cached_property
    def _full(self) -> tuple[int, ...]:
        return tuple(full_allele(gene) for gene in self.genes)

    def sample(self, rng: np.random.Generator) -> Genome:
        """Each individual draws its own level per kind of gene, so that a population covers all compression rates."""
        levels: dict[type, float] = {kind: rng.uniform() for kind in (WidthGene, WeightBitsGene, ActivationBitsGene)}
        shares: dict[type, float] = {FactorGene: rng.uniform(0, 0.5), SkipGene: rng.uniform(0, 0.3), CriterionGene: 1.0}
        codes = []
        for gene in self.genes:
            if type(gene) in levels:
                at = levels[type(gene)] * (gene.cardinality - 1) + rng.normal(0, 0.15 * gene.cardinality)
                codes.append(int(np.clip(round(at), 0, gene.cardinality - 1)))
            else:
                change = rng.uniform() < shares[type(gene)]
                codes.append(int(rng.integers(0, gene.cardinality)) if change else full_allele(gene))
        return self.repair(codes)

    def anchors(self) -> tuple[Genome, ...]:
        """The least compressed genome, then uniform width and bit levels crossed with each other."""
        grid = [(w, b) for w in LEVELS for b in LEVELS]
        return tuple(dict.fromkeys(self._uniform(width, bits) for width, bits in grid))

    def _uniform(self, width: float, bits: float) -> Genome:
        shares = {WidthGene: width, WeightBitsGene: bits, ActivationBitsGene: bits}
        codes = [
            round(shares[type(g)] * (g.cardinality - 1)) if type(g) in shares else full_allele(g) for g in self.genes
        ]
        return self.repair(codes)

    def validate(self, genome: Sequence[int]) -> None:
        if len(genome) != len(self.genes):
            raise ValueError(
                f"a genome of this space must have {len(self.genes)} genes, but got {len(genome)}; was it made elsewhere?"
            )
        for code, gene in zip(genome, self.genes, strict=True):
            if not 0 <= code < gene.cardinality:
                raise ValueError(
                    f"0 <= allele < {gene.cardinality} must hold for gene {gene.name}, but got allele={code}; correct the genome"
                )

    def repair(self, genome: Sequence[int]) -> Genome:
        """Clip codes into range; reset idle genes: inside skipped blocks, factors that save nothing or repeat another."""
        codes = np.clip(np.asarray(genome, dtype=np.int64), 0, np.array(self.cardinalities) - 1)
        for at in self._idle(codes):
            codes[at] = self._full[at]
        self._unify_factors(codes)
        return tuple(int(c) for c in codes)

    def _unify_factors(self, codes: np.ndarray) -> None:
        """Give every factor gene the first allele that means the same: small layers have equal ranks for several shares."""
        at = [i for i in self._factor_genes if codes[i]]
        if not at:
            return
        rows = np.tile(codes, (1 + int(codes[at].max()), 1))
        rows[:, at] = np.minimum(codes[at], np.arange(len(rows))[:, None])  # row a: no factor gene beyond allele a
        phenotypes = self.phenotypes(rows)
        layers = [self._factor_genes[i] for i in at]
        method, ranks = phenotypes.method[:, layers], phenotypes.ranks[:, layers]
        same = (method == method[-1]) & (ranks == ranks[-1]).all(axis=2)
        codes[at] = rows[same.argmax(axis=0), at]

    def _idle(self, codes: np.ndarray) -> list[int]:
        gone = self._skipped_layers(codes)
        idle = [i for i, gene in enumerate(self.genes) if self._inside(gene, gone)]
        kept = np.array(codes)
        kept[idle] = np.array(self._full)[idle]
        method = self.phenotypes(kept[None, :]).method[0]
        dull = [i for i, layer in self._factor_genes.items() if kept[i] and method[layer] == 0]
        widths = {
            g.group: int(kept[i]) == g.cardinality - 1 for i, g in enumerate(self.genes) if isinstance(g, WidthGene)
        }
        same = [i for i, g in enumerate(self.genes) if isinstance(g, CriterionGene) and widths.get(g.group, True)]
        return [*idle, *dull, *same]

    def _skipped_layers(self, codes: np.ndarray) -> frozenset[str]:
        blocks = [g.block for g, code in zip(self.genes, codes, strict=True) if isinstance(g, SkipGene) and code == 1]
        return frozenset(layer for block in blocks for layer in self.network.block(block).layers)

    def _inside(self, gene: Gene, gone: frozenset[str]) -> bool:
        if not gone or isinstance(gene, SkipGene):
            return False
        if isinstance(gene, WidthGene | CriterionGene):
            group = self.network.group(gene.group)
            return set(group.producers) <= gone and set(group.consumers) <= gone
        return gene.layer in gone

    def phenotypes(self, codes: np.ndarray) -> Phenotypes:
        """The meaning of a whole population, codes (N, genes), as arrays."""
        result = full(self.network, len(codes))
        groups = {g.name: i for i, g in enumerate(self.network.groups)}
        layers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        blocks = {b.name: i for i, b in enumerate(self.network.blocks)}
        for column, gene in zip(np.asarray(codes).T, self.genes, strict=True):
            match gene:
                case WidthGene():
                    result.kept[:, groups[gene.group]] = np.array(gene.kept)[column]
                case WeightBitsGene():
                    result.weight_bits[:, layers[gene.layer]] = np.array(gene.bits)[column]
                case ActivationBitsGene():
                    result.activation_bits[:, layers[gene.layer]] = np.array(gene.bits)[column]
                case SkipGene():
                    result.skipped[:, blocks[gene.block]] = column == 1
                case _:
                    pass
        for column, gene in zip(np.asarray(codes).T, self.genes, strict=True):
            if isinstance(gene, FactorGene):
                self._factorise(result, layers[gene.layer], gene, column)
        return result

    def _factorise(self, result: Phenotypes, at: int, gene: FactorGene, column: np.ndarray) -> None:
        layer = self.network.layers[at]
        c_in, c_out = axis_sizes(self.network, result, layer)
        for allele, (method, share) in enumerate(gene.options):
            rows = np.flatnonzero(column == allele)
            if method == "none" or not len(rows):
                continue
            ranks, worth = ranks_for(layer, method, share, c_in[rows], c_out[rows])
            result.method[rows[worth], at] = METHODS.index(method)
            result.ranks[rows[worth], at] = ranks[worth]

    def decode(self, genome: Genome) -> CompressionPlan:
        """The plan of a genome; only what differs from the uncompressed network is mentioned."""
        self.validate(genome)
        one = self.phenotypes(np.array([genome]))
        criteria = {
            g.group: g.criteria[code]
            for g, code in zip(self.genes, genome, strict=True)
            if isinstance(g, CriterionGene)
        }
        skipped = self._skipped_layers(np.array(genome))
        layers = [(i, layer.name) for i, layer in enumerate(self.network.layers) if layer.name not in skipped]
        return CompressionPlan(
            widths=tuple(
                Width(group.name, int(one.kept[0, i]), criteria[group.name])
                for i, group in enumerate(self.network.groups)
                if one.kept[0, i] < group.size
            ),
            skips=tuple(Skip(block.name) for i, block in enumerate(self.network.blocks) if one.skipped[0, i]),
            factors=tuple(
                Factor(name, METHODS[one.method[0, i]], tuple(int(r) for r in one.ranks[0, i] if r))
                for i, name in layers
                if one.method[0, i]
            ),
            bits=tuple(
                Bits(name, int(one.weight_bits[0, i]), int(one.activation_bits[0, i]))
                for i, name in layers
                if min(one.weight_bits[0, i], one.activation_bits[0, i]) < FLOAT_BITS
            ),
        )
