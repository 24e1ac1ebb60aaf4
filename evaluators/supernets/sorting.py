"""Sort the channels of a network by importance, so that narrower networks consist of first channels (Cai et al. 2020, OFA)."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from evaluators.channels import ChannelMap, Trace
from evaluators.modes import forget_cached


def refused_groups(trace: Trace) -> dict[str, str]:
    """Channel groups whose first units are not the first channels of every tensor, each with the reason."""
    refused: dict[str, str] = {}
    for channel_map in trace.maps:
        present = sorted(set(channel_map.group) - {-1})
        if len(set(channel_map.group)) == 1 and list(channel_map.unit) == sorted(channel_map.unit):
            continue
        for number in present:
            name = trace.network.groups[number].name
            reason = f"its channels lie between others in {channel_map.tensor}, where first channels are not a slice"
            refused.setdefault(name, reason)
    return refused


def sorted_by_importance(model: nn.Module, trace: Trace, orders: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the network, computing the same, in which unit i of a group is unit `orders[group][i]` of the original."""
    network = copy.deepcopy(model)
    numbers = {group.name: i for i, group in enumerate(trace.network.groups)}
    chosen = {numbers[name]: order for name, order in orders.items()}
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        for channel_map in trace.maps:
            if chosen.keys() & set(channel_map.group):
                tensor = tensors[channel_map.tensor]
                index = torch.tensor(_sources(channel_map, chosen), device=tensor.device)
                tensor.copy_(tensor.index_select(channel_map.dim, index))
    forget_cached(network)
    return network


def _sources(channel_map: ChannelMap, orders: Mapping[int, Sequence[int]]) -> list[int]:
    """For every index of the dimension the one that its content comes from."""
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    pairs = list(zip(channel_map.group, channel_map.unit, strict=True))
    turn = []
    for at, pair in enumerate(pairs):
        turn.append(len(places[pair]))
        places[pair].append(at)
    return [
        places[group, orders[group][unit]][turn[at]] if group in orders else at
        for at, (group, unit) in enumerate(pairs)
    ]
