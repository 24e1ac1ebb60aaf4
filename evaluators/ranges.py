"""Static ranges of activations: where a quantiser of few bits clips what it saw while it was calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TAIL = 0.02  # share of the values beyond the limits, times 2^bits
SHRINKS = tuple(1 - 0.02 * i for i in range(45))


@dataclass(frozen=True)
class Seen:
    """Smallest and largest value, and an even sample of all (n,)."""

    low: Tensor
    high: Tensor
    sample: Tensor


Limits = tuple[float, float]


def minmax(seen: Seen, bits: int) -> Limits:
    """Everything that was seen."""
    return float(seen.low), float(seen.high)


def percentile(seen: Seen, bits: int) -> Limits:
    """All but a tail of 0.02 / 2^bits on each side; everything at 8 bits, where clipping gains nothing."""
    if bits >= 8:
        return minmax(seen, bits)
    low, high = torch.quantile(seen.sample, torch.tensor([TAIL, 2**bits - TAIL], device=seen.sample.device) / 2**bits)
    return float(low), float(high)


def mse(seen: Seen, bits: int) -> Limits:
    """The range, shrunk towards zero from both sides alike, whose rounding and clipping error is least."""
    low, high = minmax(seen, bits)
    tried = [(low * share, high * share) for share in SHRINKS]
    errors = [float(rounding_error(seen.sample, limits, bits)) for limits in tried]
    return tried[errors.index(min(errors))]


RULES: dict[str, Callable[[Seen, int], Limits]] = {"percentile": percentile, "minmax": minmax, "mse": mse}


def affine_grid(limits: Limits, bits: int) -> tuple[float, float]:
    """Scale and (whole) zero point of codes 0..2^bits - 1 over a range widened to hold zero, which is then exact."""
    low = min(limits[0], 0.0)
    high = max(limits[1], low + 1e-6)
    scale = (high - low) / (2**bits - 1)
    return scale, float(round(-low / scale))


def rounded(x: Tensor, scale: float | Tensor, zero: float | Tensor, bits: int) -> Tensor:
    """x at the nearest code of an affine grid."""
    inside = x.clamp((0 - zero) * scale, (2**bits - 1 - zero) * scale)
    return (inside / scale).round() * scale


def rounding_error(x: Tensor, limits: Limits, bits: int) -> Tensor:
    """Mean squared error of rounding x on the grid of these limits."""
    return (rounded(x, *affine_grid(limits, bits), bits) - x).square().mean()
