"""What the output channels of layers look like while a network runs, after the batch normalisation that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evaluators.layers import Layer


class ChannelSums:
    """Sums over the places of one layer's outputs."""

    def __init__(self, channels: int) -> None:
        self.positive, self.sum, self.square = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
        self.places = 0

    def add(self, y: Tensor) -> None:
        rows = y.detach().movedim(1 if y.dim() == 4 else -1, 0).flatten(1)
        self.positive += (rows > 0).sum(1).cpu()
        self.sum += rows.sum(1, dtype=torch.float64).cpu()
        self.square += rows.double().square().sum(1).cpu()
        self.places += rows.shape[1]

    def positive_share(self) -> Tensor:
        return (self.positive / max(1, self.places)).float()

    def deviation(self) -> Tensor:
        mean = self.sum / max(1, self.places)
        return (self.square / max(1, self.places) - mean.square()).clamp_min(0).sqrt().float()


class OutputWatch:
    """Hooks on layers and batch normalisations; a normalisation belongs to the layer whose very output it reads."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.raw = {name: ChannelSums(len(layer.weight)) for name, layer in layers.items()}
        self.normalised: dict[str, ChannelSums] = {}
        self.scales: dict[str, Tensor] = {}
        self._made: dict[int, tuple[str, Tensor]] = {}
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
        self.handles: list[RemovableHandle] = [
            *(layer.register_forward_hook(self._layer_hook(name)) for name, layer in layers.items()),
            *(norm.register_forward_hook(self._norm_hook) for norm in norms),
        ]

    def forget(self) -> None:
        """Let go of the outputs of one forward pass."""
        self._made.clear()

    def scale(self, name: str) -> Tensor:
        """Magnitude of the normalisation's scale, or the standard deviation of the outputs, (channels,)."""
        return self.scales[name] if name in self.scales else self.raw[name].deviation()

    def positive(self, name: str) -> Tensor:
        """Share of places with a positive value, (channels,)."""
        return self.normalised.get(name, self.raw[name]).positive_share()

    def _layer_hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self._made[id(output)] = (name, output)
            self.raw[name].add(output)

        return hook

    def _norm_hook(self, module: nn.Module, args: Any, output: Tensor) -> None:
        name, made = self._made.get(id(args[0]), ("", None))
        if made is not args[0]:
            return
        self.normalised.setdefault(name, ChannelSums(len(self.raw[name].sum))).add(output)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
            self.scales[name] = module.weight.detach().abs().float().cpu()
