"""Levels of the weight codebooks, and the steps that fit them to a weight with the least squared error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from search_spaces.codebooks import TENSOR

CLIP_SHARES = tuple(0.3 + 0.035 * i for i in range(21))  # tried shares of the largest weight, the last is 1
REFITS = 4  # rounds of: best step for these codes, best codes for this step
LLOYD = 30  # the same for the entries of a k-means table
SMALLEST = 1e-8


class Levels(Protocol):
    """Ascending values that codes 0, 1, ... stand for, before they are scaled."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def values(self) -> Tensor: ...
    def nearest(self, ratio: Tensor) -> Tensor:
        """The level nearest to each value."""

    def codes(self, ratio: Tensor) -> Tensor:
        """Its code, uint8."""


@dataclass(frozen=True)
class Uniform:
    """The integers low..high."""

    low: int
    high: int

    @property
    def values(self) -> Tensor:
        return torch.arange(self.low, self.high + 1, dtype=torch.float32)

    def nearest(self, ratio: Tensor) -> Tensor:
        return ratio.round().clamp(self.low, self.high)

    def codes(self, ratio: Tensor) -> Tensor:
        return (self.nearest(ratio) - self.low).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Table:
    """Any ascending values (K,)."""

    values: Tensor

    @property
    def low(self) -> float:
        return float(self.values[0])

    @property
    def high(self) -> float:
        return float(self.values[-1])

    def index(self, ratio: Tensor) -> Tensor:
        middle = (self.values[1:] + self.values[:-1]) / 2
        return torch.bucketize(ratio.detach(), middle.detach().to(ratio.device))

    def nearest(self, ratio: Tensor) -> Tensor:
        return self.values.to(ratio.device)[self.index(ratio)]

    def codes(self, ratio: Tensor) -> Tensor:
        return self.index(ratio).to(torch.uint8)


