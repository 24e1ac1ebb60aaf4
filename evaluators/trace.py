"""Trace a network by running it once: channel groups, costs' description and the slicing map, from one real forward pass.

The tracer sees ATen operations, so the network may be written in any way that runs; it follows the path that the example input
takes. Groups come from `evaluators.rules`; nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import flop_registry

from evaluators.call import Call
from evaluators.constants import Constants
from evaluators.labels import Units, along, lean, nothing, spread
from evaluators.layers import Example, as_arguments, is_plain, kind_of
from evaluators.modes import forget_cached, in_eval_mode, without_fused_attention
from evaluators.recording import LayerCall, Op, ProductCall, Recording
from evaluators.rules import pass_labels
from evaluators.submodules import submodule_calls

CREATIONS = (
    "arange",
    "full",
    "zeros",
    "ones",
    "scalar_tensor",
    "empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
)
BATCH_NORMS = {
    "native_batch_norm", "cudnn_batch_norm", "batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
    "_batch_norm_no_update", "_batch_norm_with_update",
}  # fmt: skip


def _between(x: Tensor, output: Tensor) -> int:
    """Places at the height of a convolution's output and the width of its input."""
    return len(x) * output.shape[2] * x.shape[3]


class _Tracer(TorchDispatchMode):
    """Passes labels along with the tensors. Keeps every activation alive so that a storage address names one tensor."""

    def __init__(self, model: nn.Module, even: AbstractSet[str]) -> None:
        super().__init__()
        self._even = even
        self.recording = Recording()
        self.stack: list[str] = []
        self.constants = Constants(model)
        self._labels: dict[int, Tensor] = {}
        self._storages: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._modules = dict(model.named_modules())

    def start(self, tensor: Tensor) -> None:
        self._keep(tensor, nothing(tensor))

    def labels_of(self, tensor: Tensor) -> Tensor | None:
        return self._labels.get(id(tensor))

    def activation_of(self, tensor: Tensor) -> int | None:
        return self._storages.get(tensor.untyped_storage().data_ptr())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        outputs = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
        if not outputs or not outputs[0].numel():
            return output
        name = func._schema.name.split("::")[-1]
        layer = self._layer(name, args, inputs, outputs[0])
        macs = flop_registry[func._overloadpacket](*args, **kwargs, out_val=output) // 2 if _counted(func) else 0
        if layer:
            dim = 1 if name == "convolution" else outputs[0].dim() - 1
            self._made(
                name, inputs, outputs, [spread(self.recording.layers[layer].out_labels, outputs[0].shape, dim)], layer
            )
        elif any(self.labels_of(t) is not None for t in inputs) or name in CREATIONS:
            made = self._passed(name, func, args, kwargs, inputs, outputs)
            self._made(name, inputs, outputs, made, "")
        else:
            self.constants.derive(name, func, args, kwargs, output)
        if macs and not layer:
            labels = self.labels_of(outputs[0])
            shown = nothing(outputs[0]) if labels is None else labels
            self.recording.products.append(ProductCall(macs, shown, tuple(self.stack)))
        return output

    def _made(self, name: str, inputs: list[Tensor], outputs: list[Tensor], made: list[Tensor], layer: str) -> None:
        read = tuple(dict.fromkeys(i for t in inputs if (i := self.activation_of(t)) is not None))
        before = len(self.recording.activations)
        for tensor, label in zip(outputs, made, strict=True):
            self._keep(tensor, label)
        new = tuple(range(before, len(self.recording.activations)))
        self.recording.ops.append(Op(read, new, name, layer, tuple(self.stack)))

    def _layer(self, name: str, args: Any, inputs: list[Tensor], output: Tensor) -> str:
        """Record a call of a layer that plans can speak of; empty where the operation is none."""
        if name not in ("convolution", "addmm", "mm", "linear") or not self.stack:
            return ""
        module, known = self._modules[self.stack[-1]], self.stack[-1]
        if not is_plain(module) or self.constants.name_of(module.weight) != f"{known}.weight":
            return ""  # another forward pass than its class has, or a weight that several modules share
        used = args[1 if name in ("convolution", "linear") else len(args) - 1 if name == "mm" else 2]
        if used.untyped_storage().data_ptr() != module.weight.untyped_storage().data_ptr():
            return ""  # a weight used outside its layer: no other layer can stand in for this one
        x = args[1] if name == "addmm" else args[0]
        self._call(known, module, x, output, self._line(x, 1 if name == "convolution" else x.dim() - 1))
        return known

    def _line(self, x: Tensor, dim: int) -> Tensor:
        """Labels along a dimension; pins them where they vary along others, as in a projection across places."""
        labels = self.labels_of(x)
        units = self.recording.units
        if labels is None:
            return along(nothing(x), dim)  # type: ignore[return-value]
        line = along(labels, dim)
        if line is None:
            line = along(units.roots(labels), dim)
        if line is None:
            units.pin(labels, "feeds a layer that works along another dimension")
            line = along(nothing(x), dim)
        return line  # type: ignore[return-value]

    def _call(self, name: str, module: nn.Conv2d | nn.Linear, x: Tensor, output: Tensor, line: Tensor) -> None:
        units, layers = self.recording.units, self.recording.layers
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        if name not in layers:
            out = _out_labels(units, line, module.weight.shape[0], groups)
            layers[name] = LayerCall(name, kind_of(module), module.weight, line, out, groups, module.bias is not None)
        else:
            units.join(layers[name].in_labels, line, "feeds a shared layer together with channels that cannot be cut")
        call = layers[name]
        call.in_positions += x.numel() // len(line)
        call.out_positions += (x if call.kind == "conv_transpose" else output).numel() // len(
            line if call.kind == "conv_transpose" else call.out_labels
        )
        call.mid_positions += _between(x, output) if call.kind == "conv" else output.numel() // len(call.out_labels)
        call.calls += 1

    def _passed(
        self, name: str, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> list[Tensor]:
        """Labels of every output of an operation that is not a layer."""
        units = self.recording.units
        if name in CREATIONS:
            return [nothing(t) for t in outputs]
        call = Call(
            func,
            args,
            kwargs,
            inputs,
            [self.labels_of(t) for t in inputs],
            outputs,
            lambda: func(*tree_map(self._label_or_none, args), **kwargs),
            not self._even.isdisjoint(self.stack or [""]),
            lambda tensor, labels: self.constants.bind(tensor, labels, units),
        )
        if name in BATCH_NORMS:
            return [self._batch_norm(call), *[nothing(t) for t in outputs[1:]]]
        if name == "native_group_norm":
            return [self._group_norm(call), *[nothing(t) for t in outputs[1:]]]
        passed = pass_labels(call, units)
        if call.even and name == "split":
            self._split(call, passed[0])
        return passed

    def _label_or_none(self, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        labels = self.labels_of(item)
        if labels is None:
            return nothing(item) if item.is_floating_point() else item
        return labels

    def _batch_norm(self, call: Call) -> Tensor:
        """Every channel by itself; parameters and running statistics are cut with the channels."""
        units, line = self.recording.units, along(call.first, 1)
        state = [t for t in call.args[1:5] if isinstance(t, Tensor)]
        self._size("num_features", line)
        if state and line is None:
            units.pin(call.first, "passes through a batch normalisation with mixed channels")
        if not state or line is None:
            return call.first
        modules = {self.constants.name_of(t).rpartition(".")[0] for t in state}
        if len(modules) == 1 and (module := next(iter(modules))):
            known = self.recording.vectors.setdefault(module, line)
            units.join(known, line, "shares a batch normalisation with fixed channels")
        else:
            for tensor in state:
                call.bind(tensor, line)
        return call.first

    def _group_norm(self, call: Call) -> Tensor:
        """Channels that are normalised together are cut together; the number of groups follows."""
        units, groups = self.recording.units, call.argument("group")
        lead = units.couple(
            lean(call.first).unflatten(1, (groups, -1)), range(2, call.first.dim() + 1), "group normalisation"
        )
        share = call.first.shape[1] // groups
        line = lead.reshape(len(call.first), groups, 1).expand(-1, -1, share).reshape(len(call.first), -1)[0]
        self._size("num_groups", line[::share])
        self._size("num_channels", line)
        for tensor in call.args[1:3]:
            if isinstance(tensor, Tensor):
                call.bind(tensor, line)
        return spread(line, call.output.shape, 1)

    def _split(self, call: Call, part: Tensor) -> None:
        """Integers of the running module that equal the size of an even part or of the whole are where that size comes from."""
        share, dim = call.argument("split_size"), call.argument("dim")
        whole = call.first.shape[dim]
        if isinstance(share, int) and self.stack and whole % share == 0:
            for attribute, value in vars(self._modules[self.stack[-1]]).items():
                if type(value) is int and value in (share, whole):
                    self._size(attribute, along(part if value == share else call.first, dim))

    def _size(self, attribute: str, line: Tensor | None) -> None:
        """An integer of the running module counts these channels."""
        if line is not None and self.stack and isinstance(vars(self._modules[self.stack[-1]]).get(attribute), int):
            self.recording.sizes[(self.stack[-1], attribute)] = line

    def _keep(self, tensor: Tensor, labels: Tensor) -> None:
        self._alive.append(tensor)
        self._labels[id(tensor)] = labels
        key = tensor.untyped_storage().data_ptr()
        if key not in self._storages and tensor.numel() and tensor.is_floating_point():
            self._storages[key] = len(self.recording.activations)
            self.recording.activations.append(labels)


def _counted(func: Any) -> bool:
    return func._overloadpacket in flop_registry


def _out_labels(units: Units, line: Tensor, outputs: int, groups: int) -> Tensor:
    """New units for the outputs of a layer; a depthwise output is its input, a grouped one is cut alike in every group."""
    if groups == 1:
        return units.new(outputs)
    if groups == len(line) == outputs:
        return line
    for labels in (line, fresh := units.new(outputs)):
        per_group = labels.view(groups, -1)
        for other in per_group[1:]:
            units.join(per_group[0], other, "feeds a grouped convolution together with channels that cannot be cut")
    return fresh


def record(model: nn.Module, example: Example, even: AbstractSet[str] = frozenset()) -> Recording:
    """Run the model once in eval mode on one sample (1, ...) and return what was seen; the model is left as it was.

    even: submodules in which channels that are split by their number (chunks, channel shuffle) are to be cut alike in every part.
    """
    forget_cached(model)
    tracer = _Tracer(model, even)
    for tensor in tree_flatten(as_arguments(example))[0]:
        tracer.start(tensor)
    with in_eval_mode(model), torch.no_grad(), without_fused_attention(), submodule_calls(model, tracer), tracer:
        output = model(*as_arguments(example))
    final = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
    for tensor in final:
        labels = tracer.labels_of(tensor)
        if labels is not None:
            tracer.recording.units.pin(labels, "is an output of the network")
    tracer.recording.outputs = tuple(dict.fromkeys(i for t in final if (i := tracer.activation_of(t)) is not None))
    _settle(tracer.recording, tracer.constants.met())
    return tracer.recording


def _settle(recording: Recording, met: dict[str, Tensor]) -> None:
    """What parameters of layers and normalisations met outside their own call must agree with that call."""
    units = recording.units
    for name, labels in met.items():
        module, _, leaf = name.rpartition(".")
        layer, line = recording.layers.get(module), recording.vectors.get(module)
        if layer is None and line is None:
            recording.parameters[name] = labels
            continue
        own = line if line is not None else layer.out_labels if layer is not None and leaf == "bias" else None
        if own is not None and own.shape == labels.shape:
            units.join(own, labels, f"meets {name} outside its own layer")
            continue
        for met_there in (labels, line, *((layer.in_labels, layer.out_labels) if layer is not None else ())):
            if met_there is not None:
                units.pin(met_there, f"meets {name} outside its own layer")
