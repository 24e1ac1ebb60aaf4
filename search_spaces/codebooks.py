"""Weight codebooks without torch: which exist, at which bit-widths, and what is stored beside the codes.

A stored weight is levels[code] * step (+ offset), or table[code]. Steps and offsets belong to a whole tensor, to an output
channel, or to so many consecutive weights of an output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOAT_BYTES = 4
TENSOR, CHANNEL = -1, 0  # values of `group`; a positive one is a number of weights

# Bit-widths at which each codebook exists. symmetric at 1 bit is binary: -1 and +1. ternary stores three levels in two bits.
CODEBOOKS: dict[str, tuple[int, ...]] = {
    "symmetric": tuple(range(1, 9)),
    "affine": tuple(range(1, 9)),
    "ternary": (2,),
    "power_of_two": tuple(range(2, 7)),
    "kmeans": tuple(range(1, 9)),
}
NAMES = tuple(CODEBOOKS)
ROUNDINGS = ("nearest", "gptq")
RANGES = ("percentile", "minmax", "mse")


@dataclass(frozen=True)
class Scheme:
    """How weights become codes: codebook, what shares one step size, and how values are rounded."""

    codebook: str = "symmetric"
    group: int = CHANNEL
    rounding: str = "nearest"


def check_scheme(scheme: Scheme) -> None:
    """Raise ValueError in one sentence unless the scheme exists."""
    if scheme.codebook not in CODEBOOKS:
        raise ValueError(f"a codebook must be one of {NAMES}, but got {scheme.codebook!r}; choose one of these")
    if scheme.rounding not in ROUNDINGS:
        raise ValueError(f"a rounding must be one of {ROUNDINGS}, but got {scheme.rounding!r}; choose one of these")
    if scheme.group < TENSOR:
        raise ValueError(
            f"a group must be a number of weights, {CHANNEL} (channel) or {TENSOR} (tensor), but got {scheme.group}; correct it"
        )
    if scheme.codebook == "kmeans" and (scheme.group != TENSOR or scheme.rounding != "nearest"):
        raise ValueError(
            f"k-means has one table per tensor and rounds to the nearest entry, but got {scheme}; set group={TENSOR}, nearest"
        )


def groups_of(group: np.ndarray, outputs: np.ndarray, fan_in: np.ndarray) -> np.ndarray:
    """How many step sizes a weight of `outputs` rows of `fan_in` has, all (N,)."""
    per_row = np.where(group > 0, -(-fan_in // np.maximum(group, 1)), 1)
    steps: np.ndarray = np.where(group == TENSOR, 1, outputs * per_row)
    return steps


def side_bytes(codebook: np.ndarray, group: np.ndarray, bits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Bytes stored beside the codes, (N,): float32 steps, for affine ones offsets too, for k-means a table of 2^bits.

    codebook is an index into NAMES; counts (2, N) are output channels and fan-in.
    """
    steps = groups_of(group, counts[0], counts[1])
    per_step = np.where(codebook == NAMES.index("affine"), 2, 1) * FLOAT_BYTES
    table = FLOAT_BYTES << np.minimum(bits, 8)
    stored: np.ndarray = np.where(codebook == NAMES.index("kmeans"), table, per_step * steps)
    return stored


def arithmetic_bits(codebook: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Bits of the numbers that are multiplied, (N,): entries of a k-means table are float32 whatever the code's length."""
    factors: np.ndarray = np.where(codebook == NAMES.index("kmeans"), 8 * FLOAT_BYTES, bits)
    return factors
