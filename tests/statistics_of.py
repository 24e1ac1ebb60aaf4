"""What batch normalisations should hold after their statistics were taken anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_statistics_are_of(module: nn.Module, images: Tensor) -> None:
    """Every batch normalisation's running mean and variance are those of its inputs for these images, one batch."""
    seen: dict[str, Tensor] = {}
    norms = {name: m for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    held = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    with torch.no_grad():
        module.train()(images)
    assert norms
    for name, (mean, variance) in held.items():
        torch.testing.assert_close(mean, seen[name].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, seen[name].var((0, 2, 3)), rtol=1e-4, atol=1e-5)
