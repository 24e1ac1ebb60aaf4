"""Which layers can be replaced by other modules, and which residual blocks by their shortcut, without the forward code minding.

Forward code may read a layer instead of calling it (`self.project.weight.device`) or look into a block. Both are found by
running the network once with all of them replaced, and by halving where that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from evaluators.layers import Example, as_arguments
from evaluators.modes import without_fused_attention
from evaluators.probe import share_tensors


def unreplaceable_layers(model: nn.Module, layers: Sequence[str], example: Example) -> dict[str, str]:
    """Layers that the network does not run without, and why."""
    return _culprits(model, layers, example, nn.Sequential)


def unskippable_blocks(model: nn.Module, blocks: Sequence[str], example: Example) -> dict[str, str]:
    """Blocks in whose place no identity can stand, and why."""
    return _culprits(model, blocks, example, lambda block: nn.Identity())


def _culprits(
    model: nn.Module, names: Sequence[str], example: Example, stand_in: Callable[[nn.Module], nn.Module]
) -> dict[str, str]:
    if not names:
        return {}
    why = _failure(model, names, example, stand_in)
    if not why:
        return {}
    if len(names) == 1:
        return {names[0]: f"the forward code looks into it ({why})"}
    half = len(names) // 2
    parts = (names[:half], names[half:])
    return {name: why for part in parts for name, why in _culprits(model, part, example, stand_in).items()}


def _failure(
    model: nn.Module, names: Sequence[str], example: Example, stand_in: Callable[[nn.Module], nn.Module]
) -> str:
    changed = share_tensors(model).eval()
    for name in names:
        path, _, leaf = name.rpartition(".")
        setattr(changed.get_submodule(path), leaf, stand_in(changed.get_submodule(name)))
    try:
        with torch.no_grad(), without_fused_attention():
            changed(*as_arguments(example))
    except Exception as error:  # whatever the user's forward pass may raise
        return (str(error).splitlines() or [type(error).__name__])[0][:100]
    return ""
