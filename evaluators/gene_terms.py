"""What every allele of one gene does to the logits of single images, by kind of gene: the summands of step 1 before they are
squared, where errors of several layers may agree in part, or done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from evaluators.channels import Trace, kept_index
from evaluators.gradients import Gradients
from evaluators.loss_tables import Term
from evaluators.ranges import RULES, Seen, rounding_error
from evaluators.saliency import Ranking
from evaluators.statistics import LayerStatistics
from evaluators.weight_changes import lost, masked, rounded, truncated
from search_spaces.codebooks import Scheme
from search_spaces.genes import (
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    Kind,
    RangeGene,
    SchemeGene,
    SkipGene,
    SparsityGene,
    WeightBitsGene,
    WidthGene,
)
from search_spaces.plan import FLOAT_BITS, Bits
from search_spaces.schemes import SchemeChoice
from search_spaces.space import CompressionSpace


@dataclass(frozen=True)
class Shifts:
    """A term before it is squared: logit shifts (alleles of each gene in `genes`, rows), see `evaluators.gradients`."""

    kind: str
    layer: str
    genes: tuple[int, ...]
    values: np.ndarray

    def term(self, coherence: float) -> Term:
        return Term(self.kind, self.layer, self.genes, coherence * (self.values.astype(np.float64) ** 2).mean(axis=-1))


@dataclass(frozen=True)
class Evidence:
    """All that is known of the uncompressed network, `model`, when the genes of a space are weighed."""

    space: CompressionSpace
    model: nn.Module
    trace: Trace
    statistics: Mapping[str, LayerStatistics]
    gradients: Gradients
    ranking: Ranking

    @cached_property
    def position(self) -> dict[str, int]:
        """Of every gene, by its name."""
        return {gene.name: at for at, gene in enumerate(self.space.genes)}

    def shifts(self, kind: str, layer: str, at: int, changes: Sequence[Tensor]) -> Shifts:
        """Of one gene whose alleles change the layer's weight so."""
        gradients = self.gradients.layers[layer]
        return Shifts(kind, layer, (at,), np.stack([gradients.shifts(change).numpy() for change in changes]))


def _width(known: Evidence, at: int, gene: WidthGene) -> Iterable[Shifts]:
    """For each layer that reads the group: what losing the columns of the dropped units does, per (width, criterion)."""
    criterion = known.position[f"criterion:{gene.group}"]
    chooses = known.space.genes[criterion]
    if not isinstance(chooses, CriterionGene):
        raise TypeError(
            f"gene {criterion} must choose a criterion, but got {chooses.name}; build the space with build_space"
        )
    number = known.space.network.columns[gene.group]
    choices = [(kept, name) for kept in gene.kept for name in chooses.criteria]
    units = [known.ranking.keep(gene.group, name, kept) for kept, name in choices]
    for consumer in known.space.network.group(gene.group).consumers:
        maps = [m for m in known.trace.maps_of(f"{consumer}.weight") if m.dim == 1]
        if not maps:
            continue
        layer, biased = known.gradients.layers[consumer], known.space.network.layer(consumer).bias
        inputs = known.statistics[consumer].inputs.second(biased) if gene.compensate else None
        columns = (kept_index(maps[0], {number: kept}) for kept in units)
        rows = [layer.shifts(lost(layer.weight, len(maps[0].group), index, inputs)).numpy() for index in columns]
        values = np.stack(rows).reshape(len(gene.kept), len(chooses.criteria), -1)
        yield Shifts("width", consumer, (at, criterion), values)


def _weight_bits(known: Evidence, at: int, gene: WeightBitsGene) -> Iterable[Shifts]:
    """What rounding the weights does, per bit-width and, where there is a choice, scheme."""
    layer, second_moment = known.gradients.layers[gene.layer], known.statistics[gene.layer].input_covariance

    def change(bits: int, scheme: Scheme) -> Tensor:
        return rounded(layer.weight, gene.layer, bits, scheme, second_moment)

    scheme = known.position.get(f"scheme:{gene.layer}")
    if scheme is None:
        yield known.shifts("weight_bits", gene.layer, at, [change(bits, Scheme()) for bits in gene.bits])
        return
    chooses = known.space.genes[scheme]
    schemes = chooses.schemes if isinstance(chooses, SchemeGene) else (Scheme(),)
    meaning = SchemeChoice(gene.bits, schemes).canonical
    pairs = {(row, column) for row, line in enumerate(meaning) for column in set(line)}
    shifts = {
        (row, column): layer.shifts(change(gene.bits[row], schemes[column])).numpy() for row, column in sorted(pairs)
    }
    values = np.stack([np.stack([shifts[row, column] for column in line]) for row, line in enumerate(meaning)])
    yield Shifts("weight_bits", gene.layer, (at, scheme), values)


def _activation_bits(known: Evidence, at: int, gene: ActivationBitsGene) -> Iterable[Term]:
    """Cost of rounding the inputs, per bit-width and, where there is a choice, rule for the limits. Errors of the inputs, taken
    as independent, of mean square e cost 1/2 e tr(S W W^T), S the products of output gradients."""
    layer, statistics = known.gradients.layers[gene.layer], known.statistics[gene.layer]
    gain = float((layer.output_products * (layer.weight @ layer.weight.T)).sum())
    rule = known.position.get(f"range:{gene.layer}")
    chooses = known.space.genes[rule] if rule is not None else None
    rules = chooses.rules if isinstance(chooses, RangeGene) else (Bits.range,)
    table = np.array([[0.5 * gain * _rounding_noise(statistics, b, name) for name in rules] for b in gene.bits])
    if rule is None:
        yield Term("activation_bits", gene.layer, (at,), table[:, 0])
    else:
        yield Term("activation_bits", gene.layer, (at, rule), table)


def _rounding_noise(statistics: LayerStatistics, bits: int, rule: str) -> float:
    """Mean squared error of rounding the layer's inputs."""
    if bits >= FLOAT_BITS:
        return 0.0
    seen = Seen(statistics.input_range[0], statistics.input_range[1], statistics.input_sample)
    return float(rounding_error(statistics.input_sample, RULES[rule](seen, bits), bits))


def _factor(known: Evidence, at: int, gene: FactorGene) -> Iterable[Shifts]:
    layer, inputs = known.space.network.layer(gene.layer), known.statistics[gene.layer].inputs
    yield known.shifts("factor", gene.layer, at, truncated(known.model, layer, gene, inputs))


def _sparsity(known: Evidence, at: int, gene: SparsityGene) -> Iterable[Shifts]:
    second_moment = known.statistics[gene.layer].inputs.second(known.space.network.layer(gene.layer).bias)
    weight = known.gradients.layers[gene.layer].weight
    yield known.shifts("sparsity", gene.layer, at, masked(weight, gene, second_moment))


def _skip(known: Evidence, at: int, gene: SkipGene) -> Iterable[Shifts]:
    left_out = known.gradients.blocks[gene.block].numpy()
    last = known.space.network.block(gene.block).layers[-1]
    yield Shifts("skip", last, (at,), np.stack([np.zeros_like(left_out), left_out]))


# Genes that only say how another one acts are read with that one; channel codes, a gene per unit, in `evaluators.code_terms`.
SUMMANDS: Mapping[type[Kind], Callable[[Evidence, int, Any], Iterable[Shifts | Term]]] = {
    WidthGene: _width,
    WeightBitsGene: _weight_bits,
    ActivationBitsGene: _activation_bits,
    FactorGene: _factor,
    SparsityGene: _sparsity,
    SkipGene: _skip,
}
