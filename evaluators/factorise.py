"""Replace one convolution or linear layer by a chain of smaller ones of (nearly) the same function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

LayerT = TypeVar("LayerT", nn.Conv2d, nn.Linear)


def svd(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Two layers of rank r: k x k C->r with the original stride and padding, then 1 x 1 r->N (Zhang et al. 2016, without data).

    Truncated SVD of the (N, C k k) weight: the best rank-r approximation in the Frobenius norm (Eckart and Young 1936).
    """
    weight = _weight(layer)
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    (r,) = _checked(ranks, (len(values),), layer)
    root = values[:r].sqrt()
    first, second = root[:, None] * right[:r], left[:, :r] * root
    if isinstance(layer, nn.Linear):
        return nn.Sequential(_linear(first, None), _linear(second, layer.bias))
    conv = _conv_of(layer)
    inner = _conv(first.reshape(r, *weight.shape[1:]), None, conv)
    return nn.Sequential(inner, _conv(second[:, :, None, None], conv.bias))


def tucker2(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Three layers: 1 x 1 C->r0, k x k r0->r1 with the original stride and padding, 1 x 1 r1->N (Kim et al. 2016).

    Truncated higher-order SVD over the channel modes, refined by two sweeps of higher-order orthogonal iteration.
    """
    conv = _conv_of(layer)
    weight = conv.weight.detach().double()
    r_in, r_out = _checked(ranks, (weight.shape[1], weight.shape[0]), layer)
    u_in = _leading(weight.transpose(0, 1).flatten(1), r_in)
    u_out = _leading(weight.flatten(1), r_out)
    for _ in range(2):
        u_out = _leading(torch.einsum("ncij,cr->nrij", weight, u_in).flatten(1), r_out)
        u_in = _leading(torch.einsum("ncij,ns->csij", weight, u_out).flatten(1), r_in)
    core = torch.einsum("ncij,ns,cr->srij", weight, u_out, u_in)
    return nn.Sequential(
        _conv(u_in.T[:, :, None, None], None),
        _conv(core, None, conv),
        _conv(u_out[:, :, None, None], conv.bias),
    )


FACTORISERS: dict[str, Callable[[nn.Module, tuple[int, ...]], nn.Sequential]] = {"svd": svd, "tucker2": tucker2}


def _leading(unfolding: Tensor, r: int) -> Tensor:
    """Leading left singular vectors, through the small Gram matrix; signs fixed so that the result is the same everywhere."""
    _, vectors = torch.linalg.eigh(unfolding @ unfolding.T)
    vectors = vectors.flip(1)[:, :r]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def _weight(layer: nn.Module) -> Tensor:
    if not isinstance(layer, nn.Linear):
        _conv_of(layer)
    return layer.weight.detach()  # type: ignore[union-attr, operator, return-value]


def _conv_of(layer: nn.Module) -> nn.Conv2d:
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ValueError(
            f"only ungrouped convolutions (and linear layers, by svd) can be factorised, but got {layer}; leave it dense"
        )
    return layer


def _checked(ranks: tuple[int, ...], limits: tuple[int, ...], layer: nn.Module) -> tuple[int, ...]:
    if len(ranks) != len(limits) or not all(1 <= r <= limit for r, limit in zip(ranks, limits, strict=True)):
        raise ValueError(
            f"ranks must lie between 1 and {limits} for {layer}, but got ranks={ranks}; choose smaller ones"
        )
    return ranks


def _conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d | None = None) -> nn.Conv2d:
    """A convolution with this weight (out, in, k, k); geometry from `like`, or 1 x 1 with stride 1."""
    out, into, *kernel = weight.shape
    if like is None:
        return _filled(nn.Conv2d(into, out, tuple(kernel), bias=bias is not None), weight, bias)  # type: ignore[arg-type]
    conv = nn.Conv2d(
        into,
        out,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        bias=bias is not None,
        padding_mode=like.padding_mode,
    )
    return _filled(conv, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def _filled(layer: LayerT, weight: Tensor, bias: Tensor | None) -> LayerT:
    with torch.no_grad():
        layer.weight.copy_(weight.float())
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
