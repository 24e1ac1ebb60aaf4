"""Round weights to a codebook so that the layer's outputs, not only its weights, stay close."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean diagonal of the inputs' second moments
BLOCK = 128  # columns after which the errors made so far reach all that follow

# Rounds some columns (N, columns) of a weight (N, fan-in), given the index of the first.
RoundColumns = Callable[[Tensor, int], Tensor]


def nearest(weight: Tensor, second_moment: Tensor, rounded: RoundColumns) -> Tensor:
    """Every weight (N, fan-in) at its nearest level."""
    return rounded(weight, 0)


def gptq(weight: Tensor, second_moment: Tensor, rounded: RoundColumns) -> Tensor:
    """Round column after column; the error of each is made up for by the columns not yet rounded, optimally for the inputs'
    second moment (fan-in, fan-in) (Frantar et al. 2023, algorithm 1).

    Rows for which rounding to the nearest level gives a smaller output error keep that, so no row gets worse by it.
    """
    left, factor = weight.double().clone(), _inverse_factor(second_moment.double())
    result = torch.zeros_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        errors = torch.zeros_like(left[:, start:stop])
        for at in range(start, stop):
            column = left[:, at : at + 1]
            result[:, at : at + 1] = rounded(column.to(weight.dtype), at).double()
            errors[:, at - start] = (column - result[:, at : at + 1])[:, 0] / factor[at, at]
            left[:, at + 1 : stop] -= torch.outer(errors[:, at - start], factor[at, at + 1 : stop])
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    plain = rounded(weight, 0)
    better = _output_error(result - weight, second_moment) < _output_error(plain - weight, second_moment)
    return torch.where(better[:, None], result.to(weight.dtype), plain)


def _inverse_factor(second_moment: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped second moment."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(second_moment)))
    return torch.linalg.cholesky(inverse, upper=True)


def damped(second_moment: Tensor) -> Tensor:
    """With a little added to its diagonal, so that it can be inverted."""
    damping = DAMPING * second_moment.diagonal().mean().clamp_min(1e-12)
    return second_moment + damping * torch.eye(len(second_moment)).to(second_moment)


def _output_error(change: Tensor, second_moment: Tensor) -> Tensor:
    """Mean squared output error of every row."""
    change = change.double()
    return ((change @ second_moment.double()) * change).sum(1)


ROUNDERS = {"nearest": nearest, "gptq": gptq}
