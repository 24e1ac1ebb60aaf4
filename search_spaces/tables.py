"""Sums over look-up tables: what one layer costs depends on few genes, so it is worked out once for every combination of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

CHUNK = 8192  # rows looked up at a time, so that indices and results stay in the processor's cache


@dataclass(frozen=True)
class Table:
    """`values` (entries, measures), one row per combination of alleles of `genes`, the last gene varying fastest."""

    genes: tuple[int, ...]
    sizes: tuple[int, ...]
    values: np.ndarray

    @cached_property
    def strides(self) -> tuple[int, ...]:
        return tuple(prod(self.sizes[i + 1 :]) for i in range(len(self.sizes)))

    def index(self, columns: np.ndarray) -> np.ndarray:
        """Row of each genome; columns (genes of the space, N)."""
        found = np.zeros(columns.shape[1], dtype=np.int64)
        for gene, stride in zip(self.genes, self.strides, strict=True):
            found += columns[gene] * stride
        return found


def combinations(sizes: Sequence[int]) -> np.ndarray:
    """Every combination of alleles, int64 (product of sizes, genes), the last gene varying fastest."""
    radix = np.array(sizes, dtype=np.int64)
    strides = np.array([prod(sizes[i + 1 :]) for i in range(len(sizes))], dtype=np.int64)
    return np.asarray(np.arange(prod(sizes))[:, None] // strides % radix, dtype=np.int64)


def tabulate(genes: tuple[int, ...], cardinalities: Sequence[int], worth: Callable[[np.ndarray], np.ndarray]) -> Table:
    """The table of `worth`, which maps alleles (combinations, genes) to values (combinations, measures)."""
    sizes = tuple(cardinalities[gene] for gene in genes)
    return Table(genes, sizes, np.ascontiguousarray(worth(combinations(sizes))))


def summed(tables: Sequence[Table], codes: np.ndarray, measures: int) -> np.ndarray:
    """Sum of all tables' values for codes (N, genes): float64 (N, measures)."""
    total = np.zeros((len(codes), measures))
    for start in range(0, len(codes), CHUNK):
        columns = np.ascontiguousarray(codes[start : start + CHUNK].T, dtype=np.int64)
        for table in tables:
            total[start : start + CHUNK] += table.values[table.index(columns)]
    return total


def along(table: Table, gene: int, codes: np.ndarray) -> np.ndarray:
    """The values that codes (N, genes) would have with every allele of one of the table's genes: (N, alleles, measures)."""
    at = table.genes.index(gene)
    stride, size = table.strides[at], table.sizes[at]
    here = table.index(codes.T)
    first = here - codes[:, gene] * stride
    return np.asarray(table.values[first[:, None] + stride * np.arange(size)])
