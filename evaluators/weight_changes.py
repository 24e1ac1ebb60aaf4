"""How a decision changes the weight matrix (outputs, fan-in) of one layer of the uncompressed network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.chains import patch_map
from evaluators.compensation import compensated
from evaluators.factorise import factorise
from evaluators.layers import layer_of, weight_of
from evaluators.masks import compensated_mask, mask_of
from evaluators.moments import InputMoments
from evaluators.weight_quantiser import rounded_weight
from search_spaces.codebooks import Scheme
from search_spaces.genes import DENSE, FactorGene, FactorOption, SparsityGene
from search_spaces.network import Layer
from search_spaces.plan import FLOAT_BITS, Bits
from search_spaces.ranks import ranks_for


def lost(weight: Tensor, channels: int, kept: Sequence[int], second_moment: Tensor | None = None) -> Tensor:
    """What a weight (outputs, channels x kernel) loses with the channels that are not kept; with the second moment of the inputs,
    also what it gains by making up for them."""
    places = weight.shape[1] // channels
    columns = [channel * places + place for channel in kept for place in range(places)]
    if second_moment is not None:
        return compensated(weight, columns, second_moment) - weight
    change = -weight.clone()
    change[:, columns] = 0
    return change


def rounded(weight: Tensor, layer: str, bits: int, scheme: Scheme, second_moment: Tensor) -> Tensor:
    stored = Bits(layer, bits, FLOAT_BITS, scheme.codebook, scheme.group, scheme.rounding)
    return rounded_weight(weight, stored, second_moment) - weight


def masked(weight: Tensor, gene: SparsityGene, second_moment: Tensor) -> list[Tensor]:
    """One change for each of the gene's patterns."""
    changes = [torch.zeros_like(weight)]
    for pattern in gene.patterns[1:]:
        mask = mask_of(weight, pattern, gene.criterion, second_moment)
        left = compensated_mask(weight, mask, second_moment) if gene.compensate else weight * mask
        changes.append(left - weight)
    return changes


def truncated(model: nn.Module, layer: Layer, gene: FactorGene, inputs: InputMoments) -> list[Tensor]:
    """One change for each of the gene's options, at full width."""
    weighted = inputs if gene.metric == "inputs" else None
    return [_truncated(model, layer, option, weighted) for option in gene.options]


def _truncated(model: nn.Module, layer: Layer, option: FactorOption, inputs: InputMoments | None) -> Tensor:
    weight = weight_of(model, layer.name).flatten(1).float()
    if option == DENSE:
        return torch.zeros_like(weight)
    ranks, worth = ranks_for(layer, option, np.array([layer.in_channels]), np.array([layer.out_channels]))
    if not worth[0]:
        return torch.zeros_like(weight)
    used, dense = tuple(int(r) for r in ranks[0] if r), layer_of(model, layer.name)
    return patch_map(list(factorise(dense, option.method, used, inputs)), dense.weight.shape) - weight
