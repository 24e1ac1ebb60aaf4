"""Uniform quantisation of weights (symmetric, one step size per output channel) and of input activations (affine, per tensor).

While a network is tuned, the straight-through estimator passes gradients through the rounding and step sizes are learned
(Esser et al. 2020, LSQ, eq. 3 and 5). `bake` then leaves plain torch layers whose weights lie in the codebook.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.plan import FLOAT_BITS, Bits

CLIP_SHARES = tuple(0.3 + 0.035 * i for i in range(21))  # tried shares of the largest weight, the last is 1


def weight_range(bits: int) -> tuple[int, int]:
    """Lowest and highest code of a symmetric weight quantiser; 2 bits give -2..1."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


class _Round(torch.autograd.Function):
    """scale * clamp(round(x / scale)) with straight-through gradient for x and the LSQ gradient for scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ratio = x / scale
        codes = ratio.round().clamp(low, high)
        ctx.save_for_backward(ratio, codes)
        ctx.scale_shape, ctx.low, ctx.high = scale.shape, low, high
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        ratio, codes = ctx.saved_tensors
        (grad,) = grads
        inside = (ratio >= ctx.low) & (ratio <= ctx.high)
        slope = torch.where(inside, codes - ratio, codes)
        per_scale = (grad * slope).sum_to_size(ctx.scale_shape)
        elements = grad.numel() / max(1, per_scale.numel())
        return grad * inside, per_scale / (elements * max(1, ctx.high)) ** 0.5, None, None


def fake_quantise(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Values of x rounded to multiples of `scale` (broadcast) with codes in low..high."""
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        result: Tensor = _Round.apply(x, scale, low, high)
        return result
    return (x / scale).round().clamp(low, high) * scale


def best_scale(weight: Tensor, bits: int) -> Tensor:
    """Step size per output channel, shape (N, 1, ...), with the least squared error among clipped ranges."""
    low, high = weight_range(bits)
    flat = weight.detach().flatten(1)
    largest = torch.maximum(flat.amax(1) / high, flat.amin(1) / low).clamp_min(1e-8)
    errors = torch.stack([_error(flat, largest * share, low, high) for share in CLIP_SHARES])
    share = torch.tensor(CLIP_SHARES, dtype=flat.dtype, device=flat.device)[errors.argmin(0)]
    return (largest * share).view(-1, *[1] * (weight.dim() - 1))


def _error(flat: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    step = scale[:, None]
    return ((flat / step).round().clamp(low, high) * step - flat).square().sum(1)


class ActivationQuantiser(nn.Module):
    """Affine fake quantisation with a static range: first `observe` inputs, then `freeze` the range.

    Ranges that start at zero (after a ReLU) use all codes for positive values. With 32 bits it passes everything.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observing = False
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
            self.low = torch.minimum(self.low, x.detach().amin())
            self.high = torch.maximum(self.high, _upper(x.detach(), self.bits))
            return x
        top = 2**self.bits - 1
        inside = x.clamp((0 - self.zero) * self.scale, (top - self.zero) * self.scale)
        rounded = (inside / self.scale).round() * self.scale
        return inside + (rounded - inside).detach() if inside.requires_grad else rounded

    def freeze(self) -> None:
        """Turn the observed range into scale and zero point."""
        low = float(self.low.clamp_max(0.0)) if torch.isfinite(self.low) else 0.0
        high = float(self.high.clamp_min(low + 1e-6)) if torch.isfinite(self.high) else 1.0
        scale = (high - low) / (2**self.bits - 1)
        self.scale = torch.full_like(self.scale, scale)
        self.zero = torch.full_like(self.zero, round(-low / scale))
        self.observing = False


def _upper(x: Tensor, bits: int) -> Tensor:
    """The value to clip at: the maximum for 8 bits and more, else the quantile that an eighth of a code's worth exceeds."""
    if bits >= 8:
        return x.amax()
    flat = x.flatten()[:: max(1, x.numel() // 100_000)]
    return torch.quantile(flat, 1.0 - 0.02 / 2**bits)


class QuantisedLayer(nn.Module):
    """A convolution or linear layer under quantisation-aware tuning: float weight, learned step sizes, static input range."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight_bits = weight_bits
        self.input = ActivationQuantiser(activation_bits) if activation_bits < FLOAT_BITS else nn.Identity()
        if weight_bits < FLOAT_BITS:
            self.step = nn.Parameter(best_scale(layer.weight, weight_bits))
        else:
            self.register_parameter("step", None)

    def weight(self) -> Tensor:
        """The weight that the layer computes with."""
        if self.step is None:
            return self.layer.weight
        return fake_quantise(self.layer.weight, self.step.abs().clamp_min(1e-8), *weight_range(self.weight_bits))

    def forward(self, x: Tensor) -> Tensor:
        x, layer = self.input(x), self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, self.weight(), layer.bias)
        return layer._conv_forward(x, self.weight(), layer.bias)


def quantise_layer(module: nn.Module, bits: Bits) -> nn.Module:
    """Wrap every convolution and linear layer of a (possibly factorised) layer; 32 and 32 bits leave it untouched."""
    if bits.weight >= FLOAT_BITS and bits.activation >= FLOAT_BITS:
        return module
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*(quantise_layer(part, bits) for part in module))
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise TypeError(
            f"only Conv2d and Linear layers can be quantised, but got {type(module).__name__}; leave it at 32 bits"
        )
    return QuantisedLayer(module, bits.weight, bits.activation)


def activation_quantisers(model: nn.Module) -> list[ActivationQuantiser]:
    return [m for m in model.modules() if isinstance(m, ActivationQuantiser)]


def codes_of(layer: QuantisedLayer) -> tuple[Tensor, Tensor]:
    """Integer codes (int8) and step sizes of a quantised weight: codes * steps is the baked weight exactly."""
    if layer.step is None:
        raise ValueError(
            "codes exist only for quantised weights, but got a layer with 32 weight bits; store it in float32"
        )
    step = layer.step.detach().abs().clamp_min(1e-8)
    codes = (layer.layer.weight.detach() / step).round().clamp(*weight_range(layer.weight_bits))
    return codes.to(torch.int8), step


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
