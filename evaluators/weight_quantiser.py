"""Weights in a codebook (any of `search_spaces.codebooks`): fitted to a float weight, and learned while a network is tuned.

The straight-through estimator passes gradients through the rounding; step sizes, offsets and tables are learned (Esser et al.
2020, LSQ, eq. 3 and 5; offsets as in Bhalgat et al. 2020, LSQ+).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.codebooks import (
    FIXED,
    SMALLEST,
    Levels,
    Table,
    fit_affine,
    fit_step,
    fit_table,
    per_group,
    spread,
)
from evaluators.rounding import ROUNDERS
from search_spaces.plan import FLOAT_BITS, Bits

# Names of what a weight quantiser learns: storage, not parameters of the network.
LEARNED = (".step", ".offset", ".table")


class _Round(torch.autograd.Function):
    """scale * nearest level of (x / scale) with straight-through gradient for x and the LSQ gradient for scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: Levels, steps: int) -> Tensor:
        ratio = x / scale
        codes = levels.nearest(ratio)
        ctx.save_for_backward(ratio, codes)
        ctx.levels, ctx.shape = levels, scale.shape
        ctx.factor = 1.0 / (x.numel() / max(1, steps) * max(1.0, levels.high)) ** 0.5
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        ratio, codes = ctx.saved_tensors
        (grad,) = grads
        inside = (ratio > ctx.levels.low) & (ratio < ctx.levels.high)
        slope = torch.where(inside, codes - ratio, codes)
        return grad * inside, (grad * slope).sum_to_size(ctx.shape) * ctx.factor, None, None


def fake_quantise(x: Tensor, scale: Tensor, levels: Levels, steps: int) -> Tensor:
    """Values of x at the nearest level times `scale` (broadcast); `steps` different scales are learned together."""
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        result: Tensor = _Round.apply(x, scale, levels, steps)
        return result
    return levels.nearest(x / scale) * scale


class WeightQuantiser(nn.Module):
    """Maps a float weight to one in the codebook of `bits`; fitted to `weight` with the least squared error, that of the weights
    which a mask keeps if there is one.

    step (and offset) have the shape (channels, groups per channel), or (1, 1) for a whole tensor; a k-means codebook has a table.
    """

    def __init__(self, weight: Tensor, bits: Bits, mask: Tensor | None = None) -> None:
        super().__init__()
        self.bits = bits
        used = (torch.ones_like(weight) if mask is None else mask.to(weight.dtype)).flatten(1)
        flat = weight.detach().flatten(1) * used
        self.step: nn.Parameter | None = None
        self.offset: nn.Parameter | None = None
        self.table: nn.Parameter | None = None
        if bits.codebook == "kmeans":
            self.table = nn.Parameter(fit_table(flat[used > 0], bits.weight))
            return
        self.fixed = FIXED[bits.codebook](bits.weight)
        if bits.codebook == "affine":
            step, offset = per_group(flat, used, bits.group, lambda rows, on: fit_affine(rows, on, self.fixed))
            self.offset = nn.Parameter(offset)
        else:
            (step,) = per_group(flat, used, bits.group, lambda rows, on: (fit_step(rows, on, self.fixed),))
        self.step = nn.Parameter(step)

    def levels(self) -> Levels:
        return self.fixed if self.table is None else Table(self.table.sort().values)

    def grid(self, fan_in: int) -> tuple[Tensor, Tensor]:
        """Step and offset of every weight, (channels, fan-in) or broadcastable to it."""
        if self.step is None:
            return torch.ones(1, 1), torch.zeros(1, 1)
        step = spread(self.step.abs().clamp_min(SMALLEST), fan_in, self.bits.group)
        if self.offset is None:
            return step, torch.zeros(1, 1, device=step.device)
        return step, spread(self.offset, fan_in, self.bits.group)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is computed with, of the same shape."""
        flat = weight.flatten(1)
        if self.table is not None:
            return _looked_up(flat, self.table).view_as(weight)
        step, offset = self.grid(flat.shape[1])
        steps = 0 if self.step is None else self.step.numel()
        if self.offset is None:
            return fake_quantise(flat, step, self.fixed, steps).view_as(weight)
        return (fake_quantise(flat - offset, step, self.fixed, steps) + offset).view_as(weight)

    @torch.no_grad()
    def fitted(self, weight: Tensor, second_moment: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weight rounded as `bits` says, with regard to the second moment of the layer's inputs (fan-in, fan-in); 0 where a
        mask drops it, for which gptq makes up as for rounding (Frantar and Alistarh 2023)."""
        flat = weight.detach().flatten(1)
        step, offset = (each.expand(-1, flat.shape[1]) for each in self.grid(flat.shape[1]))
        levels = self.levels()
        used = torch.ones_like(flat) if mask is None else mask.flatten(1).to(flat.dtype)

        def columns(part: Tensor, start: int) -> Tensor:
            at = slice(start, start + part.shape[1])
            return (levels.nearest((part - offset[:, at]) / step[:, at]) * step[:, at] + offset[:, at]) * used[:, at]

        return ROUNDERS[self.bits.rounding](flat, second_moment, columns).view_as(weight)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """Codes 0..2^b - 1 of every weight, uint8, of the same shape."""
        flat = weight.detach().flatten(1)
        step, offset = self.grid(flat.shape[1])
        return self.levels().codes((flat - offset.to(flat.device)) / step.to(flat.device)).view_as(weight)


def _looked_up(flat: Tensor, table: Tensor) -> Tensor:
    """Nearest entries of a table: the gradient passes straight through to the weight, and summed to each entry (Han et al. 2016),
    there scaled as for step sizes."""
    factor = (len(table) / flat.numel()) ** 0.5
    scaled = table * factor
    nearest = Table((table.detach() + (scaled - scaled.detach())).sort().values).nearest(flat)
    return nearest + (flat - flat.detach()) if flat.requires_grad and torch.is_grad_enabled() else nearest


def rounded_weight(weight: Tensor, bits: Bits, second_moment: Tensor) -> Tensor:
    """The weight in the codebook fitted to it; itself at 32 bits. second_moment is that of the layer's inputs."""
    if bits.weight >= FLOAT_BITS:
        return weight.detach()
    return WeightQuantiser(weight, bits).fitted(weight, second_moment)
