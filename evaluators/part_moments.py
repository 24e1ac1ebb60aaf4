"""Moments of the inputs of the layers in a chain, from those of the layer that the chain stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evaluators.chains import applied
from evaluators.moments import InputMoments


@torch.no_grad()
def part_moments(chain: nn.Sequential, kernel: Sequence[int], inputs: InputMoments) -> dict[int, InputMoments]:
    """Those of every part that reads all that a patch of the layer's inputs became, by its position. kernel: that of the layer.

    Parts that are applied at several places of one patch (the first ones of spatial, Tucker-2 and CP chains, cores of tensor
    trains) have none: what they read at the borders of an image is in no patch as often as it is read.
    """
    fan_in = len(inputs.mean)
    x = torch.eye(fan_in).to(inputs.mean).view(fan_in, -1, *kernel)
    found = {}
    for at, part in enumerate(chain):
        if _reads_all(part, x):
            found[at] = inputs if at == 0 else inputs.through(x.flatten(1).T)
        x = applied(part, x)
    return found


def _reads_all(part: nn.Module, x: Tensor) -> bool:
    if isinstance(part, nn.Conv2d):
        return part.groups == 1 and tuple(x.shape[2:]) == part.kernel_size
    return isinstance(part, nn.Linear) and x.dim() == 2
