"""Cut channel groups out of a network: every tensor is sliced once, so the result is a physically smaller module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from evaluators.channels import Trace, kept_index
from evaluators.modes import forget_cached


def slice_channels(model: nn.Module, trace: Trace, kept: Mapping[str, Sequence[int]]) -> None:
    """Keep only the given units of the given groups, in place; `kept` maps group name to sorted unit indices."""
    numbers = {group.name: i for i, group in enumerate(trace.network.groups)}
    chosen = {numbers[name]: units for name, units in kept.items()}
    for channel_map in trace.maps:
        if any(g in chosen for g in set(channel_map.group)):
            _slice(model, channel_map.tensor, channel_map.dim, kept_index(channel_map, chosen))
    restate(model, trace, {name: len(units) for name, units in kept.items()})


def restate(model: nn.Module, trace: Trace, kept: Mapping[str, int]) -> None:
    """Make the attributes of a network whose tensors were cut agree with them; `kept` maps group name to units kept."""
    for layer in trace.network.layers:
        _restate(model.get_submodule(layer.name), layer.depthwise)
    sizes = {group.name: kept.get(group.name, group.size) for group in trace.network.groups}
    for size in trace.sizes:
        if any(group in kept for group, _ in size.axis.terms):
            setattr(model.get_submodule(size.module), size.attribute, size.axis.size(sizes))
    forget_cached(model)


def _slice(model: nn.Module, name: str, dim: int, index: Sequence[int]) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    tensor = getattr(module, leaf)
    smaller = tensor.detach().index_select(dim, torch.tensor(index, device=tensor.device)).clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, leaf, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, leaf, smaller)


def _restate(module: nn.Module, depthwise: bool) -> None:
    """Make a layer's attributes agree with its weight."""
    if isinstance(module, nn.Conv2d):
        module.out_channels = module.weight.shape[0]
        module.groups = module.weight.shape[0] if depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
