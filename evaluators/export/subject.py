"""What the writer of a format is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

# Mean difference of logits between the searched network and its export, relative to their spread. Other kernels add in another
# order; where activations are rounded, a last-bit difference can move an activation by a whole step.
TOLERANCE = 1e-4
TOLERANCE_ROUNDED = 5e-2


@dataclass(frozen=True)
class Subject:
    """A tuned network in two forms on the CPU: `module` with its quantisers, `baked` with plain layers, both in eval mode.

    images (N, ...): an example input of at least two samples. calibration: batches from which ranges are taken that the search
    did not set.
    """

    module: nn.Module
    baked: nn.Module
    images: Tensor
    calibration: tuple[Tensor, ...]


Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Written:
    """What was written (a file, or a folder), how it answers now that it was loaded again, and what its card must say of it."""

    path: Path
    run: Forward
    notes: Mapping[str, Any] = field(default_factory=dict)


def difference(outputs: Tensor, expected: Tensor) -> float:
    """Mean absolute difference of outputs, relative to their spread."""
    return float((outputs - expected).abs().mean() / expected.std().clamp_min(1e-9))


Writer = Callable[[Subject, Path, str], Written]  # writes into a folder, for single files under this name
