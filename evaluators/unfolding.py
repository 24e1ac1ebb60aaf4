"""Inputs of a layer as rows of a matrix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.layers import Layer, TransposedConv2d


def unfold(layer: Layer, x: Tensor) -> Tensor:
    """Inputs of a layer as rows, one per output place: (places, fan-in). Grouped convolutions share one mean block."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    if isinstance(layer, TransposedConv2d):
        return _transposed(layer, x)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    rows = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)
    return _by_group(rows, layer.groups)


def _transposed(layer: TransposedConv2d, x: Tensor) -> Tensor:
    """A transposed convolution is one with a mirrored kernel over inputs set `stride` apart among zeros."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    apart = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    apart[:, :, :: stride[0], :: stride[1]] = x
    reach = [dilation[at] * (kernel[at] - 1) - int(layer.padding[at]) for at in (0, 1)]
    more = [reach[at] + int(layer.output_padding[at]) for at in (0, 1)]
    padded = F.pad(apart, (reach[1], more[1], reach[0], more[0]))
    rows = F.unfold(padded, layer.kernel_size, dilation).transpose(1, 2)
    mirrored = rows.unflatten(2, (-1, *kernel)).flip(3, 4).flatten(2)
    return _by_group(mirrored, layer.groups)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """(images, places, fan-in of all groups) -> (rows, fan-in)."""
    return rows.unflatten(2, (groups, -1)).flatten(0, 2)
