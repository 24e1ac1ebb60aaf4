"""The joint compression space of one network: genes, legal genomes, and what a genome means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from search_spaces.coded import CodedSpace
from search_spaces.decoding import plan_of
from search_spaces.genes import BLOCK, GROUP, Gene, SkipGene, full_allele
from search_spaces.genome import Genome
from search_spaces.links import Links
from search_spaces.network import Network
from search_spaces.phenotype import Phenotypes, full
from search_spaces.plan import CompressionPlan
from search_spaces.sampling import anchor_codes, random_codes

REMEMBERED = 20_000_000  # alleles of repaired genomes kept, a few bytes each


@dataclass(frozen=True)
class CompressionSpace(CodedSpace[Gene]):
    """Implements `SearchSpace` for the genes of one network. Deterministic: the same description gives the same digest."""

    network: Network
    genes: tuple[Gene, ...]

    @cached_property
    def digest(self) -> str:
        text = json.dumps([self.network.digest, [asdict(g) for g in self.genes]], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def full(self) -> Genome:
        """The code of the uncompressed network."""
        return tuple(full_allele(gene) for gene in self.genes)

    @cached_property
    def _links(self) -> Links:
        return Links(self.network, self.genes)

    def sample(self, rng: np.random.Generator) -> Genome:
        """Each individual draws its own level per kind of gene, so that a population covers all compression rates."""
        return self.repair(random_codes(self.genes, rng))

    def anchors(self) -> tuple[Genome, ...]:
        """The least compressed genome, then uniform width and bit levels crossed with each other."""
        return tuple(dict.fromkeys(self.repair(codes) for codes in anchor_codes(self.genes)))

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

    @cached_property
    def _repaired(self) -> dict[Genome, Genome]:
        return {}

    def _repair(self, genome: np.ndarray) -> Genome:
        links, codes = self._links, np.clip(genome, 0, np.array(self.cardinalities) - 1)
        gone = self._skipped_layers(codes)
        for at, gene in enumerate(self.genes):
            if self._inside(gene, gone):
                codes[at] = self.full[at]
        for units in links.masks.values():
            if not codes[units].any():
                codes[units[0]] = 1
        kept = self._without_factors(codes[None, :])
        for at, choice in links.factors.items():
            codes[at] = choice.canonical(kept, codes[at : at + 1])[0]
            if codes[at] and (mask := links.sparsity.get(choice.column)) is not None:
                codes[mask] = self.full[mask]
        for idle, needed in links.served.items():
            if needed is None or codes[needed] == self.full[needed]:
                codes[idle] = self.full[idle]
        for at, (bits, _, schemes) in links.schemes.items():
            codes[at] = schemes.canonical[codes[bits], codes[at]]
        return tuple(int(c) for c in codes)

    def _skipped_layers(self, codes: np.ndarray) -> frozenset[str]:
        blocks = [gene.block for at, gene in self._links.of(SkipGene) if codes[at] == 1]
        return frozenset(layer for block in blocks for layer in self.network.block(block).layers)

    def _inside(self, gene: Gene, gone: frozenset[str]) -> bool:
        if not gone or gene.scope == BLOCK:
            return False
        if gene.scope == GROUP:
            groups = [self.network.group(name) for name in gene.places]
            return all(set(group.producers) <= gone and set(group.consumers) <= gone for group in groups)
        return gene.place in gone

    def phenotypes(self, codes: np.ndarray) -> Phenotypes:
        """The meaning of a whole population, codes (N, genes), as arrays."""
        codes = np.asarray(codes)
        result = self._without_factors(codes)
        for at, choice in self._links.factors.items():
            result.method[:, choice.column], result.ranks[:, choice.column] = choice.meaning(result, codes[:, at])
        result.sparsity[result.method > 0] = 1
        return result

    def _without_factors(self, codes: np.ndarray) -> Phenotypes:
        result = full(self.network, len(codes))
        for at, field, column, values in self._links.lookups:
            getattr(result, field)[:, column] = values[codes[:, at]]
        for name, units in self._links.masks.items():
            result.kept[:, self.network.columns[name]] = codes[:, units].sum(axis=1)
        for at, (bits, column, schemes) in self._links.schemes.items():
            meaning = schemes.meaning(codes[:, bits], codes[:, at])
            result.codebook[:, column], result.group[:, column] = meaning
        return result

    def decode(self, genome: Genome) -> CompressionPlan:
        """The plan of a genome; only what differs from the uncompressed network is mentioned."""
        self.validate(genome)
        one = self.phenotypes(np.array([genome]))
        return plan_of(self._links, genome, one, self._skipped_layers(np.array(genome)))
