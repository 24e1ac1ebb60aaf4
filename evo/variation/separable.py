"""A cheap step that is a sum of look-up tables, and its best genomes under many prices of the costs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces.tables import Table, along, summed

Array = np.ndarray


@dataclass(frozen=True)
class Separable:
    """Loss and costs of codes (N, L) as sums of tables.

    `terms` have one column each, a part of the predicted loss; `owners` says which of T weights multiplies each of them. The
    columns of `costs` are the `measures`, up to a constant. `full` is the code of the uncompressed network.
    """

    cardinalities: tuple[int, ...]
    full: tuple[int, ...]
    terms: tuple[Table, ...]
    owners: tuple[int, ...]
    costs: tuple[Table, ...]
    measures: tuple[str, ...]

    @property
    def separable(self) -> Separable:
        return self

    @property
    def weights(self) -> int:
        """How many weights the terms have."""
        return 1 + max(self.owners, default=-1)

    @cached_property
    def around(self) -> tuple[tuple[tuple[int, ...], tuple[Table, ...]], ...]:
        """For every gene the terms (as indices) and the tables of costs that it is part of."""
        genes = range(len(self.cardinalities))
        terms = [tuple(i for i, term in enumerate(self.terms) if gene in term.genes) for gene in genes]
        costs = [tuple(table for table in self.costs if gene in table.genes) for gene in genes]
        return tuple(zip(terms, costs, strict=True))

    def columns(self, measures: Sequence[str]) -> Separable:
        """The same with these costs only, in this order."""
        at = [self.measures.index(name) for name in measures]
        costs = tuple(Table(t.genes, t.sizes, np.ascontiguousarray(t.values[:, at])) for t in self.costs)
        return Separable(self.cardinalities, self.full, self.terms, self.owners, costs, tuple(measures))

    def cost(self, codes: Array) -> Array:
        """Costs (N, measures), up to a constant."""
        return summed(self.costs, codes, len(self.measures))

    def alone(self, weights: Array) -> list[tuple[Array, Array]]:
        """Sensitivity curves: for every gene the loss (alleles,) and the costs (alleles, measures) with all others as in the
        uncompressed network, each up to a constant. `weights` (T,) multiply the terms."""
        codes = np.array([self.full])
        changes = (self.changes(gene, codes, weights[None]) for gene in range(len(self.cardinalities)))
        return [(loss[0], cost[0]) for loss, cost in changes]

    def changes(self, gene: int, codes: Array, weights: Array) -> tuple[Array, Array]:
        """Loss (N, alleles) and costs (N, alleles, measures) of all tables that one gene is part of, for each of its alleles.

        `weights` (N, T) multiply the terms.
        """
        terms, tables = self.around[gene]
        shape = (len(codes), self.cardinalities[gene])
        loss, cost = np.zeros(shape), np.zeros((*shape, len(self.measures)))
        for i in terms:
            loss += weights[:, self.owners[i], None] * along(self.terms[i], gene, codes)[:, :, 0]
        for table in tables:
            cost += along(table, gene, codes)
        return loss, cost


def descend(
    model: Separable, codes: Array, weights: Array, prices: Array, sweeps: int = 4, cheaper: bool = False
) -> Array:
    """Codes (N, L) after coordinate descent on loss + prices . costs, row by row; prices (N, measures), weights (N, T).

    A knapsack's Lagrangian relaxation (Everett 1963): what minimises it is the best genome of its costs. One gene at a time
    takes its best allele until none changes, or for `sweeps` passes; where tables couple genes the minimum is local. With
    `cheaper` only alleles whose priced costs are not above those of the current one are taken.
    """
    codes = np.array(codes, dtype=np.int64)
    for _ in range(sweeps):
        before = codes.copy()
        for gene in range(codes.shape[1]):
            loss, cost = model.changes(gene, codes, weights)
            paid = np.einsum("nam,nm->na", cost, prices)
            if cheaper:
                own = np.take_along_axis(paid, codes[:, [gene]], axis=1)
                loss[paid > own] = np.inf
            codes[:, gene] = (loss + paid).argmin(axis=1)
        if np.array_equal(codes, before):
            break
    return codes
