"""Try the cuts before a search relies on them: a network that breaks or answers otherwise when cut keeps those channels.

Labels cannot see sizes that the forward code reads from attributes (numbers of heads) or has written into it. The first are found
here: integers of the modules that see a group's channels and that equal one of its full sizes; where restating them makes the cut
network equal the masked one, they are restated in every cut. Groups that no restating helps stay dense.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten

from evaluators.channels import Size, Trace, kept_index
from evaluators.layers import Example, as_arguments, layer_of
from evaluators.modes import without_fused_attention
from evaluators.slicing import slice_channels
from search_spaces.network import Axis, ChannelGroup

TOLERANCE = 1e-2  # of what the cut changes at the outputs
ROUNDING = 1e-5  # of the largest output; sums run in another order in a smaller network
TRIALS = 40  # after so many, groups that nobody tried stay dense

Cuts = Mapping[str, Sequence[int]]


@dataclass
class Found:
    """Groups that cannot be cut safely, with the reason, and attributes that have to follow the cuts of the others."""

    refused: dict[str, str] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ()


@torch.no_grad()
def probe(model: nn.Module, trace: Trace, example: Example, narrow: bool = True) -> Found | None:
    """Cut all groups together; if that fails, also restate attributes; if that fails, narrow it down to the groups at fault, or
    return None without `narrow`."""
    names = [g.name for g in trace.network.groups]
    if not names:
        return Found()
    bench = _Bench(model, trace, example)
    if not bench.fault(names, ()):
        return Found()
    choices = {g.name: _candidates(model, trace, g) for g in trace.network.groups}
    everything = _distinct(size for sizes in choices.values() for size in sizes)
    if everything and not bench.fault(names, everything):
        return Found(sizes=_needed(bench, names, everything))
    return _narrowed(bench, names, choices) if narrow else None


def _needed(bench: _Bench, names: list[str], sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Without the attributes that equal a size by chance: one kind after the other is left out where all is well without it."""
    for kind in dict.fromkeys(size.attribute for size in sizes):
        fewer = tuple(size for size in sizes if size.attribute != kind)
        if fewer and not bench.fault(names, fewer):
            sizes = fewer
    return sizes


