"""Let the weights that pruning leaves make up for those it takes, by least squares on the moments of the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DAMPING = 1e-3  # of the mean diagonal of the inputs' second moments; keeps what few images say from being overdone


def compensated(weight: Tensor, kept: Sequence[int], second_moment: Tensor) -> Tensor:
    """The weight (outputs, fan-in) with columns other than `kept` zero and those corrected for their loss.

    With d the dropped and k the kept inputs, the correction W_d M_dk (M_kk + damping)^-1 is the least-squares solution on inputs
    of second moment M (fan-in, fan-in), pulled towards no correction; so the mean squared output error never exceeds that of
    dropping alone.
    """
    w, m = weight.double(), second_moment.double().to(weight.device)
    keep = torch.zeros(w.shape[1], dtype=torch.bool, device=weight.device)
    keep[torch.tensor(kept, device=weight.device)] = True
    inner = m[keep][:, keep]
    inner.diagonal().add_(DAMPING * inner.diagonal().mean().clamp_min(1e-30))
    result = torch.zeros_like(w)
    result[:, keep] = w[:, keep] + torch.linalg.solve(inner, (w[:, ~keep] @ m[~keep][:, keep]).T).T
    return result.to(weight.dtype)
