"""Every kind of gene answers what the space, its costs and people ask of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evaluators.describe import trace
from evaluators.models.small import digits_cnn
from search_spaces.genes import BLOCK, GROUP, LAYER, full_allele
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import Phenotypes, full
from search_spaces.sampling import KINDS
from search_spaces.sparsity import pattern_of

NETWORK = trace(digits_cnn(width=16), torch.zeros(1, 1, 8, 8)).network
WIDTHS = SpaceOptions(
    criteria=("fisher", "l1"),
    codebooks=("symmetric", "power_of_two"),
    roundings=("nearest", "gptq"),
    ranges=("percentile", "minmax"),
    sparsity=(pattern_of("2:4"), pattern_of(0.5)),
)
SPACES = [build_space(NETWORK, options) for options in (WIDTHS, SpaceOptions(channel_codes=True))]
GENES = {type(gene): (space, at, gene) for space in SPACES for at, gene in enumerate(space.genes)}
FIELDS = {field.name for field in dataclasses.fields(Phenotypes)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_gene(kind: type) -> None:
    space, at, gene = GENES[kind]
    names = {GROUP: NETWORK.groups, LAYER: NETWORK.layers, BLOCK: NETWORK.blocks}[gene.scope]
    assert gene.place in {item.name for item in names} and gene.place in gene.places  # type: ignore[attr-defined]
    assert gene.name.startswith(f"{gene.kind}:{gene.place}")
    labels = [gene.label(allele) for allele in range(gene.cardinality)]
    assert len(set(labels)) == gene.cardinality > 1
    if gene.field:
        alone = np.array([[full_allele(other) for other in space.genes]] * gene.cardinality)
        alone[:, at] = np.arange(gene.cardinality)
        meant = getattr(space.phenotypes(alone), gene.field)
        assert gene.field in FIELDS and len(gene.values) == gene.cardinality
        column = [item.name for item in names].index(gene.place)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(meant[:, column], gene.values)
        assert (meant[full_allele(gene)] == getattr(full(NETWORK, 1), gene.field)[0]).all()


def test_kinds_have_names_of_their_own() -> None:
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
