"""Quantisation of weights (any codebook of `search_spaces.codebooks`) and of input activations (affine, per tensor).

While a network is tuned, the straight-through estimator passes gradients through the rounding, and step sizes, offsets and
tables are learned (Esser et al. 2020, LSQ, eq. 3 and 5; offsets as in Bhalgat et al. 2020, LSQ+). `bake` then leaves plain
torch layers whose weights lie in the codebook.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
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
from evaluators.moments import InputMoments
from evaluators.ranges import RULES, Seen, affine_grid
from evaluators.rounding import ROUNDERS
from search_spaces.plan import FLOAT_BITS, Bits

LEARNED = (
    ".step",
    ".offset",
    ".table",
)  # names of what a weight quantiser learns: storage, not parameters of the network
SAMPLE = 16_384  # activations kept per calibration batch


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


class ActivationQuantiser(nn.Module):
    """Affine fake quantisation with a static range: first `observe` inputs, then `freeze` the range by a rule of
    `evaluators.ranges`. Ranges that start at zero (after a ReLU) use all codes for positive values."""

    def __init__(self, bits: int, rule: str = Bits.range) -> None:
        super().__init__()
        self.bits = bits
        self.rule = rule
        self.observing = False
        self.seen: list[Tensor] = []
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero", torch.tensor(0.0))
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self._observe(x.detach())
            return x
        top = 2**self.bits - 1
        inside = x.clamp((0 - self.zero) * self.scale, (top - self.zero) * self.scale)
        rounded = (inside / self.scale).round() * self.scale
        return inside + (rounded - inside).detach() if inside.requires_grad else rounded

    def _observe(self, x: Tensor) -> None:
        self.low = torch.minimum(self.low, x.amin())
        self.high = torch.maximum(self.high, x.amax())
        self.seen.append(x.flatten()[:: max(1, x.numel() // SAMPLE)].float())

    def freeze(self) -> None:
        """Turn what was observed into scale and zero point."""
        if self.seen:
            seen = Seen(self.low, self.high, torch.cat(self.seen))
            scale, zero = affine_grid(RULES[self.rule](seen, self.bits), self.bits)
            self.scale, self.zero = torch.full_like(self.scale, scale), torch.full_like(self.zero, zero)
        self.seen, self.observing = [], False


class QuantisedLayer(nn.Module):
    """A convolution or linear layer under quantisation-aware tuning: float weight, learned codebook, static input range, and a
    mask of the weights that remain, if any."""

    mask: Tensor | None

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        bits: Bits,
        inputs: InputMoments | None = None,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", mask)
        self.bits = bits
        self.input = ActivationQuantiser(bits.activation, bits.range) if bits.activation < FLOAT_BITS else nn.Identity()
        self.quantiser = WeightQuantiser(layer.weight, bits, mask) if bits.weight < FLOAT_BITS else None
        if self.quantiser is not None and inputs is not None and bits.data_aware:
            self._fit(self.quantiser, inputs)

    @torch.no_grad()
    def _fit(self, quantiser: WeightQuantiser, inputs: InputMoments) -> None:
        """Round the weight with regard to its inputs; the bias, if any, takes up the change of the outputs' mean."""
        bias = self.layer.bias
        fitted = quantiser.fitted(self.layer.weight, inputs.second(bias is not None), self.mask)
        if bias is not None:
            bias.add_(inputs.bias_for((fitted - self.layer.weight).flatten(1)))
        self.layer.weight.copy_(fitted)

    def weight(self) -> Tensor:
        """The weight that the layer computes with."""
        weight: Tensor = self.layer.weight if self.quantiser is None else self.quantiser(self.layer.weight)
        return weight if self.mask is None else weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        x, layer = self.input(x), self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, self.weight(), layer.bias)
        return layer._conv_forward(x, self.weight(), layer.bias)


def quantise_chain(chain: nn.Sequential, bits: Bits, inputs: Mapping[int, InputMoments]) -> nn.Sequential:
    """As `quantise_layer` for every convolution and linear layer of a factorised layer; moments by position."""
    layers = (nn.Conv2d, nn.Linear)
    wrapped = (quantise_layer(p, bits, inputs.get(i)) if isinstance(p, layers) else p for i, p in enumerate(chain))
    return nn.Sequential(*wrapped)


def quantise_layer(
    module: nn.Module, bits: Bits, inputs: InputMoments | None = None, mask: Tensor | None = None
) -> nn.Module:
    """Wrap a convolution or linear layer; 32 and 32 bits without a mask leave it untouched.

    With the moments of its inputs the weight is rounded as `bits.rounding` says; without them to the nearest level.
    """
    if bits.weight >= FLOAT_BITS and bits.activation >= FLOAT_BITS and mask is None:
        return module
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise TypeError(
            f"only Conv2d and Linear layers can be quantised, but got {type(module).__name__}; leave it at 32 bits"
        )
    return QuantisedLayer(module, bits, inputs, mask)


def activation_quantisers(model: nn.Module) -> list[ActivationQuantiser]:
    return [m for m in model.modules() if isinstance(m, ActivationQuantiser)]


def codes_of(layer: QuantisedLayer) -> tuple[Tensor, Tensor]:
    """Signed codes (int8) and step sizes, both broadcastable, of a weight in a symmetric uniform codebook with one step per
    channel or tensor: codes * steps is the baked weight exactly. ValueError for any other weight."""
    quantiser = layer.quantiser
    if quantiser is None or quantiser.step is None or layer.bits.codebook != "symmetric" or layer.bits.group > 0:
        raise ValueError(
            f"codes with one step exist only for symmetric weights without groups, but got {layer.bits}; store it in float32"
        )
    weight = layer.layer.weight.detach()
    step, _ = quantiser.grid(weight[0].numel())
    codes = quantiser.levels().values.to(weight.device)[quantiser.codes(weight).long()]
    if layer.mask is not None:
        codes = codes * layer.mask
    return codes.to(torch.int8), step.detach().view(-1, *[1] * (weight.dim() - 1))


def bake(model: nn.Module) -> nn.Module:
    """Replace, in place, every quantised layer by plain layers: weights in the codebook, input rounding kept."""
    for name, child in model.named_children():
        if isinstance(child, QuantisedLayer):
            setattr(model, name, _baked(child))
        else:
            bake(child)
    return model


def _baked(layer: QuantisedLayer) -> nn.Module:
    with torch.no_grad():
        layer.layer.weight.copy_(layer.weight())
    if isinstance(layer.input, nn.Identity):
        return layer.layer
    return nn.Sequential(OrderedDict(input=layer.input, layer=layer.layer))
