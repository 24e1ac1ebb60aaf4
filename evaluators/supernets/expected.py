"""Multiplications of a network whose widths and depths are random: the expectation over independent choices, differentiable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.network import Axis, Layer, Network


@dataclass(frozen=True)
class Distribution:
    """What is random: units kept per group and their probabilities, and how probable it is that a block is there at all. Groups
    and blocks that are not mentioned are whole."""

    widths: Mapping[str, tuple[Tensor, Tensor]]
    present: Mapping[str, Tensor]


def expected_macs(network: Network, chances: Distribution) -> Tensor:
    """E[MACs] of the network for one sample (Dong and Yang 2019, section 3.1). With every probability 0 or 1 it is what the costs
    count. Where a layer reads and makes channels of one group, E[C^2] stands in for E[C]^2."""
    mean = {name: (kept * p).sum() for name, (kept, p) in chances.widths.items()}
    variance = {name: (kept.square() * p).sum() - mean[name].square() for name, (kept, p) in chances.widths.items()}
    sizes = {group.name: float(group.size) for group in network.groups}
    block_of = {name: block.name for block in network.blocks for name in block.layers}
    total = torch.zeros(())
    for layer in network.layers:
        one = _layer(layer, {**sizes, **mean}, variance)
        total = total + one * chances.present.get(block_of.get(layer.name, ""), 1.0)
    for product in network.products:
        one = _mean(product.elements, {**sizes, **mean}) * product.macs / product.of
        total = total + one * chances.present.get(product.block, 1.0)
    return total


def _layer(layer: Layer, mean: Mapping[str, Tensor | float], variance: Mapping[str, Tensor]) -> Tensor | float:
    places = layer.kernel_area * layer.out_positions
    out = _mean(layer.out_axis, mean)
    if layer.depthwise:
        return out * places
    made, both = dict(layer.out_axis.terms), dict(layer.in_axis.terms)
    shared = sum(
        times * made[group] * variance[group] for group, times in both.items() if group in made and group in variance
    )
    return (out * _mean(layer.in_axis, mean) + shared) * places / layer.groups


def _mean(axis: Axis, mean: Mapping[str, Tensor | float]) -> Tensor | float:
    return axis.fixed + sum(times * mean[group] for group, times in axis.terms)
