"""From a genome to its plan: only what differs from the uncompressed network is mentioned."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from search_spaces.codebooks import Scheme
from search_spaces.decompositions import METHODS
from search_spaces.genes import CriterionGene
from search_spaces.genome import Genome
from search_spaces.links import Links
from search_spaces.phenotype import Phenotypes
from search_spaces.plan import FLOAT_BITS, Bits, CompressionPlan, Factor, Mask, Skip, Sparse, Width


def plan_of(links: Links, genome: Genome, one: Phenotypes, skipped: Collection[str]) -> CompressionPlan:
    """`one` is the genome's meaning, `skipped` the layers of its skipped blocks."""
    network, codes = links.network, np.array(genome)
    criteria = {gene.group: gene.criteria[genome[at]] for at, gene in links.of(CriterionGene)}
    layers = [(i, layer.name) for i, layer in enumerate(network.layers) if layer.name not in skipped]
    bits = (_bits(links, name, i, one, genome) for i, name in layers)
    return CompressionPlan(
        widths=tuple(
            Width(group.name, int(one.kept[0, i]), criteria[group.name], group.name in links.compensated)
            for i, group in enumerate(network.groups)
            if one.kept[0, i] < group.size and group.name not in links.masks
        ),
        masks=tuple(
            Mask(group, tuple(int(unit) for unit in np.flatnonzero(codes[units])), group in links.compensated)
            for group, units in links.masks.items()
            if not codes[units].all()
        ),
        skips=tuple(Skip(block.name) for i, block in enumerate(network.blocks) if one.skipped[0, i]),
        factors=tuple(
            _factor(links, name, METHODS[one.method[0, i]], one.ranks[0, i]) for i, name in layers if one.method[0, i]
        ),
        sparse=tuple(
            Sparse(name, int(kept), int(of), bool(structured), gene.criterion, gene.compensate)
            for i, name in layers
            for kept, of, structured in (one.sparsity[0, i],)
            if kept < of and (gene := links.masked[name])
        ),
        bits=tuple(b for b in bits if min(b.weight, b.activation) < FLOAT_BITS),
    )


def _factor(links: Links, layer: str, method: str, ranks: np.ndarray) -> Factor:
    return Factor(layer, method, tuple(int(r) for r in ranks if r), links.metrics.get(layer, Factor.metric))


def _bits(links: Links, layer: str, column: int, one: Phenotypes, genome: Genome) -> Bits:
    weight, activation = int(one.weight_bits[0, column]), int(one.activation_bits[0, column])
    scheme, rule = Scheme(), Bits.range
    if layer in links.scheme_of and weight < FLOAT_BITS:
        at = links.scheme_of[layer]
        served, _, choice = links.schemes[at]
        scheme = choice.schemes[choice.canonical[genome[served], genome[at]]]
    if layer in links.ranges and activation < FLOAT_BITS:
        at, rules = links.ranges[layer]
        rule = rules[genome[at]]
    return Bits(layer, weight, activation, scheme.codebook, scheme.group, scheme.rounding, rule)
