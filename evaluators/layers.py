"""The layers that plans speak of, convolutions and linear layers, and how a network is called."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear
Example = Tensor | tuple[Tensor, ...]  # one sample (1, ...), or one for each input of the network


class TransposedConv2d(nn.Conv2d):
    """A transposed convolution that keeps its weight as a convolution does, (outputs, inputs / groups, k, k).

    So everything that works on the output channels of a weight (steps of quantisers, saliency, cuts) holds for it as well.
    MACs are weights times input places.
    """

    def __init__(self, like: nn.ConvTranspose2d) -> None:
        super().__init__(
            like.in_channels,
            like.out_channels,
            like.kernel_size,  # type: ignore[arg-type]
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            like.dilation,  # type: ignore[arg-type]
            like.groups,
            like.bias is not None,
            like.padding_mode,
            like.weight.device,
            like.weight.dtype,
        )
        self.output_padding = like.output_padding
        self.weight = nn.Parameter(_swapped(like.weight.detach(), like.groups), like.weight.requires_grad)
        self.bias = like.bias

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, more = self.stride, self.padding, self.output_padding
        swapped = _swapped(weight, self.groups)
        return F.conv_transpose2d(input, swapped, bias, stride, padding, more, self.groups, self.dilation)  # type: ignore[arg-type]


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Exchange output and input channels within every group: (groups a, b, k, k) <-> (groups b, a, k, k)."""
    per_group = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return per_group.flatten(0, 1)


def is_plain(module: nn.Module) -> TypeGuard[Layer]:
    """Whether a layer computes what its class in torch computes, so that its weight can be replaced by a cut or rounded one."""
    if isinstance(module, nn.Conv2d):
        own = type(module)._conv_forward in (nn.Conv2d._conv_forward, TransposedConv2d._conv_forward)
        return type(module).forward is nn.Conv2d.forward and own
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def kind_of(layer: Layer) -> str:
    if isinstance(layer, TransposedConv2d):
        return "conv_transpose"
    return "conv" if isinstance(layer, nn.Conv2d) else "linear"


def as_arguments(example: Example) -> tuple[Any, ...]:
    return (example,) if isinstance(example, Tensor) else tuple(example)


def layer_of(model: nn.Module, name: str) -> Layer:
    """The convolution or linear layer of this name; TypeError for any other module."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise TypeError(
            f"{name} must be a Conv2d or Linear layer, but got {type(module).__name__}; leave it out of the space"
        )
    return module


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The layer's weight without gradient, (outputs, inputs, ...)."""
    return layer_of(model, name).weight.detach()
