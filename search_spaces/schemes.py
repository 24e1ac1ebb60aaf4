"""What a scheme gene means at a bit-width: not every codebook exists at every one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces.codebooks import CHANNEL, CODEBOOKS, NAMES, TENSOR, Scheme, check_scheme
from search_spaces.plan import FLOAT_BITS


def schemes_of(codebooks: Iterable[str], groups: Iterable[int], roundings: Iterable[str]) -> tuple[Scheme, ...]:
    """All combinations that exist, in the order given; k-means has one table per tensor and no other rounding."""
    groups, roundings = tuple(groups), tuple(roundings)
    found: list[Scheme] = []
    for codebook in codebooks:
        only = codebook == "kmeans"
        for group in (TENSOR,) if only else groups:
            found.extend(Scheme(codebook, group, how) for how in (("nearest",) if only else roundings))
    for scheme in found:
        check_scheme(scheme)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class SchemeChoice:
    """The schemes of one layer (S,) at its bit-widths (B,)."""

    bits: tuple[int, ...]
    schemes: tuple[Scheme, ...]

    def __post_init__(self) -> None:
        lost = [b for b in self.bits if b != FLOAT_BITS and not any(b in CODEBOOKS[s.codebook] for s in self.schemes)]
        if lost:
            raise ValueError(
                f"every bit-width of space.weight_bits must suit one of space.codebooks, but got {lost[0]} bits with "
                f"{sorted({s.codebook for s in self.schemes})}; remove it or add a codebook"
            )

    @cached_property
    def canonical(self) -> np.ndarray:
        """The allele (B, S) that a scheme allele means: itself, or the first that exists; at 32 bits the first."""
        return np.array([[self._canonical(b, at) for at in range(len(self.schemes))] for b in self.bits])

    def _canonical(self, bits: int, at: int) -> int:
        if bits == FLOAT_BITS:
            return 0
        legal = [i for i, scheme in enumerate(self.schemes) if bits in CODEBOOKS[scheme.codebook]]
        return at if at in legal else legal[0]

    def meaning(self, bits: np.ndarray, alleles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codebook (index into NAMES) and group of these alleles of both genes, each (N,); the default where they stay float."""
        rows = self.canonical[bits, alleles]
        stored = np.array(self.bits)[bits] != FLOAT_BITS
        codebook = np.array([NAMES.index(scheme.codebook) for scheme in self.schemes])
        group = np.array([scheme.group for scheme in self.schemes])
        return np.where(stored, codebook[rows], 0), np.where(stored, group[rows], CHANNEL)
