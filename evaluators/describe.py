"""From a recording to a torch-free `Network` and the channel maps of its tensors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from evaluators.channels import ChannelMap, Trace
from evaluators.labels import NONE, along
from evaluators.probe import refused
from evaluators.trace import ModuleCall, Recording, record
from search_spaces.network import Activation, Axis, Block, ChannelGroup, Dense, Layer, Network, Step, Vector

Member = tuple[str, str]  # (module, "out" | "in" | "vector")


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Describe a model from one forward pass on `example` (1, channels, ...); raises ValueError where that pass fails."""
    try:
        recording = record(model, example)
    except Exception as error:  # whatever the user's forward pass may raise
        raise ValueError(
            f"the model must run on an input of shape {tuple(example.shape)}, but got {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}; check the model and the data set"
        ) from error
    if not recording.layers:
        raise ValueError(
            "the model must contain at least one Conv2d or Linear layer that its forward pass uses, but got none"
        )
    if not recording.outputs:
        raise ValueError(
            "the model must return a tensor, or tensors in tuples, lists or dicts, but got none; return the logits"
        )
    described = _Describer(model, recording, {}).trace()
    unsafe = refused(model, described, example)
    return _Describer(model, recording, unsafe).trace() if unsafe else described


class _Describer:
    """Holds the lookup tables between unit roots, groups and axes while a recording is turned into a network."""

    def __init__(self, model: nn.Module, recording: Recording, refused: Mapping[str, str]) -> None:
        self.model, self.recording, self.refused = model, recording, refused
        self.lines = self._lines()
        self.reasons = self._reasons()
        self.groups, self.place, self.dense = self._group()

    def _lines(self) -> dict[Member, Tensor]:
        units, lines = self.recording.units, {}
        for name, call in self.recording.layers.items():
            lines[(name, "out")] = units.roots(call.out_labels)
            lines[(name, "in")] = units.roots(call.in_labels)
        for name, line in self.recording.vectors.items():
            lines[(name, "vector")] = units.roots(line)
        return lines

    def _reasons(self) -> dict[int, str]:
        return {self.recording.units.root(unit): why for unit, why in self.recording.units.pinned.items()}

    def _members(self) -> dict[int, list[tuple[Member, int]]]:
        members: dict[int, list[tuple[Member, int]]] = defaultdict(list)
        for member, line in self.lines.items():
            for index, root in enumerate(line.tolist()):
                if root != NONE:
                    members[root].append((member, index))
        return members

    def _group(self) -> tuple[tuple[ChannelGroup, ...], dict[int, tuple[int, int]], tuple[Dense, ...]]:
        """Units with the same members, equally often, form one group; returns groups, root -> (group, unit), dense sites."""
        classes: dict[tuple[tuple[Member, int], ...], list[int]] = defaultdict(list)
        members = self._members()
        for root in sorted(members, key=lambda r: members[r][0][1]):
            counts: dict[Member, int] = defaultdict(int)
            for member, _ in members[root]:
                counts[member] += 1
            classes[tuple(sorted(counts.items()))].append(root)
        order = list(self.recording.layers)
        groups: list[ChannelGroup] = []
        place: dict[int, tuple[int, int]] = {}
        dense: list[Dense] = []
        named = Counter[str]()
        for signature, roots in sorted(classes.items(), key=lambda item: _first_producer(item[0], order)):
            producers = tuple(name for (name, role), _ in signature if role == "out" and not self._depthwise(name))
            producers = tuple(sorted(producers, key=order.index))
            consumers = tuple(sorted({name for (name, role), _ in signature if role == "in"}, key=order.index))
            why = next(
                (self.reasons[r] for r in roots if r in self.reasons), "" if consumers else "feeds no further layer"
            )
            named[producers[0]] += 1
            name = producers[0] if named[producers[0]] == 1 else f"{producers[0]}#{named[producers[0]]}"
            why = why or self.refused.get(name, "")
            if why or len(roots) < 2:
                dense.append(Dense("+".join(producers), len(roots), why or "has a single channel"))
                continue
            place.update({root: (len(groups), i) for i, root in enumerate(roots)})
            groups.append(ChannelGroup(name, len(roots), producers, consumers))
        return tuple(groups), place, tuple(dense)

    def _depthwise(self, name: str) -> bool:
        call = self.recording.layers[name]
        return call.groups > 1 and call.groups == len(call.in_labels) == len(call.out_labels)

    def axis(self, line: Tensor) -> Axis:
        counts: dict[int, int] = defaultdict(int)
        fixed = 0
        for root in line.tolist():
            if root in self.place:
                counts[self.place[root][0]] += 1
            else:
                fixed += 1
        return Axis(fixed, tuple((self.groups[g].name, n // self.groups[g].size) for g, n in sorted(counts.items())))

    def channel_map(self, tensor: str, dim: int, line: Tensor) -> ChannelMap:
        at = [self.place.get(root, (-1, i)) for i, root in enumerate(line.tolist())]
        return ChannelMap(tensor, dim, tuple(g for g, _ in at), tuple(u for _, u in at))

    def trace(self) -> Trace:
        layers = tuple(self._layer(name) for name in self.recording.layers)
        blocks = self._blocks()
        vectors = tuple(self._vector(name) for name in self.recording.vectors)
        steps = tuple(Step(op.reads, op.makes, op.layer, _block_of(op.modules, blocks)) for op in self.recording.ops)
        counted = {*self.recording.layers, *self.recording.vectors}
        network = Network(
            layers=layers,
            groups=self.groups,
            vectors=vectors,
            blocks=blocks,
            activations=tuple(self._activation(i) for i in range(len(self.recording.activations))),
            steps=steps,
            outputs=self.recording.outputs,
            dense=self.dense,
            fixed_parameters=_count(self.model.named_parameters(), counted),
            fixed_buffers=_count(_float_buffers(self.model), counted),
        )
        return Trace(network, tuple(self._maps()))

    def _layer(self, name: str) -> Layer:
        call = self.recording.layers[name]
        kernel = tuple(call.weight.shape[2:]) if call.kind == "conv" else (1, 1)
        return Layer(
            name=name,
            kind=call.kind,
            in_axis=self.axis(self.lines[(name, "in")]),
            out_axis=self.axis(self.lines[(name, "out")]),
            in_channels=len(call.in_labels),
            out_channels=len(call.out_labels),
            kernel=(int(kernel[0]), int(kernel[1])),
            groups=call.groups,
            bias=call.bias,
            in_positions=call.in_positions,
            out_positions=call.out_positions,
            calls=call.calls,
        )

    def _vector(self, name: str) -> Vector:
        module = self.model.get_submodule(name)
        line = self.lines[(name, "vector")]
        parameters = sum(p.numel() for p in module.parameters()) // len(line)
        buffers = sum(b.numel() for _, b in _float_buffers(module)) // len(line)
        return Vector(name, self.axis(line), parameters, buffers)

    def _activation(self, index: int) -> Activation:
        labels = self.recording.units.roots(self.recording.activations[index])
        for dim in (1, labels.dim() - 1):
            if labels.dim() > dim >= 0 and (line := along(labels, dim)) is not None:
                return Activation(self.axis(line), labels.numel() // len(line))
        return Activation(Axis(labels.numel()), 1)

    def _maps(self) -> Iterable[ChannelMap]:
        for name, call in self.recording.layers.items():
            out, into = self.lines[(name, "out")], self.lines[(name, "in")]
            yield self.channel_map(f"{name}.weight", 0, out)
            if call.bias:
                yield self.channel_map(f"{name}.bias", 0, out)
            if not self._depthwise(name):
                yield self.channel_map(f"{name}.weight", 1, into[: len(into) // call.groups])
        for name in self.recording.vectors:
            line, module = self.lines[(name, "vector")], self.model.get_submodule(name)
            for key, tensor in (*module.named_parameters(), *_float_buffers(module)):
                if tensor.shape == line.shape:
                    yield self.channel_map(f"{name}.{key}", 0, line)

    def _blocks(self) -> tuple[Block, ...]:
        """Innermost submodules, called once, that add their input to their output and end with the labels they began with."""
        calls = self.recording.modules
        often = Counter(call.name for call in calls)
        found = [c for c in calls if often[c.name] == 1 and self._residual(c)]
        inner = [c for c in found if not any(o.name.startswith(c.name + ".") for o in found)]
        return tuple(self._block(c) for c in inner)

    def _residual(self, call: ModuleCall) -> bool:
        units, ops = self.recording.units, self.recording.ops[call.first : call.last]
        same = bool(torch.equal(units.roots(call.in_labels), units.roots(call.out_labels)))
        adds = any(op.name in ("add", "add_") and call.input in op.reads for op in ops)
        return same and adds and any(op.layer for op in ops) and call.input != call.output

    def _block(self, call: ModuleCall) -> Block:
        inside = self.recording.ops[call.first : call.last]
        layers = tuple(dict.fromkeys(op.layer for op in inside if op.layer))
        vectors = tuple(name for name in self.recording.vectors if name.startswith(call.name + "."))
        module = self.model.get_submodule(call.name)
        local = {name[len(call.name) + 1 :] for name in (*layers, *vectors)}
        return Block(
            name=call.name,
            layers=layers,
            vectors=vectors,
            input=call.input,
            output=call.output,
            fixed_parameters=_count(module.named_parameters(), local),
            fixed_buffers=_count(_float_buffers(module), local),
        )


def _first_producer(signature: tuple[tuple[Member, int], ...], order: list[str]) -> int:
    return min((order.index(name) for (name, role), _ in signature if role == "out"), default=len(order))


def _block_of(modules: tuple[str, ...], blocks: tuple[Block, ...]) -> str:
    return next((b.name for b in blocks if b.name in modules), "")


def _float_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]


def _count(tensors: Iterable[tuple[str, Tensor]], counted: set[str]) -> int:
    """Elements of the tensors that belong to no counted layer or vector."""
    return sum(t.numel() for name, t in tensors if name.rpartition(".")[0] not in counted)
