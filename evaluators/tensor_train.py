"""Tensor trains in place of linear layers (Novikov et al. 2015): two or three cores over factors of both channel counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.chains import Rearrange, Shift, checked, linear, linear_of, solved_normal
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


def fit_last_core(chain: nn.Sequential, weight: Tensor, second_moment: Tensor) -> None:
    """Choose the core that is applied last anew, so that the outputs are closest on inputs of this second moment M (C, C).

    With p the places at which it is applied and G (p, r, c') what the other cores do, W[n1, p, (c1 c')] is approximated by
    sum over r of A[n1, c1, r] G[p, r, c']: least squares in A, the same for every n1.
    """
    cores = [at for at, part in enumerate(chain) if isinstance(part, nn.Linear)]
    core = linear_of(chain[cores[-1]])
    c1, n1 = balanced(weight.shape[1], len(cores))[0], core.out_features
    g = _others(chain[: cores[-1]], weight.shape[1], c1, core.in_features // c1)
    target, m = weight.double().view(n1, len(g), -1), second_moment.double().view(c1, g.shape[2], c1, g.shape[2])
    overlaps = torch.einsum("prx,psy->rsxy", g, g)
    normal = torch.einsum("rsxy,axby->arbs", overlaps, m).flatten(2).flatten(0, 1)
    right = torch.einsum("npax,prx->nar", (target @ second_moment.double()).unflatten(2, (c1, -1)), g).flatten(1)
    with torch.no_grad():
        core.weight.copy_(solved_normal(normal, right))


@torch.no_grad()
def _others(parts: nn.Sequential, inputs: int, c1: int, r: int) -> Tensor:
    """G (p, r, c') of the cores before the last, read off at unit inputs; float64. They treat all c1 alike."""
    x = torch.eye(inputs)[: inputs // c1].to(next(parts.parameters()))
    found: Tensor = parts(x).reshape(len(x), -1, c1, r)[:, :, 0]
    return found.permute(1, 2, 0).double()


def _shift(bias: Tensor | None) -> tuple[Shift, ...]:
    return () if bias is None else (Shift(bias),)


def _split(matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Factors (rows, r) and (r, columns) of the best approximation of rank r."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:r].sqrt()
    return left[:, :r] * root, root[:, None] * right[:r]
