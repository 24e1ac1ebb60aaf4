"""What each generator of a pair may cost by itself, told from the costs of the pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evaluators.gan.networks import DIRECTIONS
from evo.algorithms.parts import Part, parts_of
from evo.problem import Constraint, Problem
from evo.variation.within import Within
from search_spaces.cost_tables import CostTables
from search_spaces.costs import costs
from search_spaces.genes import MaskGene
from search_spaces.phenotype import full
from search_spaces.space import CompressionSpace
from search_spaces.subnetwork import part_of_network

COSTS = ("params", "macs")


def limits_of_parts(problem: Problem, space: CompressionSpace, fill: bool = False) -> dict[str, Within]:
    """For each direction that has limits on its params or macs what brings its codes within them, and up to them with `fill`."""
    tables = CostTables(space)
    found = {}
    for part in parts_of(space, {direction: f"*:{direction}.*" for direction in DIRECTIONS}):
        names = [f"{cost}_{part.name}" for cost in COSTS]
        limits = [limit for limit in problem.constraints if limit.measure in names]
        if limits:
            found[part.name] = Within(_codes(space, part), _excess(space, part, tables, limits), fill)
    return found


def _codes(space: CompressionSpace, part: Part) -> tuple[tuple[int, ...], ...]:
    """Positions within the part of the bits of each binary code."""
    bits: dict[str, list[int]] = {}
    for position, gene in enumerate(space.genes[at] for at in part.genes):
        if isinstance(gene, MaskGene):
            bits.setdefault(gene.group, []).append(position)
    return tuple(tuple(positions) for positions in bits.values())


def _excess(
    space: CompressionSpace, part: Part, tables: CostTables, limits: Sequence[Constraint]
) -> Callable[[np.ndarray], np.ndarray]:
    """Largest relative excess over the limits: a generator costs what the pair does, less what the other, uncompressed, does."""
    whole, mine = np.array(space.full), part_of_network(space.network, f"{part.name}.")
    pair, own = tables.costs(whole[None, :]), costs(mine, full(mine, 1))
    bounds = [(limit.measure.removesuffix(f"_{part.name}"), limit.upper) for limit in limits]
    other = {name: float(pair[name][0] - own[name][0]) for name, _ in bounds}

    def excess(codes: np.ndarray) -> np.ndarray:
        rows = np.tile(whole, (len(codes), 1))
        rows[:, list(part.genes)] = codes
        found = tables.costs(rows)
        return np.asarray(np.max([(found[name] - other[name]) / upper - 1.0 for name, upper in bounds], axis=0))

    return excess
