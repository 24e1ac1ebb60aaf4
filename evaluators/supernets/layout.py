"""Which part of every tensor of a sorted network belongs to a plan."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from evaluators.channels import Trace
from evaluators.supernets.optimiser import Box
from evaluators.supernets.sorting import refused_groups
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan

ELASTIC = ("widths", "skips", "bits")


@dataclass(frozen=True)
class Layout:
    """cuts: for a tensor the dimensions that follow a group, as (dimension, group, unit of every index)."""

    trace: Trace
    shapes: Mapping[str, Box]
    cuts: Mapping[str, tuple[tuple[int, str, tuple[int, ...]], ...]]
    refused: Mapping[str, str]

    def kept(self, plan: CompressionPlan) -> dict[str, int]:
        """Units kept in every group that the plan narrows; ValueError where shared weights cannot serve the plan."""
        of_plan(self.trace.network, plan)
        for name in ("masks", "factors", "sparse", "edges"):
            if getattr(plan, name):
                raise ValueError(
                    f"a plan on shared weights must consist of {', '.join(ELASTIC)}, but got {name}; set them to [] in the space"
                )
        for width in plan.widths:
            if width.group in self.refused:
                raise ValueError(
                    f"a narrowed group must be elastic, but got {width.group}: {self.refused[width.group]}; keep it whole"
                )
            if width.compensate:
                raise ValueError(
                    "shared weights are not compensated, but got a width with compensate; set space.compensate=false"
                )
        if any(bits.rounding != Bits.rounding for bits in plan.bits):
            raise ValueError(
                "shared weights are rounded to the nearest, but got rounding=gptq; leave it out of space.roundings"
            )
        return {width.group: width.kept for width in plan.widths}

    def boxes(self, kept: Mapping[str, int]) -> dict[str, Box]:
        """The part of every tensor, [:n0, :n1, ...], that is used when groups keep their first units."""
        found = dict(self.shapes)
        for tensor, cuts in self.cuts.items():
            box = list(self.shapes[tensor])
            for dim, group, units in cuts:
                if group in kept:
                    box[dim] = bisect_left(units, kept[group])
            found[tensor] = tuple(box)
        return found


def layout_of(model: nn.Module, trace: Trace) -> Layout:
    refused = refused_groups(trace)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    cuts: dict[str, tuple[tuple[int, str, tuple[int, ...]], ...]] = {}
    for channel_map in trace.maps:
        groups = {trace.network.groups[g].name for g in set(channel_map.group) - {-1}}
        if groups and not groups & refused.keys():
            (group,) = groups
            cut = (channel_map.dim, group, channel_map.unit)
            cuts[channel_map.tensor] = (*cuts.get(channel_map.tensor, ()), cut)
    return Layout(trace, {name: tuple(t.shape) for name, t in tensors.items()}, cuts, refused)
