"""Trace a network by running it once: channel groups, costs' description and the slicing map, from one real forward pass.

The tracer sees ATen operations, so the network may be written in any way that runs; it follows the path that the example input
takes. Groups come from `evaluators.labels`; nothing is guessed from names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from evaluators.labels import BATCH_NORMS, ELEMENTWISE, NONE, Units, along, pass_labels, spread
from evaluators.modes import in_eval_mode


@dataclass
class LayerCall:
    """What is known of a convolution or linear layer after its calls: labels along its channel dimensions, places."""

    name: str
    kind: str
    weight: Tensor
    in_labels: Tensor
    out_labels: Tensor
    groups: int
    bias: bool
    in_positions: int = 0
    out_positions: int = 0
    calls: int = 0


@dataclass
class Op:
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    name: str
    layer: str = ""
    modules: tuple[str, ...] = ()


@dataclass
class ModuleCall:
    """One call of a submodule: its input and output activation, their labels, and the operations in between."""

    name: str
    input: int
    output: int
    in_labels: Tensor
    out_labels: Tensor
    first: int
    last: int
    count: int = 1


@dataclass
class Recording:
    """Everything one forward pass showed."""

    units: Units = field(default_factory=Units)
    layers: dict[str, LayerCall] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    outputs: tuple[int, ...] = ()


class _Tracer(TorchDispatchMode):
    """Passes labels along with the tensors. Keeps every activation alive so that a storage address names one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.recording = Recording()
        self.stack: list[str] = []
        self._labels: dict[int, Tensor] = {}
        self._storages: dict[int, int] = {}
        self._alive: list[Tensor] = []
        named = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        self._state = {tensor.data_ptr(): name for name, tensor in named.items() if tensor.numel()}
        self._modules = dict(model.named_modules())

    def start(self, tensor: Tensor) -> None:
        self._keep(tensor, torch.full(tuple(tensor.shape), NONE))

    def labels_of(self, tensor: Tensor) -> Tensor | None:
        return self._labels.get(id(tensor))

    def activation_of(self, tensor: Tensor) -> int | None:
        return self._storages.get(tensor.untyped_storage().data_ptr())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        outputs = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
        if outputs and (any(self.labels_of(t) is not None for t in inputs) or not inputs):
            self._record(func, args, kwargs, inputs, output, outputs)
        return output

    def _record(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], output: Any, outputs: list[Tensor]
    ) -> None:
        name = func._schema.name.split("::")[-1]
        layer = self._layer(name, args, inputs, outputs[0])
        if layer:
            labels: Any = spread(
                self.recording.layers[layer].out_labels,
                outputs[0].shape,
                1 if name == "convolution" else outputs[0].dim() - 1,
            )
            made = [labels]
        else:
            made = self._passed(name, func, args, kwargs, inputs, output, outputs)
        read = tuple(dict.fromkeys(i for t in inputs if (i := self.activation_of(t)) is not None))
        before = len(self.recording.activations)
        for tensor, label in zip(outputs, made, strict=True):
            self._keep(tensor, label)
        new = tuple(range(before, len(self.recording.activations)))
        self.recording.ops.append(Op(read, new, name, layer, tuple(self.stack)))

    def _layer(self, name: str, args: Any, inputs: list[Tensor], output: Tensor) -> str:
        """Record a convolution or linear call on a known weight; empty where the operation is neither."""
        if name == "convolution" and not args[6]:
            x, weight, dim, groups, bias = args[0], args[1], 1, args[8], args[2] is not None
        elif name == "linear":
            x, weight, dim, groups, bias = args[0], args[1], args[0].dim() - 1, 1, len(args) > 2 and args[2] is not None
        elif name == "addmm":
            x, weight, dim, groups, bias = args[1], args[2].t(), 1, 1, True
        elif name == "mm":
            x, weight, dim, groups, bias = args[0], args[1].t(), 1, 1, False
        else:
            return ""
        known = self._state.get(weight.data_ptr(), "")
        labels = self.labels_of(x)
        line = None if labels is None else along(labels, dim)
        module = known.rpartition(".")[0]
        if (
            line is None
            or not isinstance(self._modules.get(module), nn.Conv2d | nn.Linear)
            or known.rpartition(".")[2] != "weight"
            or self.stack[-1:] != [module]  # a weight used outside its layer: no other layer can stand in for this one
        ):
            return ""
        self._call(
            module, "conv" if dim == 1 and name == "convolution" else "linear", weight, line, groups, bias, x, output
        )
        return module

    def _call(
        self, name: str, kind: str, weight: Tensor, line: Tensor, groups: int, bias: bool, x: Tensor, output: Tensor
    ) -> None:
        units, layers = self.recording.units, self.recording.layers
        if name not in layers:
            layers[name] = LayerCall(name, kind, weight, line, _out_labels(units, line, weight, groups), groups, bias)
        else:
            units.join(layers[name].in_labels, line, "feeds a shared layer together with channels that cannot be cut")
        call = layers[name]
        call.in_positions += x.numel() // len(line)
        call.out_positions += output.numel() // len(call.out_labels)
        call.calls += 1

    def _passed(
        self, name: str, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], output: Any, outputs: list[Tensor]
    ) -> list[Tensor]:
        """Labels of every output of an operation that is not a layer; pins what no rule covers."""
        units = self.recording.units
        if name in ("arange", "full", "zeros", "ones", "scalar_tensor", "empty"):
            return [torch.full(tuple(t.shape), NONE) for t in outputs]

        def rerun(_: Any) -> Any:
            as_labels = tree_map(lambda t: self._label_or_none(t) if isinstance(t, Tensor) else t, args)
            return func(*as_labels, **kwargs)

        labels = [self._operand(t, name) for t in inputs]
        passed = pass_labels(name, units, labels, args, rerun, outputs[0])
        if passed is None:
            for label in labels:
                if label is not None:
                    units.pin(label, f"passes through {name}, which no channel rule covers")
            return [torch.full(tuple(t.shape), NONE) for t in outputs]
        if name in BATCH_NORMS:
            self._vector(args, passed)
        flat = [t for t in tree_flatten(passed)[0] if isinstance(t, Tensor)]
        first = flat[0]
        return [
            flat[i] if i < len(flat) and flat[i].shape == t.shape else _reshaped(first, t)
            for i, t in enumerate(outputs)
        ]

    def _operand(self, tensor: Tensor, name: str) -> Tensor | None:
        """Labels of an operand; a constant tensor that meets channels element by element counts as uncuttable."""
        labels = self.labels_of(tensor)
        if labels is None and name in ELEMENTWISE and tensor.numel() > 1:
            return torch.full(tuple(tensor.shape), NONE)
        return labels

    def _label_or_none(self, tensor: Tensor) -> Tensor:
        labels = self.labels_of(tensor)
        return torch.full(tuple(tensor.shape), NONE) if labels is None else labels

    def _vector(self, args: Any, labels: Tensor) -> None:
        line = along(labels, 1)
        names = {self._state[t.data_ptr()] for t in args[1:5] if isinstance(t, Tensor) and t.data_ptr() in self._state}
        if line is None or not names:
            self.recording.units.pin(labels, "passes through a batch normalisation with mixed channels")
            return
        module = next(iter(names)).rpartition(".")[0]
        if module in self.recording.vectors:
            self.recording.units.join(
                self.recording.vectors[module], line, "shares a batch normalisation with fixed channels"
            )
        self.recording.vectors[module] = line

    def _keep(self, tensor: Tensor, labels: Tensor) -> None:
        self._alive.append(tensor)
        self._labels[id(tensor)] = labels
        key = tensor.untyped_storage().data_ptr()
        if key not in self._storages and tensor.numel() and tensor.is_floating_point():
            self._storages[key] = len(self.recording.activations)
            self.recording.activations.append(labels)
            self.recording.shapes.append(tuple(tensor.shape))


