"""The smallest value of a cost that any genome of a space reaches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search_spaces.genome import SearchSpace


def smallest(space: SearchSpace, cost: Callable[[np.ndarray], np.ndarray], sweeps: int = 3) -> float:
    """Coordinate descent from the genome of lowest alleles: exact where genes act on separate layers, as in the joint space.

    `cost` maps codes (N, genes) to values (N,).
    """
    genome = np.zeros(len(space.cardinalities), dtype=np.int64)
    best = float(cost(genome[None, :])[0])
    for _ in range(sweeps):
        before = best
        for gene, alleles in enumerate(space.cardinalities):
            trial = np.repeat(genome[None, :], alleles, axis=0)
            trial[:, gene] = np.arange(alleles)
            values = cost(trial)
            genome, best = trial[int(values.argmin())], float(values.min())
        if best >= before:
            break
    return best
