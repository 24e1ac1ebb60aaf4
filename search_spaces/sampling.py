"""Genomes to begin from: random ones that cover all compression rates, and uniform ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from search_spaces.genes import GROUP, Gene, MaskGene, full_allele

KINDS: tuple[type[Gene], ...] = get_args(Gene)
FEWEST_KEPT = 0.1  # least share of channels that a random binary code keeps on average
SPREAD = 0.15  # of the alleles of a graded gene around the level of its kind, as a share of their number
LEVELS = (1.0, 0.75, 0.5, 0.25)  # anchors: shares of the way from the most to the least compressed allele


def random_codes(genes: Sequence[Gene], rng: np.random.Generator) -> list[int]:
    """Each individual draws its own level per kind of gene, so that a population covers all compression rates."""
    levels = {kind: rng.uniform() for kind in KINDS if kind.graded}
    shares = {kind: rng.uniform(0, kind.changed) for kind in KINDS if kind.changed < 1}
    kept = rng.uniform(FEWEST_KEPT, 1.0) if any(isinstance(gene, MaskGene) for gene in genes) else 1.0
    codes = []
    for gene in genes:
        if isinstance(gene, MaskGene):
            codes.append(int(rng.uniform() < kept))
        elif gene.graded:
            at = levels[type(gene)] * (gene.cardinality - 1) + rng.normal(0, SPREAD * gene.cardinality)
            codes.append(int(np.clip(round(at), 0, gene.cardinality - 1)))
        else:
            change = rng.uniform() < shares.get(type(gene), 1.0)
            codes.append(int(rng.integers(0, gene.cardinality)) if change else full_allele(gene))
    return codes


def uniform_codes(genes: Sequence[Gene], width: float, bits: float) -> list[int]:
    """All widths and all bits at these shares of the way to their least compressed allele, everything else left alone."""
    return [
        round((width if g.scope == GROUP else bits) * (g.cardinality - 1)) if g.graded else full_allele(g)
        for g in genes
    ]


def anchor_codes(genes: Sequence[Gene]) -> list[list[int]]:
    """The least compressed codes, then uniform width and bit levels crossed with each other."""
    return [uniform_codes(genes, width, bits) for width in LEVELS for bits in LEVELS]
