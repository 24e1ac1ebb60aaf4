"""Weight masks without torch: how many weights a pattern keeps, and what is stored to say which.

A mask saves storage and, where hardware skips zeros, bit operations. It makes no dense kernel faster: MACs stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

CRITERIA = ("magnitude", "gram", "obs")  # which weights matter: their size alone, or with regard to the inputs
SHARE = 1000  # unstructured shares are kept in thousandths


@dataclass(frozen=True)
class Pattern:
    """Keep `kept` of every `of` consecutive weights of an output channel; unstructured: that share of the whole weight."""

    kept: int
    of: int
    structured: bool = True


DENSE = Pattern(1, 1)


def pattern_of(text: str | float) -> Pattern:
    """ "2:4" keeps 2 of every 4 weights, 0.25 any quarter of them; ValueError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", str(text))
    if found and 1 <= int(found[1]) < int(found[2]):
        return Pattern(int(found[1]), int(found[2]))
    share = float(text) if re.fullmatch(r"0?\.\d+", str(text)) else 0.0
    if 1 <= round(share * SHARE) < SHARE:
        return Pattern(round(share * SHARE), SHARE, structured=False)
    raise ValueError(
        f'a sparsity must be "N:M" with 1 <= N < M, or a share of weights kept above 0 and below 1, but got {text!r}; correct it'
    )


def nonzero(patterns: np.ndarray, outputs: np.ndarray, fan_in: np.ndarray) -> np.ndarray:
    """Weights that remain, (N,), of `outputs` rows of `fan_in`; patterns (N, 3): kept, of, structured. At least one remains."""
    kept, of, structured = patterns.T
    blocks, rest = np.divmod(fan_in, of)
    per_row = blocks * kept + np.minimum(kept, rest)
    left: np.ndarray = np.where(structured == 1, outputs * per_row, -(-outputs * fan_in * kept // of))
    return left


def mask_bytes(patterns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bytes of the bitmap that says which weights remain, (N,); none for a dense weight."""
    stored: np.ndarray = np.where(patterns[:, 0] == patterns[:, 1], 0, (weights + 7) // 8)
    return stored
