"""How far a weight change moves the logits of single images: what step 1 is made of, from one forward and backward pass.

For image s and a layer with weight W, G_s = sum over places of g x^T, where x are unfolded inputs and g the gradient of v_s . z_s
by the layer's outputs; z_s are the logits and v_s is a random direction with covariance 1 - 1/K (K classes). Then <G_s, dW>
is how far dW moves the logits along v_s, and

    E_s <G_s, dW>^2 / (2 K)

predicts the rise of the distillation loss T^2 KL at high temperature, which is |dz|^2 / (2 K) for centred logits (Hinton et al.
2015, section 2.1). In contrast to the usual Kronecker factors (Martens and Grosse 2015) the errors of different places of an
image, and of different layers, may add up or cancel. The loss on labels would not do: trained networks are sure of their
training images, and its gradients there are those of a few odd ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.layers import Layer, layer_of
from evaluators.modes import in_eval_mode
from evaluators.statistics import LayerStatistics
from evaluators.unfolding import unfold
from search_spaces.network import Network

MOST_BYTES = 1 << 30  # kept for all layers; in larger networks several images share one (random) direction
FEWEST_ROWS = 8
MOST_VALUES = 1 << 25  # in a temporary tensor
MOST_GAIN = 10.0  # an output of which nothing is left is not brought back
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class LayerGradients:
    """What G_s (rows, outputs x fan-in) says about changes of `weight` (outputs, fan-in); a row stands for one or more images.

    Where batch-norm follows the layer, `normalised`, its statistics are taken anew after compression: outputs keep their mean
    (so inputs are centred in G) and their variance, which `covariance` (fan-in, fan-in) of the inputs tells.
    `output_products` (outputs, outputs) is the mean over images of sum over places of g g^T / K.
    """

    rows: Tensor
    weight: Tensor
    covariance: Tensor
    normalised: bool
    output_products: Tensor
    classes: int

    def shifts(self, change: Tensor) -> Tensor:
        """Logit shifts (rows,) after a weight change, scaled so that their mean square is the predicted loss increase."""
        return self.linear_shifts(self._restored(self.weight + change) - self.weight if self.normalised else change)

    def linear_shifts(self, change: Tensor) -> Tensor:
        """The same, linear in the change: what batch-norm does to the variance of the outputs is left out."""
        moved: Tensor = self.rows.float() @ change.flatten().float()
        return moved / (2 * self.classes) ** 0.5

    def _restored(self, changed: Tensor) -> Tensor:
        """A changed weight, scaled so that every output has the variance it had."""
        before, after = self._variance(self.weight), self._variance(changed)
        return changed * (before / after.clamp_min(1e-12)).sqrt()[:, None].clamp_max(MOST_GAIN)

    def _variance(self, weight: Tensor) -> Tensor:
        return ((weight @ self.covariance) * weight).sum(1)


@dataclass(frozen=True)
class Gradients:
    """By layer, and by residual block the logit shifts (rows,) of leaving it to its shortcut, scaled as those of layers."""

    layers: Mapping[str, LayerGradients]
    blocks: Mapping[str, Tensor]


def collect_gradients(
    model: nn.Module,
    network: Network,
    statistics: Mapping[str, LayerStatistics],
    images: Tensor,
    seed: int,
    batch: int = 64,
) -> Gradients:
    """One forward and backward pass over `images` (N, C, H, W) in eval mode; the model is left as it was."""
    modules = {layer.name: layer_of(model, layer.name) for layer in network.layers}
    parameters = sum(module.weight.numel() for module in modules.values())
    rows = min(len(images), max(FEWEST_ROWS, MOST_BYTES // (2 * max(1, parameters))))
    sums = {name: _LayerSum(module, statistics[name], rows) for name, module in modules.items()}
    blocks = {block.name: torch.zeros(rows) for block in network.blocks}
    watch = _Watch(rows)
    handles = [m.register_forward_hook(partial(watch.on_layer, sums[name])) for name, m in modules.items()]
    handles += [m.register_forward_pre_hook(watch.on_norm) for m in model.modules() if isinstance(m, NORMS)]
    for name, shifts in blocks.items():
        handles.append(model.get_submodule(name).register_forward_hook(partial(watch.on_block, shifts)))
    try:
        classes = _backward(model, images, seed, batch, watch)
    finally:
        for handle in handles:
            handle.remove()
    share = (rows / len(images)) ** 0.5
    found = {name: total.result(share, len(images), classes) for name, total in sums.items()}
    return Gradients(found, {name: shifts * share / (2 * classes) ** 0.5 for name, shifts in blocks.items()})


def _backward(model: nn.Module, images: Tensor, seed: int, batch: int, watch: _Watch) -> int:
    """Gradients of the logits along random directions; returns the number of classes."""
    generator = torch.Generator().manual_seed(seed)
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    classes = 0
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(True)
        with in_eval_mode(model):
            for start in range(0, len(images), batch):
                watch.begin(start, len(images[start : start + batch]))
                logits = model(images[start : start + batch])
                classes = logits.shape[1]
                directions = torch.randn(logits.shape, generator=generator)
                logits.backward((directions - directions.mean(1, keepdim=True)).to(logits))
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
    return classes


class _LayerSum:
    """G_s and sum of g g^T of one layer."""

    def __init__(self, layer: Layer, statistics: LayerStatistics, rows: int) -> None:
        self.layer, self.statistics = layer, statistics
        self.weight = layer.weight.detach().flatten(1).float()
        self.rows = torch.zeros(rows, self.weight.numel(), dtype=torch.bfloat16, device=self.weight.device)
        self.products = torch.zeros(len(self.weight), len(self.weight), device=self.weight.device)
        self.normalised = False

    def add(self, x: Tensor, index: Tensor, g: Tensor) -> None:
        """Inputs and output gradients of one call for the images with these row indices."""
        count = len(index)
        places = g.numel() // count // len(self.weight)
        size = max(1, MOST_VALUES // max(places * self.weight.shape[1], self.weight.numel()))
        x, g = x.reshape(count, -1, *x.shape[1:]), g.reshape(count, -1, *g.shape[1:])
        for at in range(0, count, size):
            self._add(x[at : at + size], index[at : at + size], g[at : at + size])

    def _add(self, x: Tensor, index: Tensor, g: Tensor) -> None:
        n, groups = len(index), self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1
        by_place = g.flatten(0, 1).flatten(2).transpose(1, 2) if isinstance(self.layer, nn.Conv2d) else g
        by_place = by_place.reshape(n, -1, groups, len(self.weight) // groups)
        inputs = unfold(self.layer, x.flatten(0, 1)).reshape(n, -1, groups, self.weight.shape[1])
        if self.normalised:
            inputs = inputs - self.statistics.input_mean.to(inputs)
        gradient = torch.einsum("npgo,npgf->ngof", by_place, inputs).reshape(n, -1)
        self.rows.index_add_(0, index.to(self.rows.device), gradient.to(self.rows.dtype))
        flat = by_place.reshape(-1, len(self.weight))
        self.products += flat.T @ flat

    def result(self, share: float, images: int, classes: int) -> LayerGradients:
        products = self.products / (images * classes)
        covariance = self.statistics.input_covariance.to(self.weight)
        return LayerGradients(self.rows * share, self.weight, covariance, self.normalised, products, classes)


class _Watch:
    """The hooks of one pass, and which images are in it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.index = torch.zeros(0, dtype=torch.int64)
        self.outputs: dict[int, tuple[Tensor, _LayerSum]] = {}

    def begin(self, start: int, count: int) -> None:
        self.index = torch.arange(start, start + count) % self.rows
        self.outputs.clear()

    def on_layer(self, total: _LayerSum, module: nn.Module, args: Any, output: Tensor) -> None:
        x, index = args[0].detach(), self.index
        self.outputs[id(output)] = output, total
        output.register_hook(lambda g: total.add(x, index, g.detach()))

    def on_norm(self, module: nn.Module, args: Any) -> None:
        known = self.outputs.get(id(args[0]))
        if known is not None:
            known[1].normalised = True

    def on_block(self, shifts: Tensor, module: nn.Module, args: Any, output: Tensor) -> None:
        change, index = (args[0] - output).detach(), self.index

        def add(g: Tensor) -> None:
            shifts.index_add_(0, index, (g.detach() * change).flatten(1).sum(1).float().cpu())

        output.register_hook(add)
