"""Networks with several inputs or outputs, seen by everything else as one tensor in and logits out.

All inputs of a sample travel as one row of float32. Hooks on the network itself take the row apart before its forward pass and
pick the logits from what it returns, so that names of layers and weights stay as they were. Exports go without them.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

Samples = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One input: its shape without the batch, its type, and its argument of the forward pass (empty: by position)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""

    @property
    def numel(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Boundary:
    """How rows become inputs (no parts: they are the input), and which of several outputs are the logits (None: the only one).

    order: positions in a row of the first, second, ... argument.
    """

    parts: tuple[Part, ...] = ()
    order: tuple[int, ...] = ()
    output: str | int | None = None

    def inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        """What the forward pass is called with, from (N, elements of all inputs)."""
        if not self.parts:
            return (rows,)
        pieces = rows.split([part.numel for part in self.parts], dim=1)
        found = [p.unflatten(1, part.shape).to(part.dtype) for p, part in zip(pieces, self.parts, strict=True)]
        return tuple(found[at] for at in self.order)

    def logits(self, answer: Any) -> Any:
        """Raises ValueError where the answer has no such output."""
        if self.output is None:
            return answer
        several = (
            list(answer) if isinstance(answer, dict) else range(len(answer)) if isinstance(answer, tuple | list) else ()
        )
        if self.output not in several:
            raise ValueError(f"model.output must be one of {list(several)}, but got {self.output!r}; correct it")
        return answer[self.output]

    def position(self, answer: Any) -> int:
        """Which of all tensors of an answer, in their order, the logits are."""
        wanted = self.logits(answer)
        return next(i for i, tensor in enumerate(_tensors(answer)) if tensor is wanted)


@dataclass(frozen=True)
class _TakeApart:
    boundary: Boundary

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return self.boundary.inputs(*args)


@dataclass(frozen=True)
class _PickLogits:
    boundary: Boundary

    def __call__(self, module: nn.Module, args: Any, answer: Any) -> Any:
        return self.boundary.logits(answer)


def bound(model: nn.Module, parts: tuple[Part, ...], output: str | int | None) -> nn.Module:
    """The model itself, which from now on takes rows and gives logits. Raises ValueError where an input is no argument of it."""
    boundary = Boundary(parts, _order(model, parts), output)
    if parts:
        model.register_forward_pre_hook(_TakeApart(boundary))
    if output is not None:
        model.register_forward_hook(_PickLogits(boundary))
    return model


def boundary_of(model: nn.Module) -> Boundary:
    hooks = (*model._forward_pre_hooks.values(), *model._forward_hooks.values())
    return next((hook.boundary for hook in hooks if isinstance(hook, _TakeApart | _PickLogits)), Boundary())


def bare(model: nn.Module) -> nn.Module:
    """The network as its author wrote it: a shallow copy without these hooks."""
    if boundary_of(model) == Boundary():
        return model
    copied = copy.copy(model)
    copied._forward_pre_hooks = _without(model._forward_pre_hooks)
    copied._forward_hooks = _without(model._forward_hooks)
    return copied


def _without(hooks: Mapping[int, Any]) -> OrderedDict[int, Any]:
    return OrderedDict((key, hook) for key, hook in hooks.items() if not isinstance(hook, _TakeApart | _PickLogits))


def joined(samples: Sequence[Samples]) -> tuple[Tensor, tuple[Part, ...]]:
    """Inputs of samples, tensors in tuples, lists or dicts, as rows (N, elements), and the parts of a row. Raises ValueError
    where samples differ."""
    first = _named(samples[0])
    parts = tuple(Part(tuple(tensor.shape), tensor.dtype, name) for name, tensor in first)
    rows = []
    for sample in samples:
        found = _named(sample)
        if tuple(Part(tuple(tensor.shape), tensor.dtype, name) for name, tensor in found) != parts:
            shapes = [tuple(tensor.shape) for _, tensor in found]
            raise ValueError(
                f"the inputs of all samples must have one form, {[part.shape for part in parts]}, but got {shapes}; "
                "add a transform to the data set"
            )
        rows.append(torch.cat([tensor.flatten().float() for _, tensor in found]))
    return torch.stack(rows), parts


def _named(sample: Samples) -> list[tuple[str, Tensor]]:
    if isinstance(sample, Mapping):
        return list(sample.items())
    return [("", tensor) for tensor in ((sample,) if isinstance(sample, Tensor) else sample)]


def _order(model: nn.Module, parts: tuple[Part, ...]) -> tuple[int, ...]:
    """Positions of the parts in the order of the forward pass's arguments; named ones must be its first."""
    if not any(part.name for part in parts):
        return tuple(range(len(parts)))
    arguments, names = list(inspect.signature(model.forward).parameters), [part.name for part in parts]
    if set(arguments[: len(parts)]) != set(names):
        raise ValueError(
            f"the inputs of the data set must be the first arguments of the model, {arguments}, but got {names}; rename them"
        )
    return tuple(names.index(name) for name in arguments[: len(parts)])


def _tensors(answer: Any) -> list[Tensor]:
    return [item for item in tree_flatten(answer)[0] if isinstance(item, Tensor)]
