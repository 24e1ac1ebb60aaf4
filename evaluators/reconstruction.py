"""What a layer's outputs lose when input channels go: the fitness of binary codes by Hu et al. 2018 (arXiv 1805.11394)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RECONSTRUCTION = "reconstruction"


def gram(weight: Tensor, second: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
    """G (units, units), G_ij = E[<Z_i, Z_j>]: Z_i is what the columns of unit i contribute to an output, summed over outputs.

    weight (outputs, fan-in), second moment of the unfolded inputs (fan-in, fan-in). The squared error of the outputs under a
    code b is (1 - b)^T G (1 - b), exactly: the error is quadratic in the weights, with the same block for every output.
    """
    products = second.double() * (weight.double().T @ weight.double())
    units = torch.zeros(len(columns), weight.shape[1], dtype=torch.float64)
    for unit, of in enumerate(columns):
        units[unit, list(of)] = 1
    return units @ products @ units.T


def unit_shifts(weight: Tensor, second: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
    """float32 (units, units) with mean((d S)^2) = d G d / (mean squared output) for every d: relative to the layer's outputs,
    so that layers compare."""
    total = (second.double() * (weight.double().T @ weight.double())).sum()
    values, vectors = torch.linalg.eigh(gram(weight, second, columns))
    scale = (values.clamp_min(0) * len(columns) / total.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    return (vectors * scale).float()
