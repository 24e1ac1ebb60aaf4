"""Canonical polyadic decomposition of a convolution (Lebedev et al. 2015): 1 x 1, two depthwise ones along the axes, 1 x 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.chains import checked, conv_of, part_conv, pointwise_conv

SWEEPS, FEWEST = 30, 3
EFFORT = 3e10  # multiplications after which no further sweep starts, beyond the fewest
RIDGE = 1e-9  # of the largest eigenvalue: keeps nearly parallel components from growing against each other
LETTERS = "ncij"


def cp(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """W[n, c, i, j] = sum over r of a[n, r] b[c, r] u[i, r] v[j, r]: 1 x 1 C->R, depthwise k x 1 and 1 x k, 1 x 1 R->N."""
    conv = conv_of(layer)
    weight = conv.weight.detach()
    n, c, height, width = weight.shape
    (r,) = checked(ranks, (min(n, c) * height * width,), layer)
    outputs, inputs, rows, columns = (f.float() for f in canonical(weight, r))
    return nn.Sequential(
        pointwise_conv(inputs.T, None),
        part_conv(rows.T[:, None, :, None], None, conv, (True, False), groups=r),
        part_conv(columns.T[:, None, None, :], None, conv, (False, True), groups=r),
        pointwise_conv(outputs, conv.bias),
    )


def canonical(tensor: Tensor, r: int) -> list[Tensor]:
    """Factors (size, r) of a tensor of four modes by alternating least squares, components of equal norm in every mode.

    Large tensors get fewer sweeps. Starts from the leading singular pairs of the channels at every kernel place, which is exact
    where r is large enough.
    """
    factors = _start(tensor, r)
    if r >= min(tensor.shape[:2]) * tensor.shape[2] * tensor.shape[3]:
        return factors
    sweeps = int(min(SWEEPS, max(FEWEST, EFFORT / (4 * tensor.numel() * r))))
    for _ in range(sweeps):
        for mode in range(4):
            factors[mode] = _solved(tensor, factors, mode)
        factors = _balanced(factors)
    return factors


def _start(tensor: Tensor, r: int) -> list[Tensor]:
    """One component per kernel place and singular pair of the channels there, those of the largest singular values."""
    width = tensor.shape[3]
    left, values, right = torch.linalg.svd(tensor.permute(2, 3, 0, 1), full_matrices=False)
    chosen = values.flatten().argsort(descending=True, stable=True)[:r]
    pair = chosen % values.shape[2]
    i, j = chosen // values.shape[2] // width, chosen // values.shape[2] % width
    root = values[i, j, pair].sqrt()
    places = [torch.eye(size, dtype=tensor.dtype, device=tensor.device) for size in tensor.shape[2:]]
    return [left[i, j, :, pair].T * root, right[i, j, pair, :].T * root, places[0][:, i], places[1][:, j]]


def _solved(tensor: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The factor of one mode that is best for the others: normal equations of the Khatri-Rao product."""
    others = [at for at in range(4) if at != mode]
    operands = ",".join(f"{LETTERS[at]}r" for at in others)
    product = torch.einsum(f"{LETTERS},{operands}->{LETTERS[mode]}r", tensor, *(factors[at] for at in others))
    gram = torch.ones(product.shape[1], product.shape[1], dtype=torch.float64, device=tensor.device)
    for at in others:
        gram = gram * (factors[at].T @ factors[at]).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().amax().clamp_min(1e-30))
    solved = torch.linalg.solve(gram, product.double().T).T
    return solved.to(tensor.dtype)


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    norms = torch.stack([f.norm(dim=0).clamp_min(1e-30) for f in factors])
    return [f / norm * norms.log().mean(0).exp() for f, norm in zip(factors, norms, strict=True)]