def _out_labels(units: Units, line: Tensor, weight: Tensor, groups: int) -> Tensor:
    """New units for the outputs of a layer; a depthwise output is its input, a grouped one is cut alike in every group."""
    outputs = weight.shape[0]
    if groups == 1:
        return units.new(outputs)
    if groups == len(line) == outputs:
        return line
    for labels in (line, fresh := units.new(outputs)):
        per_group = labels.view(groups, -1)
        for other in per_group[1:]:
            units.join(per_group[0], other, "feeds a grouped convolution together with channels that cannot be cut")
    return fresh


def _reshaped(labels: Tensor, like: Tensor) -> Tensor:
    return labels.clone() if labels.shape == like.shape else torch.full(tuple(like.shape), NONE)


@contextmanager
def _module_hooks(model: nn.Module, tracer: _Tracer) -> Iterator[None]:
    """Record every submodule call, for residual blocks and for telling which operation belongs to which block."""
    handles: list[Any] = []
    starts: dict[str, list[tuple[int, Tensor | None, int | None]]] = defaultdict(list)

    def before(name: str, args: Any) -> None:
        x = args[0] if args and isinstance(args[0], Tensor) else None
        labels = None if x is None else tracer.labels_of(x)
        # An in-place operation at the end of the block before may still be under way: labels are values, so keep a copy.
        starts[name].append((len(tracer.recording.ops), labels, None if x is None else tracer.activation_of(x)))
        tracer.stack.append(name)

    def after(name: str, output: Any) -> None:
        tracer.stack.pop()
        first, in_labels, activation = starts[name].pop()
        if not isinstance(output, Tensor) or in_labels is None or activation is None:
            return
        out_labels, out = tracer.labels_of(output), tracer.activation_of(output)
        if out_labels is not None and out is not None and out_labels.shape == in_labels.shape:
            calls = tracer.recording.modules
            calls.append(ModuleCall(name, activation, out, in_labels, out_labels, first, len(tracer.recording.ops)))

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda m, a, n=name: before(n, a)))
            handles.append(module.register_forward_hook(lambda m, a, o, n=name: after(n, o)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(model: nn.Module, example: Tensor) -> Recording:
    """Run the model once in eval mode on one sample (1, ...) and return what was seen; the model is left as it was."""
    tracer = _Tracer(model)
    tracer.start(example)
    with in_eval_mode(model), torch.no_grad(), _module_hooks(model, tracer), tracer:
        output = model(example)
    final = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
    for tensor in final:
        labels = tracer.labels_of(tensor)
        if labels is not None:
            tracer.recording.units.pin(labels, "is an output of the network")
    tracer.recording.outputs = tuple(i for t in final if (i := tracer.activation_of(t)) is not None)
    return tracer.recording
