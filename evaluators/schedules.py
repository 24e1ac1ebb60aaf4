"""Learning-rate schedules: the share of the peak rate at a step, after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Shape = Callable[[float], float]


def cosine(at: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * at))


def constant(at: float) -> float:
    return 1.0


def linear(at: float) -> float:
    return 1.0 - at


def drops(at: float, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """A tenth of the rate after half of the steps and again after three quarters (He et al. 2016)."""
    return factor ** sum(at >= milestone for milestone in milestones)


def rate(step: int, steps: int, warmup: float, shape: Shape) -> float:
    """The share of the peak at `step` of 0 .. steps - 1; `warmup` is the share of the steps in which it rises."""
    rising = max(1, round(warmup * steps))
    return (step + 1) / rising if step < rising else shape((step - rising) / max(1, steps - rising))
