"""Operations on the edges of cells, as in the official code of DARTS (Liu et al. 2019) and NAS-Bench-201 (Dong and Yang 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Make = Callable[[int, int, bool], nn.Module]  # channels, stride, whether batch norms have scale and shift


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class FactorisedReduce(nn.Module):
    """Halves height and width by two 1 x 1 convolutions with stride 2, one of them shifted by a pixel."""

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(c_out, affine=affine))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    spatial = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    return [nn.ReLU(), spatial, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)]


def _separable(kernel: int) -> Make:
    """Twice depthwise and pointwise, the first with the stride."""
    return lambda channels, stride, affine: nn.Sequential(
        *_depthwise(channels, kernel, stride, 1, affine), *_depthwise(channels, kernel, 1, 1, affine)
    )


def _dilated(kernel: int) -> Make:
    return lambda channels, stride, affine: nn.Sequential(*_depthwise(channels, kernel, stride, 2, affine))


def _normal(kernel: int) -> Make:
    return lambda channels, stride, affine: relu_conv_bn(channels, channels, kernel, stride, affine)


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorisedReduce(channels, channels, affine)


def _average(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


def _maximum(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, 1)


def _normalised(pool: Make) -> Make:
    """While DARTS searches, poolings end in a batch norm without scale, so that all operations are of one magnitude."""
    return lambda channels, stride, affine: (
        pool(channels, stride, affine)
        if affine
        else nn.Sequential(pool(channels, stride, affine), nn.BatchNorm2d(channels, affine=False))
    )


DARTS: Mapping[str, Make] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": _normalised(_maximum),
    "avg_pool_3x3": _normalised(_average),
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
}

NASBENCH201: Mapping[str, Make] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "skip_connect": _skip,
    "nor_conv_1x1": _normal(1),
    "nor_conv_3x3": _normal(3),
    "avg_pool_3x3": _average,
}
