"""Follow parameters and buffers that meet channels outside of layers: layer scales, positional biases, normalisation weights.

Every element of such a tensor is numbered; moving and element-by-element operations pass the numbers on. Where the result meets
labelled channels, each number, and so each element of the parameter, gets the label that it met.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from evaluators.labels import NONE, Units, lean
from evaluators.rules import RULES, moved, viewed

UNMET = -2  # an element that met no channel yet


class Constants:
    """Which element of which parameter or buffer stands at each place of the tensors derived from them."""

    def __init__(self, model: nn.Module) -> None:
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._names: dict[int, list[str]] = {}
        self._first: dict[str, int] = {}
        self._tensors: dict[str, Tensor] = {}
        self._origins: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []
        self.labels: dict[str, Tensor] = {}  # of parameters that met channels, in their own shape
        total = 0
        for name, tensor in named:
            self._names.setdefault(id(tensor), []).append(name)
            self._first[name], self._tensors[name] = total, tensor
            total += tensor.numel()

    def name_of(self, tensor: Tensor) -> str:
        """The name of a parameter or buffer that only one module holds, else empty."""
        names = self._names.get(id(tensor), [])
        return names[0] if len(names) == 1 else ""

    def origin(self, tensor: Tensor) -> Tensor | None:
        """Numbers of the elements that this tensor holds, of its shape; None where it holds no parameter's."""
        if name := self.name_of(tensor):
            first = self._first[name]
            return torch.arange(first, first + tensor.numel()).view(tensor.shape)
        return self._origins.get(id(tensor))

    def derive(self, name: str, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Pass numbers through an operation that no activation enters."""
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        outputs = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
        origins = [self.origin(t) if t.is_floating_point() else None for t in inputs]
        found = [item for item in origins if item is not None]
        if not found or not outputs:
            return
        if RULES.get(name) is viewed:
            made: list[Tensor] = [found[0].reshape(outputs[0].shape)]
        elif RULES.get(name) is moved:
            result = func(*tree_map(self._origin_or_none, args), **kwargs)
            made = list(result) if isinstance(result, list | tuple) else [result]
        elif torch.Tag.pointwise in func.tags and len(found) == 1:
            made = [found[0].expand(outputs[0].shape)]
        else:
            return
        for tensor, origin in zip(outputs, made, strict=False):
            self._origins[id(tensor)] = origin
            self._alive.append(tensor)

    def _origin_or_none(self, item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.is_floating_point():
            return item
        origin = self.origin(item)
        return torch.full(tuple(item.shape), NONE) if origin is None else origin

    def bind(self, tensor: Tensor, labels: Tensor, units: Units) -> None:
        """Elements of `tensor` meet these labels (of its shape, or of the shape it is broadcast to)."""
        origin = self.origin(tensor)
        if origin is None:
            units.pin(labels, "meets a constant of fixed size")
            return
        origin, labels = _thin(origin.expand(labels.shape), labels)
        units.pin(labels[origin == NONE], "meets a constant of fixed size")
        lowest, highest = int(origin.min()), int(origin.max())
        for name, parameter in self._tensors.items():
            first, last = self._first[name], self._first[name] + parameter.numel()
            if lowest < last and first <= highest:
                inside = (origin >= first) & (origin < last)
                self._meet(name, origin[inside] - first, labels[inside], units)

    def _meet(self, name: str, places: Tensor, labels: Tensor, units: Units) -> None:
        shape = self._tensors[name].shape
        known = self.labels.get(name, torch.full(tuple(shape), UNMET)).flatten()
        unmet = known[places] == UNMET
        known[places[unmet]] = labels[unmet]
        units.join(known[places], labels, "meets a parameter together with channels that cannot be cut")
        self.labels[name] = known.view(shape)

    def met(self) -> dict[str, Tensor]:
        """Labels of every parameter that met channels; elements that met none belong to no unit."""
        return {name: lean(labels.clamp_min(NONE)) for name, labels in self.labels.items()}


def _thin(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both without repetition along dimensions along which both are stored expanded."""
    for dim in range(a.dim()):
        if a.shape[dim] > 1 and a.stride(dim) == b.stride(dim) == 0:
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a, b
