"""Sets and maps of 64-bit digests in sorted arrays: 8 to 16 bytes an entry, where Python's take a hundred or more.

All are values: what adds to one gives a new one. Two contents share a digest with a chance of n**2 / 2**65 among n of them,
one in four billion among 100,000: who must not be wrong compares what was found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from search_spaces.genome import Genome, genome_digest

Array = np.ndarray


def of_genome(genome: Genome) -> int:
    """The content digest of a genome as a number below 2**64."""
    return int(genome_digest(genome), 16)


def of_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def as_keys(digests: Iterable[int]) -> Array:
    return np.fromiter(digests, dtype=np.uint64)


@dataclass(frozen=True)
class GenomeSet:
    """`digests` (N,), uint64, rise."""

    digests: Array = field(default_factory=lambda: as_keys(()))

    def __contains__(self, genome: object) -> bool:
        return isinstance(genome, tuple) and _position(self.digests, of_genome(genome)) is not None

    def __len__(self) -> int:
        return len(self.digests)

    def plus(self, genomes: Iterable[Genome]) -> GenomeSet:
        keys = np.unique(as_keys(map(of_genome, genomes)))
        keys = keys[~_present(self.digests, keys)]
        return GenomeSet(np.insert(self.digests, np.searchsorted(self.digests, keys), keys))


@dataclass(frozen=True)
class DigestMap:
    """Numbers by digest: `keys` (N,), uint64, rise; the first number that a key was given counts."""

    keys: Array = field(default_factory=lambda: as_keys(()))
    values: Array = field(default_factory=lambda: np.zeros(0))

    def plus(self, keys: Array, values: Array) -> DigestMap:
        keys, first = np.unique(keys, return_index=True)
        new = ~_present(self.keys, keys)
        at = np.searchsorted(self.keys, keys[new])
        merged = np.insert(self.keys, at, keys[new])
        if not len(self.keys):
            return DigestMap(merged, values[first])
        return DigestMap(merged, np.insert(self.values, at, values[first][new]))

    def get(self, key: int) -> float | None:
        at = _position(self.keys, key)
        return None if at is None else float(self.values[at])

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Which keys are known, bool (N,), and the numbers of those that are (K,)."""
        known = _present(self.keys, keys)
        return known, self.values[np.searchsorted(self.keys, keys[known])]


def _position(rising: Array, key: int) -> int | None:
    at = int(rising.searchsorted(np.uint64(key)))
    return at if at < len(rising) and int(rising[at]) == key else None


def _present(rising: Array, keys: Array) -> Array:
    """Which keys occur in an array that rises, bool (N,)."""
    if not len(rising):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(rising, keys), len(rising) - 1)
    return np.asarray(rising[at] == keys)
