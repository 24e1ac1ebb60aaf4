"""From labels to channel groups: which units are cut together, where they sit in the tensors, and what stays dense and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from evaluators.channels import ChannelMap
from evaluators.labels import NONE, along
from evaluators.recording import Recording
from search_spaces.network import Axis, ChannelGroup, Dense

Member = tuple[str, str]  # (module or tensor, "out" | "in" | "vector")


class Grouping:
    """Lookup tables between unit roots, groups and axes. refused: groups that the probe found unsafe, with the reason."""

    def __init__(self, recording: Recording, refused: Mapping[str, str]) -> None:
        self.recording, self.refused = recording, refused
        self.dims: dict[str, int] = {}  # of parameters outside layers, the dimension that is cut
        self.lines = self._lines()
        units = recording.units
        self.reasons = {units.root(unit): why for unit, why in units.pinned.items()}
        self.coupled = {units.root(unit): why for unit, why in units.coupled.items()}
        self.groups, self.place, self.dense = self._group()
        self._table = torch.full((len(units) + 1,), -1)
        for root, (group, _) in self.place.items():
            self._table[root] = group

    def _lines(self) -> dict[Member, Tensor]:
        units, lines = self.recording.units, dict[Member, Tensor]()
        for name, call in self.recording.layers.items():
            lines[(name, "out")] = units.roots(call.out_labels)
            lines[(name, "in")] = units.roots(call.in_labels)
        for name, line in self.recording.vectors.items():
            lines[(name, "vector")] = units.roots(line)
        for name, labels in self.recording.parameters.items():
            roots = units.roots(labels)
            cut = [(dim, found) for dim in range(roots.dim()) if (found := along(roots, dim)) is not None]
            if cut:
                self.dims[name], lines[(name, "vector")] = cut[0]
            else:
                units.pin(roots, f"meets {name}, in which channels are mixed")
        return lines

    def _members(self) -> dict[int, list[Member]]:
        members: dict[int, list[Member]] = defaultdict(list)
        for member, line in self.lines.items():
            for root in line.tolist():
                if root != NONE:
                    members[root].append(member)
        return members

    def _group(self) -> tuple[tuple[ChannelGroup, ...], dict[int, tuple[int, int]], tuple[Dense, ...]]:
        """Units with the same members, equally often, form one group; returns groups, root -> (group, unit), dense sites."""
        classes: dict[tuple[tuple[Member, int], ...], list[int]] = defaultdict(list)
        for root, found in self._members().items():
            classes[tuple(sorted(Counter(found).items()))].append(root)
        order = {name: i for i, name in enumerate(self.recording.layers)}
        groups: list[ChannelGroup] = []
        place: dict[int, tuple[int, int]] = {}
        dense: list[Dense] = []
        named = Counter[str]()
        for signature, roots in sorted(classes.items(), key=lambda item: _first_producer(item[0], order)):
            made = {name: times for (name, role), times in signature if role == "out" and not self.depthwise(name)}
            producers = tuple(sorted(made, key=order.__getitem__))
            consumers = tuple(sorted({name for (name, role), _ in signature if role == "in"}, key=order.__getitem__))
            named[producers[0]] += 1
            name = producers[0] if named[producers[0]] == 1 else f"{producers[0]}#{named[producers[0]]}"
            if why := self._why_dense(name, roots, consumers):
                dense.append(Dense("+".join(producers), len(roots) * made[producers[0]], why))
                continue
            place.update({root: (len(groups), i) for i, root in enumerate(roots)})
            groups.append(ChannelGroup(name, len(roots), producers, consumers, made[producers[0]]))
        return tuple(groups), place, tuple(dense)

    def _why_dense(self, name: str, roots: list[int], consumers: tuple[str, ...]) -> str:
        pinned = next((self.reasons[root] for root in roots if root in self.reasons), "")
        single = self.coupled.get(roots[0], "has a single channel") if len(roots) == 1 else ""
        return single or pinned or ("" if consumers else "feeds no further layer") or self.refused.get(name, "")

    def depthwise(self, name: str) -> bool:
        call = self.recording.layers[name]
        return call.groups > 1 and call.groups == len(call.in_labels) == len(call.out_labels)

    def axis(self, line: Tensor) -> Axis:
        """A size that counts these roots."""
        groups = self._table[line.reshape(-1)]
        terms = torch.bincount(groups[groups >= 0], minlength=len(self.groups)).tolist()
        return Axis(
            int((groups < 0).sum()),
            tuple((self.groups[g].name, n // self.groups[g].size) for g, n in enumerate(terms) if n),
        )

    def touched(self, labels: Tensor) -> tuple[str, ...]:
        """Groups that have units among these labels."""
        found = torch.unique(self._table[self.recording.units.roots(labels)]).tolist()
        return tuple(self.groups[g].name for g in found if g >= 0)

    def maps(self, model: nn.Module) -> Iterable[ChannelMap]:
        """Every dimension of every tensor that groups cut."""
        for name, call in self.recording.layers.items():
            out, into = self.lines[(name, "out")], self.lines[(name, "in")]
            yield self._map(f"{name}.weight", 0, out)
            if call.bias:
                yield self._map(f"{name}.bias", 0, out)
            if not self.depthwise(name):
                yield self._map(f"{name}.weight", 1, into[: len(into) // call.groups])
        for name in self.recording.vectors:
            line, module = self.lines[(name, "vector")], model.get_submodule(name)
            for key, tensor in (*module.named_parameters(), *float_buffers(module)):
                if tensor.shape == line.shape:
                    yield self._map(f"{name}.{key}", 0, line)
        for name, dim in self.dims.items():
            yield self._map(name, dim, self.lines[(name, "vector")])

    def _map(self, tensor: str, dim: int, line: Tensor) -> ChannelMap:
        at = [self.place.get(root, (-1, i)) for i, root in enumerate(line.tolist())]
        return ChannelMap(tensor, dim, tuple(g for g, _ in at), tuple(u for _, u in at))


def _first_producer(signature: tuple[tuple[Member, int], ...], order: Mapping[str, int]) -> int:
    return min((order[name] for (name, role), _ in signature if role == "out"), default=len(order))


def float_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]
