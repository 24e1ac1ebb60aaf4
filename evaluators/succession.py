"""Going on from the tuned network of an earlier plan: only what the new plan takes away beyond it is cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evaluators.channels import Trace, kept_index
from evaluators.compose import compose, kept_units
from evaluators.moments import InputMoments
from evaluators.saliency import Ranking
from search_spaces.plan import CompressionPlan


def succeed(
    tuned: nn.Module,
    before: CompressionPlan,
    plan: CompressionPlan,
    model: nn.Module,
    trace: Trace,
    ranking: Ranking,
    moments: Mapping[str, InputMoments],
) -> nn.Module:
    """The network of `plan` with the weights of `tuned`, that of the plan `before`; `model` is the uncompressed one.

    Either the plans are equal, or `before` only prunes and `plan` prunes at least as much; ValueError otherwise.
    """
    if plan == before:
        same = compose(model, trace, ranking, plan, moments)
        same.load_state_dict(tuned.state_dict())
        return same
    _check_nested(trace, ranking, before, plan)
    return compose(grown_back(tuned, model, trace, kept_units(ranking, before)), trace, ranking, plan, moments)


def grown(tuned: nn.Module, plan: CompressionPlan, model: nn.Module, trace: Trace, ranking: Ranking) -> nn.Module:
    """The tuned network of a plan in the shape of the uncompressed `model`, with the same logits: channels that were cut are
    zero, and nobody reads them. ValueError for a plan that does more than to prune channels."""
    found = [*(["skips"] if plan.skips else []), *_beyond_pruning(plan)]
    if found:
        raise ValueError(
            f"a network that gets back its full shape must have lost channels alone, but got one with {', '.join(found)}; "
            "look at the uncompressed network instead"
        )
    return grown_back(tuned, model, trace, kept_units(ranking, plan))


def grown_back(tuned: nn.Module, model: nn.Module, trace: Trace, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A pruned network's tensors in the shape of the uncompressed `model`, zero where channels were cut. What layers read that
    make up for lost channels is so the tuned weight alone."""
    full = copy.deepcopy(model)
    whole, numbers = full.state_dict(), trace.network.columns
    chosen = {numbers[name]: units for name, units in kept.items()}
    with torch.no_grad():
        for name, tensor in tuned.state_dict().items():
            index = [torch.arange(size, device=tensor.device) for size in whole[name].shape]
            for channel_map in trace.maps_of(name):
                index[channel_map.dim] = torch.tensor(kept_index(channel_map, chosen), device=tensor.device)
            _place(whole[name], index, tensor)
    return full


def _place(whole: Tensor, index: Sequence[Tensor], part: Tensor) -> None:
    """Set `whole`, in place, to zero but for `part` at these indices of each dimension."""
    if not index:
        whole.copy_(part)
        return
    whole.zero_()
    whole[torch.meshgrid(*index, indexing="ij")] = part


def _beyond_pruning(plan: CompressionPlan) -> list[str]:
    """What a plan does to layers that it keeps, by name."""
    records = {"factors": plan.factors, "sparse": plan.sparse, "bits": plan.bits}
    return [name for name, found in records.items() if found]


def _check_nested(trace: Trace, ranking: Ranking, before: CompressionPlan, plan: CompressionPlan) -> None:
    found = _beyond_pruning(before)
    if found:
        raise ValueError(
            f"the predecessor of another plan must be a network that was only pruned, but got one with {', '.join(found)}; "
            "start the plan from the uncompressed network"
        )
    if not set(before.skips) <= set(plan.skips):
        raise ValueError(
            f"a plan must leave out the blocks that its predecessor left out, but got skips={len(plan.skips)} without "
            f"{next(iter(set(before.skips) - set(plan.skips))).block}; start it from the uncompressed network"
        )
    wanted, gone = kept_units(ranking, plan), tuple(f"{skip.block}." for skip in plan.skips)
    for group, units in kept_units(ranking, before).items():
        of = trace.network.group(group)
        back = set(wanted.get(group, range(of.size))) - set(units)
        if back and not all(consumer.startswith(gone) for consumer in of.consumers):
            raise ValueError(
                f"a plan must keep only channels that its predecessor kept, but got channel {min(back)} of group {group} "
                "again; start it from the uncompressed network"
            )
