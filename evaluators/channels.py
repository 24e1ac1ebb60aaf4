"""Where the units of the channel groups sit in the tensors of a real network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces.network import Axis, Network


@dataclass(frozen=True)
class ChannelMap:
    """Where the units of the channel groups sit in one dimension of one parameter or buffer.

    group and unit have one entry per index of that dimension; group -1 means always kept.
    """

    tensor: str
    dim: int
    group: tuple[int, ...]
    unit: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """An integer attribute that the forward pass of a module reads and that must follow the cuts: heads, norm groups."""

    module: str
    attribute: str
    axis: Axis


@dataclass(frozen=True)
class Trace:
    """A network description and how to cut the tensors of the real network accordingly.

    touched: for every group the modules whose operations see its channels.
    """

    network: Network
    maps: tuple[ChannelMap, ...]
    sizes: tuple[Size, ...] = ()
    touched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def maps_of(self, tensor: str) -> tuple[ChannelMap, ...]:
        return tuple(m for m in self.maps if m.tensor == tensor)


def kept_index(channel_map: ChannelMap, kept: Mapping[int, Sequence[int]]) -> list[int]:
    """Indices that remain in this dimension when group g keeps the units `kept[g]` (all, where g is not mentioned)."""
    sets = {g: set(units) for g, units in kept.items()}
    pairs = enumerate(zip(channel_map.group, channel_map.unit, strict=True))
    return [i for i, (g, u) in pairs if g not in sets or u in sets[g]]
