"""Inputs of a layer as rows of a matrix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.layers import Layer


def unfold(layer: Layer, x: Tensor) -> Tensor:
    """Inputs of a layer as rows, one per output place: (places, fan-in). Grouped convolutions share one mean block."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    rows = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)
    if layer.groups > 1:
        rows = rows.reshape(len(x), -1, layer.groups, rows.shape[2] // layer.groups).flatten(1, 2)
    return rows.flatten(0, 1)
