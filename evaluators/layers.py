"""Typed access to the layers that plans speak of: convolutions and linear layers."""

from __future__ import annotations

from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear


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
