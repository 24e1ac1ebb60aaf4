"""The smallest value of a cost that any genome of a space reaches, and limits that ask for less."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from evo.problem import Problem
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


def require_reachable(
    problem: Problem,
    space: SearchSpace,
    measures: Collection[str],
    costs: Callable[[np.ndarray], Mapping[str, np.ndarray]],
) -> None:
    """Raises ValueError where no genome meets a constraint on one of these measures, which `costs` gives for codes (N, genes)."""
    for constraint in (c for c in problem.constraints if c.measure in measures):
        measure = constraint.measure

        def cost(codes: np.ndarray, measure: str = measure) -> np.ndarray:
            return costs(codes)[measure]

        least = smallest(space, cost)
        if least > constraint.upper:
            raise ValueError(
                f"some genome must meet every constraint, but got {measure}<={constraint.upper:g} where the smallest "
                f"reachable is {least:g}; raise the limit or allow more compression in space (evo doctor tells what each has)"
            )
