"""Saliency criteria: how much a channel unit of a group matters. Each returns one score per unit, larger means keep.

A criterion scores the output channels of one layer; scores of a group's producers are scaled to mean one and added, so that
no layer dominates by its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.layers import weight_of
from evaluators.statistics import LayerStatistics
from search_spaces.network import ChannelGroup

Statistics = Mapping[str, LayerStatistics]
Criterion = Callable[[nn.Module, str, Statistics], Tensor]


def l1(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Sum of absolute filter weights (Li et al. 2017)."""
    return weight_of(model, layer).abs().flatten(1).sum(1)


def l2(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Euclidean norm of the filter (He et al. 2018, soft filter pruning)."""
    return weight_of(model, layer).flatten(1).norm(dim=1)


def fpgm(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Sum of distances to the other filters of the layer (He et al. 2019): what others can stand in for goes first."""
    filters = weight_of(model, layer).flatten(1)
    return torch.cdist(filters, filters).sum(1)


def taylor(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """First-order Taylor term per filter, sum of squared (gradient x weight) (Molchanov et al. 2019, eq. 8)."""
    return statistics[layer].taylor.clone()


def random(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """A fixed random order: the control that every criterion must beat."""
    weight = weight_of(model, layer)
    generator = torch.Generator().manual_seed(weight.shape[0] * 7919 + weight[0].numel())
    return torch.rand(weight.shape[0], generator=generator)


def fisher(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Second-order loss increase of removing the filter, 1/2 S_ii (w_i C w_i^T), with S, C as in `evaluators.statistics`."""
    stats, weight = statistics[layer], weight_of(model, layer).flatten(1)
    return 0.5 * stats.output_gradient.diagonal() * ((weight @ stats.input_covariance) * weight).sum(1)


@dataclass(frozen=True)
class Ranking:
    """Units of every group from most to least salient, per criterion."""

    order: Mapping[tuple[str, str], tuple[int, ...]]

    def keep(self, group: str, criterion: str, kept: int) -> tuple[int, ...]:
        if (group, criterion) not in self.order:
            known = sorted({name for _, name in self.order})
            raise ValueError(
                f"group {group!r} must be ranked by one of {known}, but got criterion={criterion!r}; "
                "name it in space.criteria"
            )
        return tuple(sorted(self.order[(group, criterion)][:kept]))


def rank(trace: Trace, model: nn.Module, statistics: Statistics, criteria: Mapping[str, Criterion]) -> Ranking:
    """Order every group by every criterion; ties go to the lower index, so the order is the same everywhere."""
    order = {}
    for index, group in enumerate(trace.network.groups):
        for name, criterion in criteria.items():
            scores = group_scores(trace, index, group, partial(_score, criterion, model, statistics))
            order[(group.name, name)] = tuple(torch.sort(scores, descending=True, stable=True).indices.tolist())
    return Ranking(order)


def _score(criterion: Criterion, model: nn.Module, statistics: Statistics, layer: str) -> Tensor:
    return criterion(model, layer, statistics)


def group_scores(trace: Trace, index: int, group: ChannelGroup, score: Callable[[str], Tensor]) -> Tensor:
    """One score per unit of a group: its producers' channel scores, each layer scaled to mean one, summed."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for producer in group.producers:
        scores = score(producer).double()
        scores = scores / scores.mean().clamp_min(1e-30)
        total += _to_units(trace, producer, index, scores, group.size)
    return total


def _to_units(trace: Trace, layer: str, group: int, scores: Tensor, size: int) -> Tensor:
    """Sum channel scores over the channels of each unit."""
    (channel_map,) = [m for m in trace.maps_of(f"{layer}.weight") if m.dim == 0]
    result = torch.zeros(size, dtype=torch.float64)
    mine = torch.tensor([g == group for g in channel_map.group])
    return result.index_add(0, torch.tensor(channel_map.unit)[mine], scores[mine])
