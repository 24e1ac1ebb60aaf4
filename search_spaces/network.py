"""A torch-free description of a traced network: what can be cut, and how sizes follow from the cuts.

Sizes are symbolic in the channel groups: an `Axis` is so many fixed channels plus, for each group it belongs to, a multiple of
the channels kept in that group. The description is made by `evaluators.trace` and is all that spaces and costs need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TypeVar


@dataclass(frozen=True)
class Axis:
    """Channels of one tensor dimension: `fixed` + sum of multiplicity * kept(group) over `terms`."""

    fixed: int
    terms: tuple[tuple[str, int], ...] = ()

    def size(self, kept: Mapping[str, int]) -> int:
        return self.fixed + sum(times * kept[group] for group, times in self.terms)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be cut together: cutting unit i removes it from every member.

    unit: output channels of the first producer that one unit stands for, e.g. three times the head size of an attention.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    unit: int = 1


@dataclass(frozen=True)
class Layer:
    """A convolution, a transposed one (kind conv_transpose) or a linear layer.

    Positions are output (and input) places per sample, summed over repeated calls; of a transposed convolution both are its input
    places, at which its kernel is applied. mid_positions are those at the output's height and the input's width.
    A layer that is not replaceable has no choice but its width.
    """

    name: str
    kind: str
    in_axis: Axis
    out_axis: Axis
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    bias: bool
    in_positions: int
    out_positions: int
    calls: int = 1
    mid_positions: int = 0
    replaceable: bool = True

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def kernel_area(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Product:
    """A counted matrix product outside layers, as in attention: MACs per sample, proportional to the elements of its result."""

    elements: Axis
    macs: int
    of: int
    block: str = ""


@dataclass(frozen=True)
class Vector:
    """Per-channel parameters and buffers outside convolutions and linear layers (normalisation, layer scale)."""

    name: str
    axis: Axis
    parameters: int
    buffers: int


@dataclass(frozen=True)
class Block:
    """A residual block that its identity shortcut can stand in for."""

    name: str
    layers: tuple[str, ...]
    vectors: tuple[str, ...]
    input: int
    output: int
    fixed_parameters: int = 0
    fixed_buffers: int = 0


NamedT = TypeVar("NamedT", Layer, ChannelGroup, Block)


@dataclass(frozen=True)
class Activation:
    """One tensor that the network holds while it runs: axis size times positions elements per sample."""

    axis: Axis
    positions: int


@dataclass(frozen=True)
class Step:
    """One executed operation: which activations it reads and makes; `layer` where it is one, `block` where inside one."""

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    layer: str = ""
    block: str = ""


@dataclass(frozen=True)
class Dense:
    """A place that stays as it is, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Network:
    """Everything about a user's network that can be said without torch."""

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    vectors: tuple[Vector, ...]
    blocks: tuple[Block, ...]
    activations: tuple[Activation, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    dense: tuple[Dense, ...]
    fixed_parameters: int
    fixed_buffers: int
    products: tuple[Product, ...] = ()

    @cached_property
    def columns(self) -> dict[str, int]:
        """Position of every channel group."""
        return {group.name: i for i, group in enumerate(self.groups)}

    @cached_property
    def digest(self) -> str:
        """Changes with everything that gives genomes their meaning; reasons for what stays dense are only words."""
        text = json.dumps(asdict(replace(self, dense=())), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def layer(self, name: str) -> Layer:
        return _named(self.layers, name, "layer")

    def group(self, name: str) -> ChannelGroup:
        return _named(self.groups, name, "channel group")

    def block(self, name: str) -> Block:
        return _named(self.blocks, name, "residual block")


def _named(items: tuple[NamedT, ...], name: str, kind: str) -> NamedT:
    for item in items:
        if item.name == name:
            return item
    known = ", ".join(i.name for i in items[:20])
    raise ValueError(f"a plan must name a {kind} of the network, but got {name!r}; known are: {known}")
