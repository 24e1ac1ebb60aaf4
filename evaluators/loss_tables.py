"""What step 1 knows, as look-up tables: the cost of every decision, added up for a whole population at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from evo.variation.separable import Separable
from search_spaces.cost_tables import CostTables
from search_spaces.costs import costs
from search_spaces.genes import SkipGene
from search_spaces.space import CompressionSpace
from search_spaces.tables import Table, summed, tabulate

MOST_ENTRIES = 20_000  # of one table that several terms are joined to


@dataclass(frozen=True)
class Term:
    """One summand of the score: entries (alleles of each gene in `genes`), for `layer`."""

    kind: str
    layer: str
    genes: tuple[int, ...]
    table: np.ndarray

    def worth(self, alleles: Mapping[int, np.ndarray]) -> np.ndarray:
        """The entries (N,) at these alleles (N,) of each gene."""
        value: np.ndarray = self.table[tuple(alleles[gene] for gene in self.genes)]
        return value


@dataclass(frozen=True)
class MaskTerm:
    """The summand of a layer that reads channels with a bit each: mean square over images of the sum of dropped units' shifts.

    shifts float32 (units, rows): what losing each unit alone does, see `evaluators.gradients`. With F = shifts shifts^T / rows
    this is scale (1 - b)^T F (1 - b), the quadratic form of a binary code b.
    """

    kind: str
    layer: str
    genes: tuple[int, ...]
    shifts: np.ndarray
    scale: float

    def worth(self, alleles: Mapping[int, np.ndarray]) -> np.ndarray:
        dropped = np.stack([alleles[gene] == 0 for gene in self.genes], axis=1).astype(np.float32)
        moved = (dropped @ self.shifts).astype(np.float64)
        value: np.ndarray = self.scale * (moved**2).mean(axis=1)
        return value


AnyTerm = Term | MaskTerm


@dataclass(frozen=True)
class LossTables:
    """A `Scorer`: predicted loss increase (nats) and all costs of a population of codes (N, genes)."""

    space: CompressionSpace
    terms: tuple[AnyTerm, ...]
    peak: bool = False

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        loss = summed(self._joined, genomes, 1)[:, 0]
        for term in self.terms:
            if isinstance(term, MaskTerm):
                loss += self._worth(term, {gene: genomes[:, gene] for gene in self._genes(term)})
        measures = {"predicted_loss_increase": loss, **self._costs.costs(genomes)}
        if not self.peak:
            return measures
        return {**measures, **costs(self.space.network, self.space.phenotypes(genomes), peak=True)}

    def contributions(self, genomes: np.ndarray) -> np.ndarray:
        """Every term's part of the score, (N, terms): what a calibration learns weights for."""
        columns = [self._worth(term, {gene: genomes[:, gene] for gene in self._genes(term)}) for term in self.terms]
        return np.stack(columns, axis=1) if columns else np.zeros((len(genomes), 0))

    def _genes(self, term: AnyTerm) -> tuple[int, ...]:
        return (*term.genes, *(() if term.kind == "skip" else self._skips.get(term.layer, ())))

    def _worth(self, term: AnyTerm, alleles: Mapping[int, np.ndarray]) -> np.ndarray:
        """The term's entries (N,); nothing where the layer is gone with its block. alleles: (N,) of each gene."""
        value = term.worth(alleles)
        for gene in self._genes(term)[len(term.genes) :]:
            value = value * (alleles[gene] == 0)
        return value

    @cached_property
    def _skips(self) -> dict[str, tuple[int, ...]]:
        """Genes that can take a layer away, by layer."""
        found: dict[str, tuple[int, ...]] = {}
        for at, gene in enumerate(self.space.genes):
            if isinstance(gene, SkipGene):
                for layer in self.space.network.block(gene.block).layers:
                    found[layer] = (*found.get(layer, ()), at)
        return found

    @cached_property
    def _joined(self) -> tuple[Table, ...]:
        """All terms in few tables."""
        sizes = self.space.cardinalities
        found: list[tuple[frozenset[int], list[Term]]] = []
        for term in (t for t in self.terms if isinstance(t, Term)):
            mine = frozenset(self._genes(term))
            wide = (i for i, (genes, _) in enumerate(found) if prod(sizes[g] for g in genes | mine) <= MOST_ENTRIES)
            at = next(wide, None)
            if at is None:
                found.append((mine, [term]))
            else:
                found[at] = (found[at][0] | mine, [*found[at][1], term])
        return tuple(self._table(tuple(sorted(genes)), terms) for genes, terms in found)

    def _table(self, genes: tuple[int, ...], terms: Sequence[Term]) -> Table:
        def worth(alleles: np.ndarray) -> np.ndarray:
            by_gene = dict(zip(genes, alleles.T, strict=True))
            return np.sum([self._worth(term, by_gene) for term in terms], axis=0)[:, None]

        return tabulate(genes, self.space.cardinalities, worth)

    @property
    def cost_measures(self) -> tuple[str, ...]:
        """The measures of costs that have tables."""
        return self._costs.measures

    @cached_property
    def separable(self) -> Separable:
        """The same as sums of tables; what binary codes do is taken as independent between the units."""
        terms = [(i, table) for i, term in enumerate(self.terms) for table in self._tables_of(term)]
        owners, tables = zip(*terms, strict=True) if terms else ((), ())
        costs = self._costs
        return Separable(self.space.cardinalities, self.space.full, tables, owners, costs.tables, costs.measures)

    def _tables_of(self, term: AnyTerm) -> tuple[Table, ...]:
        gone = self._genes(term)[len(term.genes) :]
        if isinstance(term, Term):
            return (self._table((*term.genes, *gone), [term]),)
        own = term.scale * (term.shifts.astype(np.float64) ** 2).mean(axis=1)
        alone = [
            Term(term.kind, term.layer, (gene,), np.array([value, 0.0]))
            for gene, value in zip(term.genes, own, strict=True)
        ]
        return tuple(self._table((*one.genes, *gone), [one]) for one in alone)

    @cached_property
    def _costs(self) -> CostTables:
        return CostTables(self.space)
