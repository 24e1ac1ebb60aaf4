"""Count what a built module really has and does: the other side of `search_spaces.costs`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evaluators.modes import in_eval_mode
from evaluators.quantise import LEARNED


def parameters(model: nn.Module) -> int:
    """Weights, biases and normalisation parameters; what quantisers learn is storage, not parameters."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith(LEARNED))


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for this input (torch's own counter)."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused path is invisible to the counter
    try:
        with in_eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2