def _narrowed(bench: _Bench, groups: list[str], choices: Mapping[str, tuple[Size, ...]]) -> Found:
    """Let groups join the safe ones in halves: few trials where few are at fault."""
    found = Found()
    safe: list[str] = []
    pending = [groups]
    while pending:
        names = pending.pop()
        if bench.trials > TRIALS:
            found.refused.update(dict.fromkeys(names, "the probe ran out of trials before this group"))
            continue
        tried = [*safe, *names]
        sizes, why = _remedy(
            bench, tried, found.sizes, _distinct(s for name in names for s in choices[name]), len(names) == 1
        )
        if not why:
            safe, found.sizes = tried, sizes
        elif len(names) == 1:
            found.refused[names[0]] = why
        else:
            pending += [names[len(names) // 2 :], names[: len(names) // 2]]
    return found


def _remedy(
    bench: _Bench, names: list[str], known: tuple[Size, ...], candidates: tuple[Size, ...], thorough: bool
) -> tuple[tuple[Size, ...], str]:
    """The attributes with which these cuts work, or why they do not: none, all candidates, or with `thorough` one alone."""
    why = bench.fault(names, known)
    options = [candidates, *([(c,) for c in candidates] if thorough and len(candidates) > 1 else [])]
    for option in options if why else []:
        sizes = _distinct((*known, *option))
        if option and not bench.fault(names, sizes):
            return sizes, ""
    return known, why


def _distinct(sizes: Iterable[Size]) -> tuple[Size, ...]:
    return tuple({(size.module, size.attribute): size for size in sizes}.values())


def _candidates(model: nn.Module, trace: Trace, group: ChannelGroup) -> tuple[Size, ...]:
    """Integer attributes, of the modules that see the group, that equal one of its full sizes."""
    full = {g.name: g.size for g in trace.network.groups}
    layers = {*group.producers, *group.consumers}
    axes = [axis for layer in trace.network.layers if layer.name in layers for axis in (layer.in_axis, layer.out_axis)]
    mine = [Axis(0, ((group.name, 1),)), *(a for a in axes if any(name == group.name for name, _ in a.terms))]
    by_size = {axis.size(full): axis for axis in reversed(mine)}
    parents = {name.rpartition(".")[0] for name in layers}
    known = {(size.module, size.attribute) for size in trace.sizes}
    found = []
    for module in sorted(
        {*trace.touched.get(group.name, ()), *parents} - {layer.name for layer in trace.network.layers}
    ):
        for attribute, value in vars(model.get_submodule(module)).items():
            if type(value) is int and value in by_size and value > 1 and (module, attribute) not in known:
                found.append(Size(module, attribute, by_size[value]))
    return tuple(found)


class _Bench:
    """Compares cut with masked networks on one example, in eval mode."""

    def __init__(self, model: nn.Module, trace: Trace, example: Example) -> None:
        self.whole = share_tensors(model).eval()
        self.trace, self.example = trace, example
        self.answer = self._run(self.whole)
        self.trials = 0
        self.expected: dict[
            tuple[int, frozenset[str]], Tensor
        ] = {}  # masked networks answer alike whatever is restated
        self.cuts = [
            {g.name: drop(g.size, i) for i, g in enumerate(trace.network.groups)} for drop in (_every_few, _last_few)
        ]

    def _run(self, model: nn.Module) -> Tensor:
        with torch.no_grad(), without_fused_attention():
            return _outputs(model(*as_arguments(self.example)))

    def fault(self, names: Sequence[str], sizes: tuple[Size, ...]) -> str:
        """Why the network does not equal its masked twin when these groups are cut, in one of two ways; empty if it does."""
        self.trials += 1
        faults = (self._fault(way, names, sizes) for way in range(len(self.cuts)))
        return next((why for why in faults if why), "")

    def _fault(self, way: int, names: Sequence[str], sizes: tuple[Size, ...]) -> str:
        kept = {name: self.cuts[way][name] for name in names}
        trace = replace(self.trace, sizes=_distinct((*self.trace.sizes, *sizes)))
        try:
            cut = share_tensors(self.whole)
            slice_channels(cut, trace, kept)
            got = self._run(cut)
        except Exception as error:  # whatever the user's forward pass may raise
            return f"cutting it breaks the forward pass ({(str(error).splitlines() or [''])[0][:100]})"
        expected = self._masked(way, kept)
        if got.shape != expected.shape:
            return "cutting it changes the shape of the output"
        difference, effect = float((got - expected).abs().max()), float((expected - self.answer).abs().max())
        if difference <= TOLERANCE * effect + ROUNDING * float(expected.abs().max()):
            return ""
        return f"cutting it gives outputs that differ from masking it by {difference:.2g}, where masking changes {effect:.2g}"

    def _masked(self, way: int, kept: Cuts) -> Tensor:
        key = way, frozenset(kept)
        if key not in self.expected:
            weights = masked_weights(self.whole, self.trace, kept)
            with torch.no_grad(), without_fused_attention():
                answer = functional_call(self.whole, weights, as_arguments(self.example), tie_weights=False)
            self.expected[key] = _outputs(answer)
        return self.expected[key]


def _every_few(size: int, index: int) -> tuple[int, ...]:
    """Units that stay. Groups lose different shares: equal ones hide faults, as in `view(n, 2, channels // 2, ...)`."""
    return tuple(unit for unit in range(size) if unit % (3 + index % 5) != 1)


def _last_few(size: int, index: int) -> tuple[int, ...]:
    """Units that stay: other numbers than those of `_every_few`, so that groups that agreed by chance do not again."""
    return tuple(range(size - 1 - index % max(1, size // 2)))


def share_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules that holds the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})


def masked(model: nn.Module, trace: Trace, kept: Cuts) -> nn.Module:
    """A copy in eval mode, of full size, whose layers ignore the dropped units: the oracle for cutting."""
    copied = share_tensors(model).eval()
    for name, weight in masked_weights(copied, trace, kept).items():
        layer = layer_of(copied, name.rpartition(".")[0])
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    return copied


def masked_weights(model: nn.Module, trace: Trace, kept: Cuts) -> dict[str, Tensor]:
    """The weights that ignore the dropped units, by the name of the parameter."""
    numbers = {group.name: i for i, group in enumerate(trace.network.groups)}
    chosen = {numbers[name]: units for name, units in kept.items()}
    found: dict[str, Tensor] = {}
    for layer in trace.network.layers:
        name = f"{layer.name}.weight"
        for channel_map in trace.maps_of(name):
            if channel_map.dim == 1 and any(group in chosen for group in set(channel_map.group)):
                weight = found.get(name, layer_of(model, layer.name).weight)
                found[name] = _silenced(weight, kept_index(channel_map, chosen))
    return found


def _silenced(weight: Tensor, kept: Sequence[int]) -> Tensor:
    heard = torch.zeros(weight.shape[1], dtype=weight.dtype)
    heard[list(kept)] = 1
    return weight.detach() * heard.view(1, -1, *[1] * (weight.dim() - 2))


def _outputs(output: object) -> Tensor:
    """All floating-point tensors of an output of any structure, in one line."""
    tensors = [t.flatten().float() for t in tree_flatten(output)[0] if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.cat(tensors)
