"""Chains of small layers that stand in for one layer: how they are built and which weight they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.layers import TransposedConv2d

LayerT = TypeVar("LayerT", nn.Conv2d, nn.Linear)
Pair = tuple[int, int]
TINY = 1e-9  # ridge of least squares, of the mean diagonal


class Rearrange(nn.Module):
    """Split the last dimensions of x into `split`, reorder them, and join them into `joined`; what is before them stays."""

    def __init__(self, last: int, split: Sequence[int], order: Sequence[int], joined: Sequence[int]) -> None:
        super().__init__()
        self.last, self.split, self.order, self.joined = last, tuple(split), tuple(order), tuple(joined)

    def forward(self, x: Tensor) -> Tensor:
        before = x.shape[: x.dim() - self.last]
        moved = x.reshape(*before, *self.split)
        keep = range(len(before))
        return moved.permute(*keep, *(len(before) + at for at in self.order)).reshape(*before, *self.joined)


class Shift(nn.Module):
    """Adds a bias to every output."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def conv_of(layer: nn.Module) -> nn.Conv2d:
    if not isinstance(layer, nn.Conv2d) or isinstance(layer, TransposedConv2d) or layer.groups != 1:
        raise ValueError(
            f"only ungrouped convolutions (and linear layers, by svd and tensor trains) can be factorised, but got {layer}; "
            "leave it dense"
        )
    return layer


def linear_of(layer: nn.Module) -> nn.Linear:
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"a tensor train must stand for a linear layer, but got {layer}; choose another decomposition")
    return layer


def weight_of_layer(layer: nn.Module) -> Tensor:
    """The weight of a layer that can be factorised."""
    return (layer if isinstance(layer, nn.Linear) else conv_of(layer)).weight.detach()


def checked(ranks: tuple[int, ...], limits: tuple[int, ...], layer: nn.Module) -> tuple[int, ...]:
    if len(ranks) != len(limits) or not all(1 <= r <= limit for r, limit in zip(ranks, limits, strict=True)):
        raise ValueError(
            f"ranks must lie between 1 and {limits} for {layer}, but got ranks={ranks}; choose smaller ones"
        )
    return ranks


def whole_conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with this weight (out, in, k, k) and the geometry of another one."""
    return part_conv(weight, bias, like, (True, True))


def pointwise_conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1 x 1 convolution with this weight (out, in)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    return filled(conv, weight[:, :, None, None], bias)


def part_conv(
    weight: Tensor, bias: Tensor | None, like: nn.Conv2d, takes: tuple[bool, bool], groups: int = 1
) -> nn.Conv2d:
    """A convolution that takes over the stride, padding and dilation of `like` along the axes in `takes` (height, width)."""
    padding: str | Pair = like.padding if isinstance(like.padding, str) else _along(like.padding, takes, 0)
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        _along(like.stride, takes, 1),
        padding,
        _along(like.dilation, takes, 1),
        groups,
        bias is not None,
        like.padding_mode,
    )
    return filled(conv, weight, bias)


def _along(values: tuple[int, ...], takes: tuple[bool, bool], otherwise: int) -> Pair:
    height, width = (value if taken else otherwise for value, taken in zip(values, takes, strict=True))
    return height, width


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    return filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def filled(layer: LayerT, weight: Tensor, bias: Tensor | None) -> LayerT:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.to(weight.device)


def solved_normal(normal: Tensor, right: Tensor) -> Tensor:
    """X (outputs, f) with X normal = right, for a positive semi-definite normal (f, f) that gets a tiny ridge; float64."""
    ridge = TINY * normal.diagonal().mean().clamp_min(1e-30)
    solved: Tensor = torch.linalg.solve(normal + ridge * torch.eye(len(normal)).to(normal), right.T).T
    return solved


def patch_map(parts: Sequence[nn.Module], shape: Sequence[int]) -> Tensor:
    """The matrix (outputs, fan-in) by which a chain without its biases maps an unfolded input of a weight of this shape
    (outputs, fan-in...) to its output, or to the outputs of all places that the layers after it would read."""
    fan_in = int(torch.Size(shape[1:]).numel())
    device = next(p for part in parts for p in part.parameters()).device if parts else torch.device("cpu")
    x = torch.eye(fan_in, device=device).view(fan_in, *shape[1:])
    with torch.no_grad():
        for part in parts:
            x = applied(part, x)
    return x.flatten(1).T


def applied(part: nn.Module, x: Tensor) -> Tensor:
    """One part of a chain, without its bias, on patches (or what earlier parts made of them)."""
    if isinstance(
        part, nn.Conv2d
    ):  # the patch is the whole image: neither stride, padding nor dilation has anything to do
        return F.conv2d(x, part.weight, groups=part.groups)
    if isinstance(part, nn.Linear):
        return F.linear(x, part.weight)
    if isinstance(part, Shift):
        return x
    rearranged: Tensor = part(x)
    return rearranged
