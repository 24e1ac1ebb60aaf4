"""Step 1: the predicted loss increase of any plan in closed form, one currency for pruning, bits and rank.

What every single decision costs (see `evaluators.gradients`) is put into a table once; a genome's score adds its entries. After
batch-norm was recalibrated, an error keeps its size relative to the layer's outputs, so the cost of rounding or truncation
does not shrink with the channels that pruning takes away. What dropped channels (and blocks) in several layers do to an image
does not only add up but agrees in part: these entries are multiplied by the coherence measured for their kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
from torch import nn

from evaluators.channels import Trace
from evaluators.code_terms import code_terms, moved_by
from evaluators.gene_terms import SUMMANDS, Evidence, Shifts
from evaluators.gradients import Gradients
from evaluators.loss_tables import LossTables, MaskTerm, Term
from evaluators.reconstruction import RECONSTRUCTION
from evaluators.saliency import Ranking
from evaluators.statistics import LayerStatistics
from evo.randomness import stream
from search_spaces.genome import Genome
from search_spaces.space import CompressionSpace

DRAWS = 64  # random genomes by which coherence is measured
COHERENT = ("width", "skip")  # errors of rounding and truncation have no direction in common


def build_tables(
    space: CompressionSpace,
    model: nn.Module,
    trace: Trace,
    statistics: Mapping[str, LayerStatistics],
    gradients: Gradients,
    ranking: Ranking,
    peak: bool = False,
    codes: str = "fisher",
) -> LossTables:
    """Compute all tables: about one small matrix product per layer and allele. `codes` is the form of binary channel codes: the
    loss (`fisher`), or the outputs of the layer that reads the channels (`reconstruction`)."""
    known = Evidence(space, model, trace, statistics, gradients, ranking)
    weighed = [(at, gene, SUMMANDS[type(gene)]) for at, gene in enumerate(space.genes) if type(gene) in SUMMANDS]
    found = list(chain.from_iterable(summands(known, at, gene) for at, gene, summands in weighed))
    shifts = [one for one in found if isinstance(one, Shifts)]
    done = [one for one in found if isinstance(one, Term)]
    factors = {kind: _shifts_coherence(space, [s for s in shifts if s.kind == kind]) for kind in COHERENT}
    squared = (s.term(factors.get(s.kind, 1.0)) for s in shifts)
    return LossTables(space, (*squared, *done, *_scaled(space, code_terms(known, codes), codes)), peak)


def _scaled(space: CompressionSpace, terms: list[MaskTerm], form: str) -> list[MaskTerm]:
    if form == RECONSTRUCTION or not terms:  # outputs of different layers have no direction in common
        return terms
    scale = coherence(space, lambda genome: moved_by(terms, np.array(genome)))
    return [replace(term, scale=scale) for term in terms]


def _shifts_coherence(space: CompressionSpace, shifts: list[Shifts]) -> float:
    if not shifts:
        return 1.0
    return coherence(space, lambda genome: (s.values[tuple(genome[gene] for gene in s.genes)] for s in shifts))


def coherence(space: CompressionSpace, moved: Callable[[Genome], Iterable[np.ndarray]]) -> float:
    """E|sum of shifts|^2 / sum of E|shift|^2 over random genomes: 1 where the errors of all layers are independent. `moved` gives
    the shift (rows,) of each layer."""
    rng = stream(0, "coherence")
    together = alone = 0.0
    for _ in range(DRAWS):
        drawn = np.stack(list(moved(space.sample(rng))))
        together += float((drawn.sum(axis=0) ** 2).mean())
        alone += float((drawn**2).mean(axis=1).sum())
    return together / alone if alone > 0 else 1.0
