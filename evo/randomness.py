"""Randomness as a function of position: no generator is ever stored or passed between processes."""

from __future__ import annotations

import hashlib

import numpy as np

from search_spaces.genome import Genome, genome_digest


def stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """The generator that belongs to this position of a run: equal arguments give equal numbers on every platform."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_position(seed, name, counters))))


def derived_seed(seed: int, name: str, *counters: int) -> int:
    """A seed in 0 .. 2**31 - 1 for libraries that take an integer."""
    return _position(seed, f"derived {name}", counters) % 2**31


def _position(seed: int, name: str, counters: tuple[int, ...]) -> int:
    text = repr((int(seed), str(name), tuple(int(counter) for counter in counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def evaluation_seed(seed: int, genome: Genome, step: str) -> int:
    """The seed of an evaluation is a function of the run's seed, the step and the genome."""
    return derived_seed(seed, f"evaluate/{step}", int(genome_digest(genome), 16))
