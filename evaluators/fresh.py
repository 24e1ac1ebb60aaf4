"""A network's weights drawn anew: the structure alone is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class Resets(Protocol):
    """A module that can initialise its own parameters anew, as all layers of torch can."""

    def reset_parameters(self) -> None: ...


def require_fresh(model: nn.Module) -> None:
    """Raise ValueError for a network with parameters that nobody knows how to draw."""
    for name, part in _owners(model):
        if not isinstance(part, Resets):
            raise ValueError(
                "a network trained from scratch must consist of modules with reset_parameters(), but got "
                f"{name or 'the network'} ({type(part).__name__}) with parameters of its own and none; add that method, or set "
                "evaluation.final.from_scratch=false"
            )


def reinitialise(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew, in place and from the seed alone: as its layer does at this size, so that narrow layers begin
    with the scale that suits them. Batch normalisations forget their statistics."""
    require_fresh(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, part in _owners(model):
            if isinstance(part, Resets):
                part.reset_parameters()


def _owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold parameters themselves."""
    return (
        (name, part) for name, part in model.named_modules() if next(part.parameters(recurse=False), None) is not None
    )
