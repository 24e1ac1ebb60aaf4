"""Tensor trains in place of linear layers (Novikov et al. 2015): two or three cores over factors of both channel counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.chains import Rearrange, Shift, checked, linear, linear_of
from search_spaces.decompositions import balanced, tt_limits


def tt2(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Two cores of rank r: W[(n1 n2), (c1 c2)] = sum over r of A[n1, c1, r] B[r, n2, c2].

    Truncated SVD of the weight rearranged to (n1 c1, n2 c2): the nearest sum of r Kronecker products (Van Loan, Pitsianis 1993).
    """
    dense = linear_of(layer)
    (n1, n2), (c1, c2) = balanced(dense.out_features, 2), balanced(dense.in_features, 2)
    tensor = dense.weight.detach().double().view(n1, n2, c1, c2).permute(0, 2, 1, 3)
    (r,) = checked(ranks, (min(n1 * c1, n2 * c2),), layer)
    first, second = _split(tensor.reshape(n1 * c1, n2 * c2), r)
    return nn.Sequential(
        Rearrange(1, (c1, c2), (0, 1), (c1, c2)),
        linear(second.reshape(r * n2, c2), None),  # (c1, c2) -> (c1, r n2)
        Rearrange(2, (c1, r, n2), (2, 0, 1), (n2, c1 * r)),
        linear(first.reshape(n1, c1 * r), None),  # (n2, c1 r) -> (n2, n1)
        Rearrange(2, (n2, n1), (1, 0), (n1 * n2,)),
        *_shift(dense.bias),
    )


def tt3(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Three cores of ranks r1 and r2, by two truncated SVDs from left to right (TT-SVD: Oseledets 2011)."""
    dense = linear_of(layer)
    (n1, n2, n3), (c1, c2, c3) = balanced(dense.out_features, 3), balanced(dense.in_features, 3)
    tensor = dense.weight.detach().double().view(n1, n2, n3, c1, c2, c3).permute(0, 3, 1, 4, 2, 5)
    r1, r2 = checked(ranks, tt_limits((n1 * c1, n2 * c2, n3 * c3), ranks), layer)
    first, rest = _split(tensor.reshape(n1 * c1, -1), r1)
    second, third = _split(rest.reshape(r1 * n2 * c2, n3 * c3), r2)
    middle = second.reshape(r1 * n2, -1)
    return nn.Sequential(
        Rearrange(1, (c1, c2, c3), (0, 1, 2), (c1, c2, c3)),
        linear(third.reshape(-1, c3), None),  # (c1, c2, c3) -> (c1, c2, r2 n3)
        Rearrange(3, (c1, c2, r2, n3), (3, 0, 1, 2), (n3, c1, c2 * r2)),
        linear(middle, None),  # -> (n3, c1, r1 n2)
        Rearrange(3, (n3, c1, r1, n2), (3, 0, 1, 2), (n2, n3, c1 * r1)),
        linear(first.reshape(n1, c1 * r1), None),  # -> (n2, n3, n1)
        Rearrange(3, (n2, n3, n1), (2, 0, 1), (n1 * n2 * n3,)),
        *_shift(dense.bias),
    )


def _shift(bias: Tensor | None) -> tuple[Shift, ...]:
    return () if bias is None else (Shift(bias),)


def _split(matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Factors (rows, r) and (r, columns) of the best approximation of rank r."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:r].sqrt()
    return left[:, :r] * root, root[:, None] * right[:r]
