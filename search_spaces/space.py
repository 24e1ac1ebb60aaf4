"""The joint compression space of one network: genes, legal genomes, and what a genome means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from search_spaces.codebooks import Scheme
from search_spaces.decompositions import DATA_AWARE, METHODS
from search_spaces.genes import (
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    Gene,
    MaskGene,
    RangeGene,
    SchemeGene,
    SkipGene,
    SparsityGene,
    WeightBitsGene,
    WidthGene,
    full_allele,
)
from search_spaces.genome import Genome
from search_spaces.network import Network
from search_spaces.phenotype import Phenotypes, full
from search_spaces.plan import FLOAT_BITS, Bits, CompressionPlan, Factor, Mask, Skip, Sparse, Width
from search_spaces.ranks import FactorChoice
from search_spaces.schemes import SchemeChoice

REMEMBERED = 20_000_000  # alleles of repaired genomes kept, a few bytes each
FEWEST_KEPT = 0.1  # least share of channels that a random binary code keeps on average
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
    def _full(self) -> tuple[int, ...]:
        return tuple(full_allele(gene) for gene in self.genes)

    def sample(self, rng: np.random.Generator) -> Genome:
        """Each individual draws its own level per kind of gene, so that a population covers all compression rates."""
        levels: dict[type, float] = {kind: rng.uniform() for kind in (WidthGene, WeightBitsGene, ActivationBitsGene)}
        shares: dict[type, float] = {FactorGene: rng.uniform(0, 0.5), SkipGene: rng.uniform(0, 0.3)}
        kept = rng.uniform(FEWEST_KEPT, 1.0) if self._masks else 1.0
        codes = []
        for gene in self.genes:
            if isinstance(gene, MaskGene):
                codes.append(int(rng.uniform() < kept))
                continue
            if type(gene) in levels:
                at = levels[type(gene)] * (gene.cardinality - 1) + rng.normal(0, 0.15 * gene.cardinality)
                codes.append(int(np.clip(round(at), 0, gene.cardinality - 1)))
            else:
                change = rng.uniform() < shares.get(type(gene), 1.0)
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
        """Clip codes into range; reset idle genes: inside skipped blocks, factors that save nothing or repeat another.

        A binary code that keeps no unit of a group keeps its first.
        """
        asked = tuple(int(code) for code in genome)
        if asked not in self._repaired:
            if len(self._repaired) * len(asked) >= REMEMBERED:
                self._repaired.clear()
            self._repaired[asked] = self._repair(np.array(asked, dtype=np.int64))
        return self._repaired[asked]

    def _repair(self, genome: np.ndarray) -> Genome:
        codes = np.clip(genome, 0, np.array(self.cardinalities) - 1)
        gone = self._skipped_layers(codes)
        for at, gene in enumerate(self.genes):
            if self._inside(gene, gone):
                codes[at] = self._full[at]
        for units in self._masks.values():
            if not codes[units].any():
                codes[units[0]] = 1
        kept = self._without_factors(codes[None, :])
        for at, choice in self._factors.items():
            codes[at] = choice.canonical(kept, codes[at : at + 1])[0]
            if codes[at] and (mask := self._sparsity.get(choice.column)) is not None:
                codes[mask] = self._full[mask]
        for idle, needed in self._served.items():
            if needed is None or codes[needed] == self._full[needed]:
                codes[idle] = self._full[idle]
        for at, (bits, _, schemes) in self._schemes.items():
            codes[at] = schemes.canonical[codes[bits], codes[at]]
        return tuple(int(c) for c in codes)

    def _skipped_layers(self, codes: np.ndarray) -> frozenset[str]:
        blocks = [g.block for g, code in zip(self.genes, codes, strict=True) if isinstance(g, SkipGene) and code == 1]
        return frozenset(layer for block in blocks for layer in self.network.block(block).layers)

    def _inside(self, gene: Gene, gone: frozenset[str]) -> bool:
        if not gone or isinstance(gene, SkipGene):
            return False
        if isinstance(gene, WidthGene | CriterionGene | MaskGene):
            names = gene.groups if isinstance(gene, MaskGene) else (gene.group,)
            groups = [self.network.group(name) for name in names]
            return all(set(group.producers) <= gone and set(group.consumers) <= gone for group in groups)
        return gene.layer in gone

    def phenotypes(self, codes: np.ndarray) -> Phenotypes:
        """The meaning of a whole population, codes (N, genes), as arrays."""
        codes = np.asarray(codes)
        result = self._without_factors(codes)
        for at, choice in self._factors.items():
            result.method[:, choice.column], result.ranks[:, choice.column] = choice.meaning(result, codes[:, at])
        result.sparsity[result.method > 0] = 1
        return result

    def _without_factors(self, codes: np.ndarray) -> Phenotypes:
        result = full(self.network, len(codes))
        for at, field, column, values in self._lookups:
            getattr(result, field)[:, column] = values[codes[:, at]]
        for name, units in self._masks.items():
            result.kept[:, self.network.columns[name]] = codes[:, units].sum(axis=1)
        for at, (bits, column, schemes) in self._schemes.items():
            meaning = schemes.meaning(codes[:, bits], codes[:, at])
            result.codebook[:, column], result.group[:, column] = meaning
        return result

    @cached_property
    def _lookups(self) -> list[tuple[int, str, int, np.ndarray]]:
        """(gene, field of Phenotypes, its column, the field's value for every allele)."""
        groups = {g.name: i for i, g in enumerate(self.network.groups)}
        layers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        blocks = {b.name: i for i, b in enumerate(self.network.blocks)}
        found: list[tuple[int, str, int, np.ndarray]] = []
        for at, gene in enumerate(self.genes):
            match gene:
                case WidthGene():
                    found.append((at, "kept", groups[gene.group], np.array(gene.kept)))
                case WeightBitsGene():
                    found.append((at, "weight_bits", layers[gene.layer], np.array(gene.bits)))
                case ActivationBitsGene():
                    found.append((at, "activation_bits", layers[gene.layer], np.array(gene.bits)))
                case SparsityGene():
                    patterns = np.array([(p.kept, p.of, p.structured) for p in gene.patterns], dtype=np.int64)
                    found.append((at, "sparsity", layers[gene.layer], patterns))
                case SkipGene():
                    found.append((at, "skipped", blocks[gene.block], np.array([False, True])))
                case _:
                    pass
        return found

    @cached_property
    def _factors(self) -> dict[int, FactorChoice]:
        layers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        genes = {at: gene for at, gene in enumerate(self.genes) if isinstance(gene, FactorGene)}
        return {at: FactorChoice(self.network, layers[gene.layer], gene.options) for at, gene in genes.items()}

    @cached_property
    def _sparsity(self) -> dict[int, int]:
        """Column of a layer -> its sparsity gene."""
        layers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        return {layers[gene.layer]: at for at, gene in enumerate(self.genes) if isinstance(gene, SparsityGene)}

    @cached_property
    def _schemes(self) -> dict[int, tuple[int, int, SchemeChoice]]:
        """Scheme gene -> (the weight-bits gene that it serves, the layer's column, what both mean together)."""
        layers = {layer.name: i for i, layer in enumerate(self.network.layers)}
        bits = {gene.layer: (at, gene) for at, gene in enumerate(self.genes) if isinstance(gene, WeightBitsGene)}
        found = {}
        for at, gene in enumerate(self.genes):
            if isinstance(gene, SchemeGene) and gene.layer in bits:
                served, widths = bits[gene.layer]
                found[at] = (served, layers[gene.layer], SchemeChoice(widths.bits, gene.schemes))
        return found

    @cached_property
    def _served(self) -> dict[int, int | None]:
        """Genes that mean nothing while another one is at its full allele: criterion of a width, range of activation bits."""
        widths = {gene.group: at for at, gene in enumerate(self.genes) if isinstance(gene, WidthGene)}
        floats = {
            gene.layer: at
            for at, gene in enumerate(self.genes)
            if isinstance(gene, ActivationBitsGene) and gene.bits[-1] == FLOAT_BITS
        }
        found = {}
        for at, gene in enumerate(self.genes):
            if isinstance(gene, CriterionGene):
                found[at] = widths.get(gene.group)
            elif isinstance(gene, RangeGene) and gene.layer in floats:
                found[at] = floats[gene.layer]
        return found

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        """Channel group -> its mask genes, by unit."""
        found: dict[str, list[tuple[int, int]]] = {}
        for at, gene in enumerate(self.genes):
            if isinstance(gene, MaskGene):
                for group in gene.groups:
                    found.setdefault(group, []).append((gene.unit, at))
        return {group: np.array([at for _, at in sorted(units)]) for group, units in found.items()}

    @cached_property
    def _repaired(self) -> dict[Genome, Genome]:
        return {}

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
        bits = (self._bits(name, i, one, genome) for i, name in layers)
        return CompressionPlan(
            widths=tuple(
                Width(group.name, int(one.kept[0, i]), criteria[group.name], group.name in self._compensated)
                for i, group in enumerate(self.network.groups)
                if one.kept[0, i] < group.size and group.name not in self._masks
            ),
            masks=tuple(
                Mask(group, tuple(int(unit) for unit in np.flatnonzero(np.array(genome)[units])))
                for group, units in self._masks.items()
                if not np.array(genome)[units].all()
            ),
            skips=tuple(Skip(block.name) for i, block in enumerate(self.network.blocks) if one.skipped[0, i]),
            factors=tuple(
                self._factor(name, METHODS[one.method[0, i]], one.ranks[0, i]) for i, name in layers if one.method[0, i]
            ),
            sparse=tuple(
                Sparse(name, int(kept), int(of), bool(structured), gene.criterion, gene.compensate)
                for i, name in layers
                for kept, of, structured in (one.sparsity[0, i],)
                if kept < of and (gene := self._sparsity_genes[name])
            ),
            bits=tuple(b for b in bits if min(b.weight, b.activation) < FLOAT_BITS),
        )

    def _factor(self, layer: str, method: str, ranks: np.ndarray) -> Factor:
        metric = self._metrics.get(layer, Factor.metric) if method in DATA_AWARE else Factor.metric
        return Factor(layer, method, tuple(int(r) for r in ranks if r), metric)

    @cached_property
    def _sparsity_genes(self) -> dict[str, SparsityGene]:
        return {gene.layer: gene for gene in self.genes if isinstance(gene, SparsityGene)}

    @cached_property
    def _compensated(self) -> frozenset[str]:
        """Groups for whose lost channels the layers that read them make up."""
        return frozenset(gene.group for gene in self.genes if isinstance(gene, WidthGene) and gene.compensate)

    @cached_property
    def _metrics(self) -> dict[str, str]:
        return {gene.layer: gene.metric for gene in self.genes if isinstance(gene, FactorGene)}

    def _bits(self, layer: str, column: int, one: Phenotypes, genome: Genome) -> Bits:
        weight, activation = int(one.weight_bits[0, column]), int(one.activation_bits[0, column])
        scheme, rule = Scheme(), Bits.range
        places = self._places.get(layer, {})
        if SchemeGene in places and weight < FLOAT_BITS:
            at = places[SchemeGene]
            served, _, choice = self._schemes[at]
            scheme = choice.schemes[choice.canonical[genome[served], genome[at]]]
        if RangeGene in places and activation < FLOAT_BITS:
            gene = self.genes[places[RangeGene]]
            rule = gene.rules[genome[places[RangeGene]]] if isinstance(gene, RangeGene) else rule
        return Bits(layer, weight, activation, scheme.codebook, scheme.group, scheme.rounding, rule)

    @cached_property
    def _places(self) -> dict[str, dict[type, int]]:
        """Position of the scheme and range genes of every layer."""
        found: dict[str, dict[type, int]] = {}
        for at, gene in enumerate(self.genes):
            if isinstance(gene, SchemeGene | RangeGene):
                found.setdefault(gene.layer, {})[type(gene)] = at
        return found
