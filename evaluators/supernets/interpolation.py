"""Channel-wise interpolation (Dong and Yang, NeurIPS 2019, TAS): tensors of different widths made alike, so that they add up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def interpolated(x: Tensor, channels: int) -> Tensor:
    """(N, C, ...) to (N, channels, ...): channel i is the mean of the channels floor(i C / channels) to
    ceil((i + 1) C / channels) - 1."""
    if x.shape[1] == channels:
        return x
    windows = torch.tensor(_windows(x.shape[1], channels), dtype=x.dtype, device=x.device)
    return torch.einsum("dc,nc...->nd...", windows, x)


@cache
def _windows(before: int, after: int) -> tuple[tuple[float, ...], ...]:
    """The weight of every input channel in every output channel."""
    edges = [(i * before // after, -(-(i + 1) * before // after)) for i in range(after)]
    return tuple(tuple(1 / (high - low) if low <= c < high else 0.0 for c in range(before)) for low, high in edges)


class MixedNorm(nn.Module):
    """A batch normalisation of several widths at once: each normalises its first channels with a scale and shift of its own, and
    the results, interpolated to the widest, are added up by their shares. Only for training: it uses the batch's statistics.

    affines: scale and shift of every width, each (channels,); shares: (widths,).
    """

    def __init__(self, affines: Sequence[tuple[Tensor, Tensor]], shares: Tensor, eps: float) -> None:
        super().__init__()
        self._affines, self._shares, self._eps = tuple(affines), shares, eps

    def forward(self, x: Tensor) -> Tensor:
        widest = max(len(scale) for scale, _ in self._affines)
        parts = [
            share * interpolated(self._normalised(x, scale, shift), widest)
            for share, (scale, shift) in zip(self._shares, self._affines, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _normalised(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.batch_norm(x[:, : len(scale)], None, None, scale, shift, True, 0.0, self._eps)


class StageBlock(nn.Module):
    """A block of a stage, which remembers what went in first and came out of every block; the last one gives the mean of these by
    depth. memory: one list for all blocks of the stage; shares: of every depth from 0 to all, at the last block."""

    def __init__(self, block: nn.Module, memory: list[Tensor], first: bool, shares: Tensor | None) -> None:
        super().__init__()
        self.block = block
        self._memory, self._first, self._shares = memory, first, shares

    def forward(self, x: Tensor) -> Tensor:
        if self._first:
            self._memory[:] = [x]
        made: Tensor = self.block(x)
        self._memory.append(made)
        if self._shares is None:
            return made
        mixed = torch.stack([share * y for share, y in zip(self._shares, self._memory, strict=True)]).sum(0)
        self._memory.clear()
        return mixed
