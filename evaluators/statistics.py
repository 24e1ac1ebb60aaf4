"""Statistics of a trained network, computed once and reused by criteria, step 1 and data-aware transforms.

For every convolution and linear layer with weight W (outputs x fan-in):
    C = E[x x^T] - mu mu^T   covariance of the unfolded inputs over images and places (what batch-norm recalibration leaves)
    S = sum over places of g g^T, averaged over images; g = gradient of the loss by the layer's outputs, labels sampled
        from the model's own prediction (the Fisher information, as in K-FAC: Martens and Grosse 2015)
so that 1/2 tr(S dW C dW^T) predicts the loss increase of a weight change dW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.layers import Layer, layer_of
from evaluators.modes import in_eval_mode
from evaluators.moments import InputMoments
from evaluators.outputs import OutputWatch
from evaluators.unfolding import unfold

MAX_PLACES = 20_000  # unfolded input places per layer kept for C; beyond, images, then places are taken at a stride
MAX_STRIDE = 4  # of images: places of one image say less than as many of several
SAMPLED = 4096  # single input values per layer and batch kept to measure rounding


@dataclass(frozen=True)
class LayerStatistics:
    """input_covariance (fan-in, fan-in), input_mean (fan-in,), input_range (2,), output_gradient (outputs, outputs),
    taylor (outputs,), input_sample (n,): an even sample of the values that enter the layer. output_scale (outputs,): standard
    deviation of the outputs, or magnitude of the scale of the batch normalisation that follows; output_positive (outputs,): share
    of the places where they, normalised if so, are positive."""

    input_covariance: Tensor
    input_mean: Tensor
    input_range: Tensor
    output_gradient: Tensor
    taylor: Tensor
    input_sample: Tensor
    output_scale: Tensor
    output_positive: Tensor

    @property
    def inputs(self) -> InputMoments:
        return InputMoments(self.input_mean, self.input_covariance)


class _Accumulator:
    """Sums over batches for one layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.gram: Tensor | None = None
        self.sum: Tensor | None = None
        self.range = torch.zeros(2)
        self.sample: list[Tensor] = []
        self.places = 0
        self.gradient: Tensor | None = None
        self.taylor: Tensor | None = None

    def add_input(self, x: Tensor, share: int) -> None:
        stride = min(share, MAX_STRIDE)
        rows = unfold(self.layer, x.detach()[::stride])[:: share // stride].float()
        low, high = torch.aminmax(x.detach())
        self.range = torch.stack([torch.minimum(self.range[0], low.cpu()), torch.maximum(self.range[1], high.cpu())])
        self.sample.append(x.detach().flatten()[:: max(1, x.numel() // SAMPLED)].float().cpu())
        self.gram = (rows.T @ rows).double() + (0 if self.gram is None else self.gram)
        self.sum = rows.sum(0, dtype=torch.float64) + (0 if self.sum is None else self.sum)
        self.places += len(rows)

    def add_gradient(self, g: Tensor) -> None:
        rows = (g.transpose(0, 1).flatten(1) if g.dim() == 4 else g.flatten(0, -2).T).float()
        self.gradient = (rows @ rows.T).double() + (0 if self.gradient is None else self.gradient)

    def add_taylor(self, weight: Tensor) -> None:
        if weight.grad is not None:
            term = (weight.grad * weight.detach()).flatten(1).sum(1).double().square()
            self.taylor = term + (0 if self.taylor is None else self.taylor)

    def result(self, name: str, images: int, batches: int, scale: Tensor, positive: Tensor) -> LayerStatistics:
        if self.gram is None or self.sum is None or self.gradient is None:
            raise ValueError(
                f"every layer must run in the forward pass and get a gradient, but got none for {name}; "
                "take detach(), no_grad() and numpy out of the forward pass"
            )
        mean = self.sum / self.places
        covariance = self.gram / self.places - torch.outer(mean, mean)
        taylor = torch.zeros(len(positive), dtype=torch.float64) if self.taylor is None else self.taylor / batches
        return LayerStatistics(
            covariance.float(),
            mean.float(),
            self.range,
            (self.gradient / images).float(),
            taylor.float(),
            torch.cat(self.sample),
            scale,
            positive,
        )


def collect(
    model: nn.Module,
    layers: Sequence[str],
    images: Tensor,
    seed: int,
    batch: int = 64,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, LayerStatistics]:
    """One forward and backward pass over `images` (N, C, H, W) in eval mode; parameters and mode are left as they were."""
    modules = {name: layer_of(model, name) for name in layers}
    sums = {name: _Accumulator(module) for name, module in modules.items()}
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(True)
    handles = [m.register_forward_hook(_capture(sums[name], len(images))) for name, m in modules.items()]
    watch = OutputWatch(model, modules)
    generator = torch.Generator().manual_seed(seed)
    batches = 0
    try:
        with in_eval_mode(model):
            for start in range(0, len(images), batch):
                logits = model(images[start : start + batch])
                labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=generator).squeeze(1)
                model.zero_grad(set_to_none=True)
                F.cross_entropy(logits, labels.to(logits.device), reduction="sum").backward()
                for name, module in modules.items():
                    sums[name].add_taylor(module.weight)
                watch.forget()
                batches += 1
                if progress is not None:
                    progress(min(start + batch, len(images)))
    finally:
        for handle in (*handles, *watch.handles):
            handle.remove()
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
    return {
        name: s.result(name, len(images), batches, watch.scale(name), watch.positive(name)) for name, s in sums.items()
    }


def _capture(accumulator: _Accumulator, images: int) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        per_image = output.numel() // len(output) // _outputs(accumulator.layer)
        accumulator.add_input(args[0], max(1, images * per_image // MAX_PLACES))
        output.register_hook(accumulator.add_gradient)

    return hook


def _outputs(module: Layer) -> int:
    return int(module.weight.shape[0])
