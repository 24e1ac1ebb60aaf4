"""Channel labels: every element of every activation knows which channel unit it belongs to.

A unit is one output channel of one layer; units that must be cut together are joined. The rules below say, per ATen operation,
how labels pass from inputs to outputs. Operations that only move elements are run on the labels themselves. Whatever no rule
covers pins the units that reach it: they stay, with the reason on record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NONE = -1  # an element that belongs to no unit


class Units:
    """Union-find over channel units, and the units that must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._roots: Tensor | None = None
        self.pinned: dict[int, str] = {}

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
        self._roots = None
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)], dim=1)
        for left, right in torch.unique(pairs, dim=0).tolist():
            if left != NONE and right != NONE:
                self._parent[self.root(left)] = self.root(right)
            elif left != right:
                self.pin(torch.tensor([max(left, right)]), reason)

    def pin(self, units: Tensor, reason: str) -> None:
        for unit in torch.unique(units).tolist():
            if unit != NONE:
                self.pinned.setdefault(unit, reason)

    def roots(self, labels: Tensor) -> Tensor:
        if self._roots is None:
            self._roots = torch.tensor([self.root(i) for i in range(len(self._parent))] + [NONE])
        return self._roots[labels]


def along(labels: Tensor, dim: int) -> Tensor | None:
    """The labels along one dimension if they are the same everywhere else, otherwise None."""
    moved = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)
    return moved[:, 0].clone() if bool((moved == moved[:, :1]).all()) else None


def spread(line: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """The opposite of `along`: labels of a tensor of this shape that vary along `dim` only."""
    view = [1] * len(shape)
    view[dim] = len(line)
    return line.view(view).expand(*shape)


# Operations that move, repeat or select elements: run as they are on the labels.
MOVES = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select", "clone",
    "split", "split_with_sizes", "chunk", "unbind", "alias", "detach", "flatten", "cat", "stack", "flip", "roll", "repeat",
    "_reshape_alias", "contiguous", "narrow", "unflatten", "channel_shuffle", "native_channel_shuffle", "pixel_shuffle",
    "pixel_unshuffle", "lift_fresh", "view_as", "index_select", "_to_copy",
}  # fmt: skip

# Operations that treat every element alike (batch normalisation: every channel), so labels pass.
POINTWISE = {
    "relu", "relu_", "gelu", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardtanh", "hardtanh_", "hardswish",
    "hardswish_", "hardsigmoid", "hardsigmoid_", "leaky_relu", "leaky_relu_", "elu", "elu_", "softplus", "mish", "clamp",
    "clamp_",
    "clamp_min", "clamp_max", "native_dropout", "dropout", "neg", "abs", "pow", "sqrt", "rsqrt", "exp", "log", "square",
    "erf", "round", "floor", "fake_quantize_per_tensor_affine_cachemask", "native_batch_norm", "cudnn_batch_norm", "batch_norm",
    "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "_batch_norm_no_update", "_batch_norm_with_update",
}  # fmt: skip

# Operations that combine two tensors element by element.
ELEMENTWISE = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}

# Operations that mix positions but never channels of an (N, C, ...) tensor.
SPATIAL = {
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "reflection_pad2d",
    "replication_pad2d",
}  # fmt: skip

BATCH_NORMS = {name for name in POINTWISE if "batch_norm" in name}

Run = Callable[[Any], Any]


def pass_labels(
    name: str, units: Units, labels: Sequence[Tensor | None], args: Any, rerun: Run, output: Tensor
) -> Tensor | None:
    """Labels of an operation's (first) output, or None where no rule covers it.

    labels: those of the tensor arguments in order, None for tensors without labels (parameters, constants).
    rerun: runs the operation on the label tensors instead of the activations.
    """
    first = next((item for item in labels if item is not None), None)
    if first is None:
        return None
    if name in ("view", "_unsafe_view"):  # labels need not lie in memory as the activation does
        return first.reshape(output.shape)
    if name in MOVES:
        return rerun(None)
    if name in POINTWISE or (name in ("as_strided", "as_strided_") and first.shape == output.shape):
        return first  # pooling to one place restates its strides so, which moves nothing
    if name in ELEMENTWISE:
        return _combine(units, labels, output)
    if name in SPATIAL:
        line = along(first, 1) if first.dim() == 4 else None
        return None if line is None else spread(line, output.shape, 1)
    if name == "mean":
        return _mean(first, args, output)
    if name in ("constant_pad_nd", "pad"):
        return torch.nn.functional.pad(first, args[1], value=NONE)
    return None


def _combine(units: Units, labels: Sequence[Tensor | None], output: Tensor) -> Tensor:
    present = [item.expand(output.shape) for item in labels if item is not None]
    result = present[0]
    for other in present[1:]:
        units.join(result, other, "is added to or multiplied with channels that cannot be cut")
        result = torch.maximum(result, other)
    return result


def _mean(first: Tensor, args: Any, output: Tensor) -> Tensor | None:
    line = along(first, 1) if first.dim() >= 3 else None
    dims = [d % first.dim() for d in (args[1] if len(args) > 1 and args[1] is not None else range(first.dim()))]
    if line is None or 0 in dims or 1 in dims:
        return None
    return spread(line, output.shape, 1)
