"""Step 1: the predicted loss increase of any plan in closed form, one currency for pruning, bits and rank.

What every single decision costs (see `evaluators.gradients`) is put into a table once; a genome's score adds its entries. After
batch-norm was recalibrated, an error keeps its size relative to the layer's outputs, so the cost of rounding or truncation
does not shrink with the channels that pruning takes away. What dropped channels (and blocks) in several layers do to an image
does not only add up but agrees in part: these entries are multiplied by the coherence measured for their kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.chains import patch_map
from evaluators.channels import Trace, kept_index
from evaluators.compensation import compensated
from evaluators.factorise import factorise
from evaluators.gradients import Gradients, LayerGradients
from evaluators.layers import layer_of, weight_of
from evaluators.loss_tables import AnyTerm, LossTables, MaskTerm, Term
from evaluators.masks import compensated_mask, mask_of
from evaluators.moments import InputMoments
from evaluators.quantise import rounded_weight
from evaluators.ranges import RULES, Seen, rounding_error
from evaluators.reconstruction import RECONSTRUCTION, unit_shifts
from evaluators.saliency import Ranking
from evaluators.statistics import LayerStatistics
from evo.randomness import stream
from search_spaces.codebooks import Scheme
from search_spaces.genes import (
    DENSE,
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    MaskGene,
    RangeGene,
    SchemeGene,
    SkipGene,
    SparsityGene,
    WeightBitsGene,
    WidthGene,
)
from search_spaces.plan import FLOAT_BITS, Bits
from search_spaces.ranks import ranks_for
from search_spaces.schemes import SchemeChoice
from search_spaces.space import CompressionSpace

DRAWS = 64  # random genomes by which coherence is measured
COHERENT = ("width", "skip")  # errors of rounding and truncation have no direction in common


@dataclass(frozen=True)
class Shifts:
    """A term before it is squared: logit shifts (alleles of each gene in `genes`, rows), see `evaluators.gradients`."""

    kind: str
    layer: str
    genes: tuple[int, ...]
    values: np.ndarray

    def term(self, coherence: float) -> Term:
        return Term(self.kind, self.layer, self.genes, coherence * (self.values.astype(np.float64) ** 2).mean(axis=-1))


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
    shifts: list[Shifts] = []
    terms: list[AnyTerm] = []
    by_name = {gene.name: i for i, gene in enumerate(space.genes)}
    for index, gene in enumerate(space.genes):
        match gene:
            case WidthGene():
                criterion = by_name[f"criterion:{gene.group}"]
                shifts.extend(_width_shifts(space, gene, index, criterion, trace, statistics, gradients, ranking))
            case WeightBitsGene():
                scheme = by_name.get(f"scheme:{gene.layer}")
                layer = gradients.layers[gene.layer]
                shifts.append(_bits_shifts(space, gene, index, scheme, layer, statistics[gene.layer]))
            case ActivationBitsGene():
                rule = by_name.get(f"range:{gene.layer}")
                terms.append(
                    _noise_term(space, gene, index, rule, gradients.layers[gene.layer], statistics[gene.layer])
                )
            case FactorGene():
                changes = _truncations(space, model, gene, statistics[gene.layer])
                shifts.append(_layer_shifts("factor", gene.layer, index, changes, gradients.layers[gene.layer]))
            case SparsityGene():
                layer = gradients.layers[gene.layer]
                shifts.append(
                    _layer_shifts("sparsity", gene.layer, index, _masked(space, gene, layer, statistics), layer)
                )
            case SkipGene():
                left_out = gradients.blocks[gene.block].numpy()
                last = space.network.block(gene.block).layers[-1]
                shifts.append(Shifts("skip", last, (index,), np.stack([np.zeros_like(left_out), left_out])))
            case _:
                pass
    terms.extend(_mask_terms(space, trace, statistics, gradients, codes))
    factors = {kind: coherence(space, [s for s in shifts if s.kind == kind]) for kind in COHERENT}
    return LossTables(space, (*(s.term(factors.get(s.kind, 1.0)) for s in shifts), *terms), peak)


def coherence(space: CompressionSpace, shifts: Sequence[Shifts]) -> float:
    """E|sum of shifts|^2 / sum of E|shift|^2 over random genomes: 1 where the errors of all layers are independent."""
    rng = stream(0, "coherence")
    together = alone = 0.0
    for _ in range(DRAWS if shifts else 0):
        genome = space.sample(rng)
        drawn = np.stack([s.values[tuple(genome[gene] for gene in s.genes)] for s in shifts])
        together += float((drawn.sum(axis=0) ** 2).mean())
        alone += float((drawn**2).mean(axis=1).sum())
    return together / alone if alone > 0 else 1.0


def _width_shifts(
    space: CompressionSpace,
    gene: WidthGene,
    index: int,
    criterion: int,
    trace: Trace,
    statistics: Mapping[str, LayerStatistics],
    gradients: Gradients,
    ranking: Ranking,
) -> list[Shifts]:
    """For each layer that reads the group: what losing the columns of the dropped units does, per (width, criterion)."""
    group = [g.name for g in space.network.groups].index(gene.group)
    criteria_gene = space.genes[criterion]
    if not isinstance(criteria_gene, CriterionGene):
        raise TypeError(
            f"gene {criterion} must choose a criterion, but got {criteria_gene.name}; build the space with build_space"
        )
    found = []
    for consumer in space.network.groups[group].consumers:
        maps = [m for m in trace.maps_of(f"{consumer}.weight") if m.dim == 1]
        if not maps:
            continue
        layer, biased = gradients.layers[consumer], space.network.layer(consumer).bias
        inputs = statistics[consumer].inputs.second(biased) if gene.compensate else None
        rows = []
        for kept in gene.kept:
            for name in criteria_gene.criteria:
                columns = kept_index(maps[0], {group: ranking.keep(gene.group, name, kept)})
                rows.append(layer.shifts(_lost(layer.weight, len(maps[0].group), columns, inputs)).numpy())
        values = np.stack(rows).reshape(len(gene.kept), len(criteria_gene.criteria), -1)
        found.append(Shifts("width", consumer, (index, criterion), values))
    return found


def _mask_terms(
    space: CompressionSpace, trace: Trace, statistics: Mapping[str, LayerStatistics], gradients: Gradients, codes: str
) -> list[MaskTerm]:
    """For each layer that reads a group with a bit per unit: what losing the columns of each unit does."""
    groups: dict[str, dict[int, int]] = {}
    for index, gene in enumerate(space.genes):
        if isinstance(gene, MaskGene):
            for group in gene.places:
                groups.setdefault(group, {})[gene.unit] = index
    numbers = space.network.columns
    found = []
    for name, units in groups.items():
        for consumer in space.network.group(name).consumers:
            for channel_map in (m for m in trace.maps_of(f"{consumer}.weight") if m.dim == 1):
                layer, every = gradients.layers[consumer], set(units)
                kept = (kept_index(channel_map, {numbers[name]: sorted(every - {unit})}) for unit in units)
                changes = [_lost(layer.weight, len(channel_map.group), index, None) for index in kept]
                if codes == RECONSTRUCTION:
                    columns = [change.any(0).nonzero().flatten().tolist() for change in changes]
                    shifts = unit_shifts(layer.weight, statistics[consumer].inputs.second(False), columns).numpy()
                else:
                    shifts = np.stack([layer.linear_shifts(change).numpy() for change in changes])
                found.append(MaskTerm("mask", consumer, tuple(units.values()), shifts, 1.0))
    if codes == RECONSTRUCTION:  # outputs of different layers have no direction in common
        return found
    return [replace(term, scale=mask_coherence(space, found)) for term in found]


def mask_coherence(space: CompressionSpace, terms: Sequence[MaskTerm]) -> float:
    """As `coherence`, for random binary codes."""
    rng = stream(0, "coherence")
    together = alone = 0.0
    for _ in range(DRAWS if terms else 0):
        genome = np.array(space.sample(rng))
        moved = np.stack([(genome[list(term.genes)] == 0).astype(np.float32) @ term.shifts for term in terms])
        together += float((moved.sum(axis=0) ** 2).mean())
        alone += float((moved**2).mean(axis=1).sum())
    return together / alone if alone > 0 else 1.0


def _lost(weight: Tensor, channels: int, kept: list[int], inputs: Tensor | None) -> Tensor:
    """What a weight (outputs, channels x kernel) loses with the channels that are not kept; with the second moment of the inputs,
    also what it gains by making up for them."""
    places = weight.shape[1] // channels
    columns = [channel * places + place for channel in kept for place in range(places)]
    if inputs is not None:
        return compensated(weight, columns, inputs) - weight
    lost = -weight.clone()
    lost[:, columns] = 0
    return lost


def _masked(
    space: CompressionSpace, gene: SparsityGene, layer: LayerGradients, statistics: Mapping[str, LayerStatistics]
) -> list[Tensor]:
    """Weight change of each pattern."""
    second_moment = statistics[gene.layer].inputs.second(space.network.layer(gene.layer).bias)
    changes = [torch.zeros_like(layer.weight)]
    for pattern in gene.patterns[1:]:
        mask = mask_of(layer.weight, pattern, gene.criterion, second_moment)
        left = compensated_mask(layer.weight, mask, second_moment) if gene.compensate else layer.weight * mask
        changes.append(left - layer.weight)
    return changes


def _layer_shifts(kind: str, name: str, index: int, changes: Sequence[Tensor], layer: LayerGradients) -> Shifts:
    return Shifts(kind, name, (index,), np.stack([layer.shifts(change).numpy() for change in changes]))


def _bits_shifts(
    space: CompressionSpace,
    gene: WeightBitsGene,
    index: int,
    scheme: int | None,
    layer: LayerGradients,
    statistics: LayerStatistics,
) -> Shifts:
    """What rounding the weights does, per bit-width and, where there is a choice, scheme."""

    def change(bits: int, how: Scheme) -> Tensor:
        stored = Bits(gene.layer, bits, FLOAT_BITS, how.codebook, how.group, how.rounding)
        return rounded_weight(layer.weight, stored, statistics.input_covariance) - layer.weight

    if scheme is None:
        return _layer_shifts("weight_bits", gene.layer, index, [change(b, Scheme()) for b in gene.bits], layer)
    chosen = space.genes[scheme]
    schemes = chosen.schemes if isinstance(chosen, SchemeGene) else (Scheme(),)
    meaning = SchemeChoice(gene.bits, schemes).canonical
    known = {(row, at) for row, line in enumerate(meaning) for at in set(line)}
    shifts = {(row, at): layer.shifts(change(gene.bits[row], schemes[at])).numpy() for row, at in sorted(known)}
    values = np.stack([np.stack([shifts[row, at] for at in line]) for row, line in enumerate(meaning)])
    return Shifts("weight_bits", gene.layer, (index, scheme), values)


def _noise_term(
    space: CompressionSpace,
    gene: ActivationBitsGene,
    index: int,
    rule: int | None,
    layer: LayerGradients,
    statistics: LayerStatistics,
) -> Term:
    """Cost of rounding the inputs, per bit-width and, where there is a choice, rule for the limits."""
    gain = float((layer.output_products * (layer.weight @ layer.weight.T)).sum())
    chosen = space.genes[rule] if rule is not None else None
    rules = chosen.rules if isinstance(chosen, RangeGene) else (Bits.range,)
    table = np.array([[0.5 * gain * _noise(statistics, b, name) for name in rules] for b in gene.bits])
    if rule is None:
        return Term("activation_bits", gene.layer, (index,), table[:, 0])
    return Term("activation_bits", gene.layer, (index, rule), table)


def _noise(statistics: LayerStatistics, bits: int, rule: str) -> float:
    """Mean squared error of rounding the layer's inputs; taken as independent between inputs, it costs
    1/2 error tr(S W W^T), S the products of output gradients."""
    if bits >= FLOAT_BITS:
        return 0.0
    seen = Seen(statistics.input_range[0], statistics.input_range[1], statistics.input_sample)
    return float(rounding_error(statistics.input_sample, RULES[rule](seen, bits), bits))


def _truncations(
    space: CompressionSpace, model: nn.Module, gene: FactorGene, statistics: LayerStatistics
) -> list[Tensor]:
    """Weight error of each option at full width."""
    layer, weight = space.network.layer(gene.layer), _matrix(model, gene.layer)
    changes = []
    for option in gene.options:
        if option == DENSE:
            changes.append(torch.zeros_like(weight))
            continue
        ranks, worth = ranks_for(layer, option, np.array([layer.in_channels]), np.array([layer.out_channels]))
        used = tuple(int(r) for r in ranks[0] if r)
        inputs = statistics.inputs if gene.metric == "inputs" else None
        changes.append(_replaced(model, gene.layer, option.method, used, inputs) - weight if worth[0] else 0 * weight)
    return changes


def _replaced(model: nn.Module, layer: str, method: str, ranks: tuple[int, ...], inputs: InputMoments | None) -> Tensor:
    """The weight matrix (outputs, fan-in) that a factorised layer stands for."""
    dense = layer_of(model, layer)
    return patch_map(list(factorise(dense, method, ranks, inputs)), dense.weight.shape)


def _matrix(model: nn.Module, layer: str) -> Tensor:
    return weight_of(model, layer).flatten(1).float()
