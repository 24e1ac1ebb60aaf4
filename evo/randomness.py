"""Randomness as a function of position: no generator is ever stored or passed between processes."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """The generator that belongs to this position of a run: equal arguments give equal numbers on every platform."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_position(seed, name, counters))))


def derived_seed(seed: int, name: str, *counters: int) -> int:
    """A seed in 0 .. 2**31 - 1 for libraries that take an integer."""
    return _position(seed, f"derived {name}", counters) % 2**31


def _position(seed: int, name: str, counters: tuple[int, ...]) -> int:
    text = repr((int(seed), str(name), tuple(int(counter) for counter in counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
