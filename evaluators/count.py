"""Count what a built module really has and does: the other side of `search_spaces.costs`."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evaluators.layers import Example, as_arguments
from evaluators.modes import in_eval_mode, without_fused_attention
from evaluators.weight_quantiser import LEARNED


def parameters(model: nn.Module) -> int:
    """Weights, biases and normalisation parameters; what quantisers learn is storage, not parameters."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith(LEARNED))


def macs(model: nn.Module, example: Example) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products for this input (torch's own counter)."""
    with in_eval_mode(model), torch.no_grad(), without_fused_attention(), FlopCounterMode(display=False) as counter:
        model(*as_arguments(example))
    return counter.get_total_flops() // 2
