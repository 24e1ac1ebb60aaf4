"""Channel labels: every element of every activation knows which channel unit it belongs to.

A unit is one output channel of one layer; units that must be cut together are joined. Labels are int64 tensors of the
activation's shape; where they are equal along a dimension they are kept expanded (stride 0), so that most are one line in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

NONE = -1  # an element that belongs to no unit


class Units:
    """Union-find over channel units, the units that must stay, and why units were coupled that are no neighbours by nature."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._roots: Tensor | None = None
        self.pinned: dict[int, str] = {}
        self.coupled: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> Tensor:
        first, self._roots = len(self._parent), None
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def root(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def join(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Join units elementwise; a unit that meets no unit is pinned, because the other tensor cannot be cut with it."""
        for left, right in _pairs(a, b):
            if left != NONE and right != NONE:
                self._parent[self.root(left)] = self.root(right)
            else:
                self.pin(torch.tensor([max(left, right)]), reason)
            self._roots = None

    def couple(self, labels: Tensor, dims: Iterable[int], reason: str) -> Tensor:
        """Join all units along these dimensions; returns the labels with size 1 there."""
        dims = tuple(dims)
        same = held(labels, dims)
        if same is not None:
            return same
        lead = labels
        for dim in dims:
            lead = lead.narrow(dim, 0, 1)
        self.join(lead.expand_as(labels), labels, f"is mixed by {reason} with channels that cannot be cut")
        for unit in torch.unique(_core(labels)).tolist():
            self.coupled.setdefault(unit, f"{reason} mixes all of its channels")
        return lead

    def pin(self, units: Tensor, reason: str) -> None:
        for unit in torch.unique(_core(units)).tolist():
            if unit != NONE:
                self.pinned.setdefault(unit, reason)

    def roots(self, labels: Tensor) -> Tensor:
        """The root of every label."""
        if self._roots is None:
            roots = torch.tensor(self._parent, dtype=torch.int64)
            while not torch.equal(further := roots[roots], roots):
                roots = further
            self._roots = torch.cat([roots, torch.tensor([NONE])])
        core = _core(labels)
        return self._roots[core].expand(labels.shape)


def _core(labels: Tensor) -> Tensor:
    """The labels without the dimensions along which they are stored expanded, which get size 1."""
    for dim in range(labels.dim()):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _pairs(a: Tensor, b: Tensor) -> list[tuple[int, int]]:
    """Distinct pairs of different labels that stand at the same places."""
    for dim in range(a.dim()):
        if a.stride(dim) == b.stride(dim) == 0 and a.shape[dim] > 1:
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    differ = a != b
    a, b = a[differ], b[differ]
    if not len(a):
        return []
    base = int(torch.maximum(a.max(), b.max())) + 2
    codes = torch.unique((a + 1) * base + b + 1).tolist()
    return [(code // base - 1, code % base - 1) for code in codes]


def lean(labels: Tensor) -> Tensor:
    """The same labels, expanded along every dimension along which they are equal."""
    core = _core(labels)
    for dim in range(core.dim()):
        if core.shape[dim] > 1:
            first = core.narrow(dim, 0, 1)
            core = first if torch.equal(first.expand_as(core), core) else core
    return core.expand(labels.shape)


def held(labels: Tensor, dims: Iterable[int]) -> Tensor | None:
    """The labels with size 1 along these dimensions if they are equal along them, otherwise None."""
    core, shape = _core(labels), list(labels.shape)
    lead = core
    for dim in dims:
        lead = lead.narrow(dim, 0, 1)
        shape[dim] = 1
    return lead.expand(shape) if torch.equal(lead.expand_as(core), core) else None


def along(labels: Tensor, dim: int) -> Tensor | None:
    """The labels along one dimension if they are the same everywhere else, otherwise None."""
    others = [d for d in range(labels.dim()) if d != dim % labels.dim()]
    lead = held(labels, others)
    return None if lead is None else lead.reshape(-1).clone()


def spread(line: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """The opposite of `along`: labels of a tensor of this shape that vary along `dim` only."""
    view = [1] * len(shape)
    view[dim] = len(line)
    return line.view(view).expand(*shape)


def nothing(like: Tensor) -> Tensor:
    """The labels of a tensor that belongs to no unit."""
    return torch.tensor(NONE).expand(like.shape)
