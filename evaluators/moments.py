"""Moments of the inputs of layers: what data-aware rounding, decomposition and compensation are optimal for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.layers import Example, Layer, as_arguments, layer_of
from evaluators.modes import in_eval_mode
from evaluators.unfolding import unfold

MAX_ROWS = 20_000  # unfolded input places per layer and batch; beyond, places are taken at a regular stride


@dataclass(frozen=True)
class InputMoments:
    """mean (fan-in,) and covariance (fan-in, fan-in) of the unfolded inputs of a layer."""

    mean: Tensor
    covariance: Tensor

    def kept(self, columns: Sequence[int]) -> InputMoments:
        """Those of the inputs that remain."""
        index = torch.tensor(columns, device=self.mean.device)
        return InputMoments(self.mean[index], self.covariance[index][:, index])

    def through(self, matrix: Tensor) -> InputMoments:
        """Those of the features A x, A (features, fan-in)."""
        return InputMoments(matrix @ self.mean, matrix @ self.covariance @ matrix.T)

    def second(self, bias: bool) -> Tensor:
        """What the mean squared output error of a weight change dW is a quadratic form of: tr(dW M dW^T).

        E[x x^T]; with a bias, which can make up for the mean, the covariance.
        """
        return self.covariance if bias else self.covariance + torch.outer(self.mean, self.mean)

    def bias_for(self, change: Tensor) -> Tensor:
        """What must be added to the bias so that the outputs keep their mean after a weight change (outputs, fan-in)."""
        return -(change.to(self.mean) @ self.mean)


def collect_moments(model: nn.Module, layers: Iterable[str], batches: Iterable[Example]) -> dict[str, InputMoments]:
    """Moments over the images of all batches, by forward passes in eval mode; the model is left as it was."""
    sums = {name: _Sums(layer_of(model, name)) for name in layers}
    handles = [s.layer.register_forward_pre_hook(_adder(s)) for s in sums.values()]
    try:
        with in_eval_mode(model), torch.no_grad():
            for images in batches:
                model(*as_arguments(images))
    finally:
        for handle in handles:
            handle.remove()
    return {name: s.moments() for name, s in sums.items()}


class _Sums:
    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        fan_in = layer.weight[0].numel()
        self.total = torch.zeros(fan_in, dtype=torch.float64, device=layer.weight.device)
        self.products = torch.zeros(fan_in, fan_in, dtype=torch.float64, device=layer.weight.device)
        self.rows = 0

    def add(self, x: Tensor) -> None:
        rows = unfold(self.layer, x.detach())
        rows = rows[:: max(1, len(rows) // MAX_ROWS)]
        self.total += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()
        self.rows += len(rows)

    def moments(self) -> InputMoments:
        mean = self.total / max(1, self.rows)
        covariance = self.products / max(1, self.rows) - torch.outer(mean, mean)
        return InputMoments(mean.float(), covariance.float())


def _adder(sums: _Sums) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        sums.add(args[0])

    return hook
