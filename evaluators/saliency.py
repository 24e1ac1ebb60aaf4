"""Saliency criteria: how much a channel unit of a group matters. Each returns one score per unit, larger means keep.

Most look at what a layer makes: they score the output channels of one layer, and the scores of a group's producers are scaled to
mean one and added, so that no layer dominates by its scale. Others look at what the layers that read the group lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor, nn

from evaluators.channels import ChannelMap, Trace
from evaluators.layers import weight_of
from evaluators.statistics import LayerStatistics
from search_spaces.network import ChannelGroup

Statistics = Mapping[str, LayerStatistics]
OutputCriterion = Callable[[nn.Module, str, Statistics], Tensor]


@dataclass(frozen=True)
class Site:
    """One channel group of a network that was looked at: everything a criterion may use."""

    trace: Trace
    model: nn.Module
    statistics: Statistics
    index: int

    @property
    def group(self) -> ChannelGroup:
        return self.trace.network.groups[self.index]

    def units(self, channel_map: ChannelMap) -> tuple[Tensor, Tensor]:
        """Where this group sits in one dimension of a tensor: indices, and the unit of each."""
        mine = [(i, u) for i, (g, u) in enumerate(_pairs(channel_map)) if g == self.index]
        return torch.tensor([i for i, _ in mine], dtype=torch.long), torch.tensor(
            [u for _, u in mine], dtype=torch.long
        )


Criterion = Callable[[Site], Tensor]


def _pairs(channel_map: ChannelMap) -> zip[tuple[int, int]]:
    return zip(channel_map.group, channel_map.unit, strict=True)


def per_output(score: OutputCriterion) -> Criterion:
    """The criterion of a group from scores (model, layer, statistics) -> (output channels,) of each of its producers."""

    @wraps(score)
    def scored(site: Site) -> Tensor:
        total = torch.zeros(site.group.size, dtype=torch.float64)
        for producer in site.group.producers:
            scores = score(site.model, producer, site.statistics).double().cpu()
            (channel_map,) = [m for m in site.trace.maps_of(f"{producer}.weight") if m.dim == 0]
            at, unit = site.units(channel_map)
            total.index_add_(0, unit, scores[at] / scores.mean().clamp_min(1e-30))
        return total

    return scored


@per_output
def l1(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Sum of absolute filter weights (Li et al. 2017)."""
    return weight_of(model, layer).abs().flatten(1).sum(1)


@per_output
def l2(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Euclidean norm of the filter (He et al. 2018, soft filter pruning)."""
    return weight_of(model, layer).flatten(1).norm(dim=1)


@per_output
def fpgm(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Sum of distances to the other filters of the layer (He et al. 2019): what others can stand in for goes first."""
    filters = weight_of(model, layer).flatten(1)
    return torch.cdist(filters, filters).sum(1)


@per_output
def bn_scale(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Magnitude of the scale of the batch normalisation after the layer (Liu et al. 2017), which is the standard deviation of the
    normalised channel; where none follows, the standard deviation that the channel has."""
    return statistics[layer].output_scale


@per_output
def apoz(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Share of places where the channel, normalised if a batch normalisation follows, is positive and so survives a ReLU: one
    minus the average percentage of zeros (Hu et al. 2016)."""
    return statistics[layer].output_positive


@per_output
def taylor(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """First-order Taylor term per filter, sum of squared (gradient x weight) (Molchanov et al. 2019, eq. 8)."""
    return statistics[layer].taylor


@per_output
def fisher(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """Second-order loss increase of removing the filter, 1/2 S_ii (w_i C w_i^T), with S, C as in `evaluators.statistics`."""
    stats, weight = statistics[layer], weight_of(model, layer).flatten(1)
    return 0.5 * stats.output_gradient.diagonal() * ((weight @ stats.input_covariance) * weight).sum(1)


@per_output
def random(model: nn.Module, layer: str, statistics: Statistics) -> Tensor:
    """A fixed random order: the control that every criterion must beat."""
    weight = weight_of(model, layer)
    generator = torch.Generator().manual_seed(weight.shape[0] * 7919 + weight[0].numel())
    return torch.rand(weight.shape[0], generator=generator)


def gram(site: Site) -> Tensor:
    """Position in a greedy removal that keeps the outputs of the layers that read the group close: the squared error of removing
    the units R is the sum of G over R x R, with G_ij the inner product of what units i and j contribute (as ThiNet does: Luo et
    al. 2017)."""
    contributions = contribution_gram(site)
    left = torch.ones(site.group.size, dtype=torch.bool)
    cost, scores = contributions.diagonal().clone(), torch.zeros(site.group.size, dtype=torch.float64)
    for position in range(site.group.size):
        least = int(torch.where(left, cost, torch.inf).argmin())
        scores[least], left[least] = position + 1, False
        cost += 2 * contributions[:, least]
    return scores


def contribution_gram(site: Site) -> Tensor:
    """G (units, units): inner products, averaged over places and without their means, of what the units contribute to the outputs
    of the layers that read the group."""
    total = torch.zeros(site.group.size, site.group.size, dtype=torch.float64)
    for consumer in site.group.consumers:
        for channel_map in site.trace.maps_of(f"{consumer}.weight"):
            if channel_map.dim == 1:
                total += _contributions(site, consumer, channel_map)
    return total


def _contributions(site: Site, consumer: str, channel_map: ChannelMap) -> Tensor:
    weight = weight_of(site.model, consumer).flatten(1).double().cpu()
    products = (weight.T @ weight) * site.statistics[consumer].input_covariance.double().cpu()
    channels, unit = site.units(channel_map)
    places = weight.shape[1] // len(channel_map.group)
    columns = (channels[:, None] * places + torch.arange(places)).flatten()
    units, size = unit.repeat_interleave(places), site.group.size
    rows = torch.zeros(size, len(columns), dtype=torch.float64).index_add_(0, units, products[columns][:, columns])
    return torch.zeros(size, size, dtype=torch.float64).index_add_(1, units, rows)


@dataclass(frozen=True)
class Ranking:
    """Units of every group from most to least salient, per criterion."""

    order: Mapping[tuple[str, str], tuple[int, ...]]

    def keep(self, group: str, criterion: str, kept: int) -> tuple[int, ...]:
        return tuple(sorted(self.of(group, criterion)[:kept]))

    def of(self, group: str, criterion: str) -> tuple[int, ...]:
        """All units of a group, the most salient first."""
        if (group, criterion) not in self.order:
            known = sorted({name for _, name in self.order})
            raise ValueError(
                f"group {group!r} must be ranked by one of {known}, but got criterion={criterion!r}; "
                "name it in space.criteria"
            )
        return self.order[(group, criterion)]


def rank(trace: Trace, model: nn.Module, statistics: Statistics, criteria: Mapping[str, Criterion]) -> Ranking:
    """Order every group by every criterion; ties go to the lower index, so the order is the same everywhere."""
    order = {}
    for index, group in enumerate(trace.network.groups):
        for name, criterion in criteria.items():
            scores = criterion(Site(trace, model, statistics, index))
            order[(group.name, name)] = tuple(torch.sort(scores, descending=True, stable=True).indices.tolist())
    return Ranking(order)
