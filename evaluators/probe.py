"""Try the cuts before a search relies on them: a network that breaks or answers otherwise when cut keeps those channels.

Two things can be wrong that labels cannot see: sizes written as numbers into the forward code, and state that depends on them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from evaluators.channels import Trace, kept_index
from evaluators.layers import weight_of
from evaluators.slicing import slice_channels

TOLERANCE = 1e-2  # of what the cut changes at the outputs
ROUNDING = 1e-5  # of the largest output; sums run in another order in a smaller network


def refused(model: nn.Module, trace: Trace, example: Tensor) -> dict[str, str]:
    """Groups that cannot be cut safely, with the reason. All are tried together first; if that fails, one joins after the other.

    Every group loses another share of its units: equal shares hide faults, as in `view(n, 2, channels // 2, ...)`.
    """
    cuts = {g.name: tuple(u for u in range(g.size) if u % (3 + i % 5) != 1) for i, g in enumerate(trace.network.groups)}
    whole = masked(model, trace, {})
    if not cuts or not _fault(whole, trace, example, cuts):
        return {}
    safe: dict[str, Sequence[int]] = {}
    faults = {}
    for name, kept in cuts.items():
        if why := _fault(whole, trace, example, {**safe, name: kept}):
            faults[name] = why
        else:
            safe[name] = kept
    return faults


@torch.no_grad()
def _fault(whole: nn.Module, trace: Trace, example: Tensor, kept: Mapping[str, Sequence[int]]) -> str:
    """Why the network (in eval mode) cut like this does not equal it with those channels masked; empty if it does."""
    try:
        cut = copy.deepcopy(whole)
        slice_channels(cut, trace, kept)
        got = _first(cut(example))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"cutting it breaks the forward pass ({(str(error).splitlines() or [''])[0][:100]})"
    expected = _first(masked(whole, trace, kept)(example))
    if got.shape != expected.shape:
        return "cutting it changes the shape of the output"
    difference = float((got - expected).abs().max())
    effect = float((expected - _first(whole(example))).abs().max())
    if difference <= TOLERANCE * effect + ROUNDING * float(expected.abs().max()):
        return ""
    return (
        f"cutting it gives outputs that differ from masking it by {difference:.2g}, where masking changes {effect:.2g}"
    )


def masked(model: nn.Module, trace: Trace, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy in eval mode, of full size, whose layers ignore the dropped units: the oracle for cutting."""
    copied = copy.deepcopy(model).eval()
    numbers = {group.name: i for i, group in enumerate(trace.network.groups)}
    chosen = {numbers[name]: units for name, units in kept.items()}
    for layer in trace.network.layers:
        for channel_map in trace.maps_of(f"{layer.name}.weight"):
            if channel_map.dim == 1:
                _silence(weight_of(copied, layer.name), kept_index(channel_map, chosen))
    return copied


def _silence(weight: Tensor, kept: Sequence[int]) -> None:
    lost = torch.ones(weight.shape[1], dtype=torch.bool)
    lost[list(kept)] = False
    weight[:, lost] = 0


def _first(output: object) -> Tensor:
    """The first tensor of an output of any structure."""
    return next(item for item in tree_flatten(output)[0] if isinstance(item, Tensor)).float()
