"""Plain float networks for export: quantisers taken out, batch-norm folded into the layer before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.quantise import ActivationQuantiser, QuantisedLayer, bake, codes_of
from search_spaces.plan import FLOAT_BITS

# Largest difference of outputs after folding, relative to their spread; more means that somebody else reads the layer's output.
FOLDING_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rounding:
    """Affine rounding of a tensor to codes 0 .. 2**bits - 1; code `zero` means 0."""

    scale: float
    zero: int
    bits: int = 8

    @classmethod
    def of_range(cls, low: float, high: float) -> Rounding:
        """8 bits over a range, which is widened to hold zero."""
        low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
        scale = (high - low) / 255
        return cls(scale, round(-low / scale))


@dataclass(frozen=True)
class IntegerLayer:
    """What an integer kernel needs of one layer: weight = codes * step, one step per output channel (dim 0).

    `weight` is what the float network holds there. codes and step are None for weights in float32, or in a codebook that has no
    integer kernel; rounding is None for float inputs.
    """

    name: str
    weight: Tensor
    bits: int
    codes: Tensor | None = None
    step: Tensor | None = None
    rounding: Rounding | None = None


@dataclass(frozen=True)
class Plain:
    """A float network without any rounding, on the CPU, and the integers behind its weights and activations."""

    model: nn.Module
    layers: tuple[IntegerLayer, ...]
    folded: bool


def plain(module: nn.Module, images: Tensor) -> Plain:
    """`module` as plain layers, with every batch-norm folded that alone reads a convolution's or linear layer's output."""
    dense = _without_quantisers(copy.deepcopy(module).cpu().eval())
    folded = copy.deepcopy(dense)
    factors = _fold(folded, images)
    with torch.no_grad():
        expected, got = dense(images), folded(images)
    safe = float((got - expected).abs().max()) <= FOLDING_TOLERANCE * float(expected.std().clamp_min(1e-9))
    model = folded if safe else dense
    layers = tuple(_integers(model, name, layer, factors if safe else {}) for name, layer in _quantised(module))
    return Plain(model, layers, safe)


def _quantised(module: nn.Module) -> Iterator[tuple[str, QuantisedLayer]]:
    return ((name, m) for name, m in module.named_modules() if isinstance(m, QuantisedLayer))


def _without_quantisers(model: nn.Module) -> nn.Module:
    for parent in list(bake(model).modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[0], ActivationQuantiser):
                setattr(parent, name, child[1])
    return model


def _integers(model: nn.Module, name: str, layer: QuantisedLayer, factors: dict[str, Tensor]) -> IntegerLayer:
    weight = model.get_submodule(name).weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"a quantised layer must have a weight, but got none in {name}; report this network")
    found = IntegerLayer(name, weight.detach(), layer.bits.weight, rounding=_rounding(layer))
    if layer.bits.weight >= FLOAT_BITS or layer.bits.codebook != "symmetric" or layer.bits.group > 0:
        return found
    codes, step = (tensor.detach().cpu() for tensor in codes_of(layer))
    factor = factors.get(name, torch.ones(len(codes)))
    # Minus the lowest code has no place in the same bits: it becomes the highest.
    signs = factor.sign().to(torch.int16).view(-1, *[1] * (codes.dim() - 1))
    turned = (codes.to(torch.int16) * signs).clamp(-128, 127).to(torch.int8)
    return IntegerLayer(
        name, weight.detach(), layer.bits.weight, turned, step.flatten() * factor.abs().clamp_min(1e-12), found.rounding
    )


def _rounding(layer: QuantisedLayer) -> Rounding | None:
    if not isinstance(layer.input, ActivationQuantiser):
        return None
    return Rounding(float(layer.input.scale), round(float(layer.input.zero)), layer.input.bits)


def _fold(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Fold in place; the factor by which each output channel of a layer was scaled, by the layer's name."""
    factors = {}
    for name, norm_name in _pairs(model, images):
        layer, norm = model.get_submodule(name), model.get_submodule(norm_name)
        if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            factors[name] = _merge(layer, norm)
            parent, _, leaf = norm_name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Identity())
    return factors


@torch.no_grad()
def _merge(layer: nn.Conv2d | nn.Linear, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """gamma / sqrt(var + eps) per channel, after it and beta - mean * factor went into weight and bias."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch-norm must keep running statistics to be folded, but got none; leave it unfolded")
    gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    beta = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    factor = gamma / (norm.running_var + norm.eps).sqrt()
    bias = norm.running_mean.new_zeros(()) if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias - norm.running_mean) * factor + beta)
    layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
    return factor.detach().clone()


def _pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """(layer, batch-norm) by name where the norm's input is the very tensor that the layer gave, each called once."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # alive, so that no other tensor gets the same id
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def after_layer(name: str, output: Tensor) -> None:
        made[id(output)] = name
        kept.append(output)
        calls[name] = calls.get(name, 0) + 1

    def before_norm(name: str, given: Tensor) -> None:
        if id(given) in made:
            pairs.append((made[id(given)], name))
        calls[name] = calls.get(name, 0) + 1

    hooks = []
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            hooks.append(m.register_forward_hook(lambda _, __, output, name=name: after_layer(name, output)))
        elif isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats:
            hooks.append(m.register_forward_pre_hook(lambda _, given, name=name: before_norm(name, given[0])))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return [(layer, norm) for layer, norm in pairs if calls[layer] == calls[norm] == 1]
