"""Which weights of a layer a sparsity pattern keeps: those of largest magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from search_spaces.sparsity import Pattern


def mask_of(weight: Tensor, pattern: Pattern) -> Tensor:
    """True where a weight (outputs, ...) is kept, of the same shape; ties go to the lower index."""
    size = weight.detach().abs().flatten(1)
    if pattern.structured:
        return _of_every(size, pattern).view_as(weight)
    count = -(-size.numel() * pattern.kept // pattern.of)
    chosen = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    chosen[size.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return chosen.view_as(weight)


def _of_every(size: Tensor, pattern: Pattern) -> Tensor:
    """`kept` of every `of` columns; of a shorter rest as many, if there are."""
    rows, fan_in = size.shape
    missing = -fan_in % pattern.of
    padded = torch.cat([size, size.new_full((rows, missing), -1.0)], dim=1).view(rows, -1, pattern.of)
    order = padded.sort(dim=2, descending=True, stable=True).indices[:, :, : pattern.kept]
    chosen = torch.zeros_like(padded, dtype=torch.bool).scatter_(2, order, True)
    return chosen.view(rows, -1)[:, :fan_in]