def symmetric(bits: int) -> Levels:
    """-2^(b-1) .. 2^(b-1) - 1; at 1 bit -1 and +1 (Rastegari et al. 2016)."""
    return Uniform(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if bits > 1 else Table(torch.tensor([-1.0, 1.0]))


def affine(bits: int) -> Levels:
    """0 .. 2^b - 1, shifted by an offset of its own per step."""
    return Uniform(0, 2**bits - 1)


def ternary(bits: int) -> Levels:
    """-1, 0 and 1 (Li et al. 2016), stored in 2 bits."""
    return Uniform(-1, 1)


def power_of_two(bits: int) -> Levels:
    """0 and +-2^-k for k = 0 .. 2^(b-1) - 2 (Zhou et al. 2017)."""
    positive = 2.0 ** -torch.arange(2 ** (bits - 1) - 1, dtype=torch.float32)
    return Table(torch.cat([-positive, torch.zeros(1), positive.flip(0)]))


FIXED: dict[str, Callable[[int], Levels]] = {
    "symmetric": symmetric,
    "affine": affine,
    "ternary": ternary,
    "power_of_two": power_of_two,
}


def fit_step(rows: Tensor, used: Tensor, levels: Levels) -> Tensor:
    """Step size per row of (rows, n), shape (rows,): the best of a grid of clipped ranges and of the closed forms for one and
    two bits, then refined by turns; the squared error never rises while it is. `used` (rows, n) is 0 for weights that a mask
    drops, which are 0 in rows, else 1."""
    largest = torch.maximum(rows.amax(1) / levels.high, rows.amin(1) / levels.low).clamp_min(SMALLEST)
    tried = [largest * share for share in CLIP_SHARES]
    if levels.high <= 1:
        tried += [_mean_magnitude(rows, torch.zeros(len(rows))), _mean_magnitude(rows, 0.7 * rows.abs().mean(1))]
    errors = torch.stack([step_error(rows, used, step, levels) for step in tried])
    step = torch.stack(tried).gather(0, errors.argmin(0, keepdim=True))[0]
    for _ in range(REFITS):
        codes = levels.nearest(rows / step[:, None]) * used
        fitted = (codes * rows).sum(1) / codes.square().sum(1).clamp_min(SMALLEST)
        step = torch.where(fitted > SMALLEST, fitted, step)
    return step


def _mean_magnitude(rows: Tensor, threshold: Tensor) -> Tensor:
    """Mean magnitude of the weights above the threshold: the scale of binary (threshold 0: Rastegari et al. 2016, eq. 6) and of
    ternary weights (0.7 of the mean magnitude: Li et al. 2016, eq. 6)."""
    size = rows.abs()
    above = size > threshold.to(rows.device)[:, None]
    return ((size * above).sum(1) / above.sum(1).clamp_min(1)).clamp_min(SMALLEST)


def step_error(rows: Tensor, used: Tensor, step: Tensor, levels: Levels) -> Tensor:
    """Squared error of every row, (rows,)."""
    return ((levels.nearest(rows / step[:, None]) * step[:, None] - rows) * used).square().sum(1)


def fit_affine(rows: Tensor, used: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Step and offset per row, each (rows,): the best of a grid of ranges shrunk about their middle, then linear regression of
    the weights on their codes by turns; `used` as for `fit_step`."""
    low = torch.where(used > 0, rows, torch.inf).amin(1).nan_to_num(posinf=0.0)
    high = torch.where(used > 0, rows, -torch.inf).amax(1).nan_to_num(neginf=0.0)
    middle, reach = (low + high) / 2, (high - low).clamp_min(SMALLEST) / 2
    tried = [(2 * reach * share / levels.high, middle - reach * share) for share in CLIP_SHARES]
    errors = torch.stack([step_error(rows - offset[:, None], used, step, levels) for step, offset in tried])
    best = errors.argmin(0, keepdim=True)
    step, offset = (torch.stack(each).gather(0, best)[0] for each in zip(*tried, strict=True))
    count = used.sum(1).clamp_min(1)
    mean = (rows * used).sum(1) / count
    for _ in range(REFITS):
        codes = levels.nearest((rows - offset[:, None]) / step[:, None])
        mean_code = (codes * used).sum(1) / count
        centred = (codes - mean_code[:, None]) * used
        spread = centred.square().sum(1)
        fitted = (centred * rows).sum(1) / spread.clamp_min(SMALLEST)
        step = torch.where((spread > SMALLEST) & (fitted > SMALLEST), fitted, step)
        offset = mean - step * mean_code
    return step, offset


def fit_table(weight: Tensor, bits: int) -> Tensor:
    """Entries (2^b,) of a k-means table, ascending: Lloyd's algorithm from evenly spaced entries (Han et al. 2016)."""
    flat = weight.flatten().double()
    table = torch.linspace(float(flat.amin()), float(flat.amax()), 2**bits, dtype=torch.float64, device=flat.device)
    for _ in range(LLOYD):
        members = Table(table).index(flat)
        count = torch.bincount(members, minlength=len(table))
        mean = torch.bincount(members, weights=flat, minlength=len(table)) / count.clamp_min(1)
        table = torch.where(count > 0, mean, table).sort().values
    return table.float()


Fit = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def per_group(flat: Tensor, used: Tensor, group: int, fit: Fit) -> tuple[Tensor, ...]:
    """Fit (rows, n), (rows, n) -> tuple of (rows,) to every group of a weight (N, fan-in): (N, groups per row), or (1, 1)."""
    if group == TENSOR:
        return tuple(found.view(1, 1) for found in fit(flat.reshape(1, -1), used.reshape(1, -1)))
    if group <= 0 or group >= flat.shape[1]:
        return tuple(found[:, None] for found in fit(flat, used))
    whole = flat.shape[1] // group * group
    parts = [fit(flat[:, :whole].reshape(-1, group), used[:, :whole].reshape(-1, group))]
    if whole < flat.shape[1]:
        parts.append(fit(flat[:, whole:], used[:, whole:]))
    return tuple(torch.cat([found.view(len(flat), -1) for found in each], dim=1) for each in zip(*parts, strict=True))


def spread(values: Tensor, fan_in: int, group: int) -> Tensor:
    """Values per group (N, groups) as one per weight, (N, fan-in) or broadcastable to it."""
    return values if values.shape[1] == 1 else values.repeat_interleave(group, dim=1)[:, :fan_in]
