"""Layers with quantised weights (`evaluators.weight_quantiser`) and input activations (affine, per tensor).

While a network is tuned they compute with float weights rounded on the way; `bake` then leaves plain torch layers whose weights
lie in the codebook.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.moments import InputMoments
from evaluators.ranges import RULES, Seen, affine_grid
from evaluators.weight_quantiser import WeightQuantiser
from search_spaces.plan import FLOAT_BITS, Bits

SAMPLE = 16_384  # activations kept per calibration batch


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
