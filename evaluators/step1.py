"""Step 1: the predicted loss increase of any plan in closed form, one currency for pruning, bits and rank.

For every layer, 1/2 tr(S dW C dW^T) (see `evaluators.statistics`) of each single decision is put into a table once; a genome's
score adds its entries. Rounding and truncation errors shrink with the share of the layer that pruning leaves. What is neglected:
interactions between layers and between decisions on one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.chains import patch_map
from evaluators.channels import Trace, kept_index
from evaluators.factorise import factorise
from evaluators.layers import layer_of, weight_of
from evaluators.moments import InputMoments
from evaluators.quantise import rounded_weight
from evaluators.ranges import RULES, Seen, rounding_error
from evaluators.saliency import Ranking
from evaluators.statistics import LayerStatistics
from search_spaces.codebooks import Scheme
from search_spaces.cost_tables import CostTables
from search_spaces.costs import costs
from search_spaces.genes import (
    DENSE,
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    Gene,
    RangeGene,
    SchemeGene,
    SkipGene,
    WeightBitsGene,
    WidthGene,
)
from search_spaces.network import Layer
from search_spaces.phenotype import Phenotypes, axis_sizes
from search_spaces.plan import FLOAT_BITS, Bits
from search_spaces.ranks import ranks_for
from search_spaces.schemes import SchemeChoice
from search_spaces.space import CompressionSpace


@dataclass(frozen=True)
class Term:
    """One summand of the score: entries (alleles of each gene in `genes`), for `layer`, scaled by what pruning leaves or not."""

    kind: str
    layer: str
    genes: tuple[int, ...]
    table: np.ndarray
    scaled: bool


@dataclass(frozen=True)
class LossTables:
    """A `Scorer`: predicted loss increase (nats) and all costs of a population of codes (N, genes)."""

    space: CompressionSpace
    terms: tuple[Term, ...]
    peak: bool = False

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        phenotypes = self.space.phenotypes(genomes)
        loss = self.contributions(genomes, phenotypes).sum(axis=1)
        measures = {"predicted_loss_increase": loss, **self._costs.costs(genomes)}
        return {**measures, **costs(self.space.network, phenotypes, peak=True)} if self.peak else measures

    @cached_property
    def _costs(self) -> CostTables:
        return CostTables(self.space)

    def contributions(self, genomes: np.ndarray, phenotypes: Phenotypes) -> np.ndarray:
        """Every term's part of the score, (N, terms): what a calibration learns weights for."""
        shares = {layer.name: self._share(layer, phenotypes) for layer in self.space.network.layers}
        gone = self._gone(phenotypes)
        columns = []
        for term in self.terms:
            value = term.table[tuple(genomes[:, g] for g in term.genes)]
            if term.scaled:
                value = value * shares[term.layer]
            columns.append(value if term.kind == "skip" else value * ~gone[term.layer])
        return np.stack(columns, axis=1) if columns else np.zeros((len(genomes), 0))

    def _share(self, layer: Layer, phenotypes: Phenotypes) -> np.ndarray:
        c_in, c_out = axis_sizes(self.space.network, phenotypes, layer)
        return (c_in / layer.in_channels) * (c_out / layer.out_channels)

    def _gone(self, phenotypes: Phenotypes) -> dict[str, np.ndarray]:
        gone = {layer.name: np.zeros(len(phenotypes), dtype=bool) for layer in self.space.network.layers}
        for at, block in enumerate(self.space.network.blocks):
            for name in block.layers:
                gone[name] = gone[name] | phenotypes.skipped[:, at]
        return gone


def build_tables(
    space: CompressionSpace,
    model: nn.Module,
    trace: Trace,
    statistics: Mapping[str, LayerStatistics],
    ranking: Ranking,
    peak: bool = False,
) -> LossTables:
    """Compute all tables: about one small matrix product per layer and allele."""
    weights = {layer.name: _matrix(model, layer.name) for layer in space.network.layers}
    terms: list[Term] = []
    by_name = {gene.name: i for i, gene in enumerate(space.genes)}
    for index, gene in enumerate(space.genes):
        match gene:
            case WidthGene():
                criterion = by_name[f"criterion:{gene.group}"]
                terms.extend(_width_terms(space, gene, index, criterion, trace, weights, statistics, ranking))
            case WeightBitsGene():
                scheme = by_name.get(f"scheme:{gene.layer}")
                terms.append(_bits_term(space, gene, index, scheme, weights[gene.layer], statistics[gene.layer]))
            case ActivationBitsGene():
                rule = by_name.get(f"range:{gene.layer}")
                terms.append(_noise_term(space, gene, index, rule, weights[gene.layer], statistics[gene.layer]))
            case FactorGene():
                changes = _truncations(space, model, gene, statistics[gene.layer])
                terms.append(_layer_term("factor", gene, gene.layer, index, changes, statistics))
            case SkipGene():
                last = space.network.block(gene.block).layers[-1]
                cost = quadratic(statistics[last], weights[last])
                terms.append(Term("skip", last, (index,), np.array([0.0, cost]), False))
            case _:
                pass
    return LossTables(space, tuple(terms), peak)


def quadratic(statistics: LayerStatistics, change: Tensor) -> float:
    """1/2 tr(S dW C dW^T) for a weight change dW (outputs, fan-in)."""
    change = change.to(statistics.input_covariance.dtype)
    return float(0.5 * ((statistics.output_gradient @ change @ statistics.input_covariance) * change).sum())


def _width_terms(
    space: CompressionSpace,
    gene: WidthGene,
    index: int,
    criterion: int,
    trace: Trace,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, LayerStatistics],
    ranking: Ranking,
) -> list[Term]:
    """For each layer that reads the group: the cost of losing the columns of the dropped units, per (width, criterion)."""
    group = [g.name for g in space.network.groups].index(gene.group)
    criteria_gene = space.genes[criterion]
    if not isinstance(criteria_gene, CriterionGene):
        raise TypeError(
            f"gene {criterion} must choose a criterion, but got {criteria_gene.name}; build the space with build_space"
        )
    terms = []
    for consumer in space.network.groups[group].consumers:
        maps = [m for m in trace.maps_of(f"{consumer}.weight") if m.dim == 1]
        if not maps:
            continue
        table = np.zeros((len(gene.kept), len(criteria_gene.criteria)))
        for (row, kept), (column, name) in (
            (a, b) for a in enumerate(gene.kept) for b in enumerate(criteria_gene.criteria)
        ):
            index_kept = kept_index(maps[0], {group: ranking.keep(gene.group, name, kept)})
            table[row, column] = quadratic(
                statistics[consumer], _dropped(weights[consumer], len(maps[0].group), index_kept)
            )
        terms.append(Term("width", consumer, (index, criterion), table, False))
    return terms


def _dropped(weight: Tensor, channels: int, kept: list[int]) -> Tensor:
    """Minus the weight of the channels that are not kept, zero elsewhere; weight (outputs, channels x kernel)."""
    lost = weight.view(len(weight), channels, -1).clone()
    lost[:, kept] = 0
    return lost.flatten(1)


def _layer_term(
    kind: str, gene: Gene, layer: str, index: int, changes: list[Tensor], statistics: Mapping[str, LayerStatistics]
) -> Term:
    return Term(kind, layer, (index,), np.array([quadratic(statistics[layer], change) for change in changes]), True)


def _bits_term(
    space: CompressionSpace,
    gene: WeightBitsGene,
    index: int,
    scheme: int | None,
    weight: Tensor,
    statistics: LayerStatistics,
) -> Term:
    """Cost of rounding the weights, per bit-width and, where there is a choice, scheme."""

    def cost(bits: int, how: Scheme) -> float:
        stored = Bits(gene.layer, bits, FLOAT_BITS, how.codebook, how.group, how.rounding)
        return quadratic(statistics, rounded_weight(weight, stored, statistics.input_covariance) - weight)

    if scheme is None:
        return Term("weight_bits", gene.layer, (index,), np.array([cost(b, Scheme()) for b in gene.bits]), True)
    chosen = space.genes[scheme]
    schemes = chosen.schemes if isinstance(chosen, SchemeGene) else (Scheme(),)
    meaning = SchemeChoice(gene.bits, schemes).canonical
    costs_of = {(row, at): cost(gene.bits[row], schemes[at]) for row, line in enumerate(meaning) for at in set(line)}
    table = np.array([[costs_of[row, at] for at in line] for row, line in enumerate(meaning)])
    return Term("weight_bits", gene.layer, (index, scheme), table, True)


def _noise_term(
    space: CompressionSpace,
    gene: ActivationBitsGene,
    index: int,
    rule: int | None,
    weight: Tensor,
    statistics: LayerStatistics,
) -> Term:
    """Cost of rounding the inputs, per bit-width and, where there is a choice, rule for the limits."""
    gain = float((statistics.output_gradient * (weight @ weight.T)).sum())
    chosen = space.genes[rule] if rule is not None else None
    rules = chosen.rules if isinstance(chosen, RangeGene) else (Bits.range,)
    table = np.array([[0.5 * gain * _noise(statistics, b, name) for name in rules] for b in gene.bits])
    if rule is None:
        return Term("activation_bits", gene.layer, (index,), table[:, 0], True)
    return Term("activation_bits", gene.layer, (index, rule), table, True)


def _noise(statistics: LayerStatistics, bits: int, rule: str) -> float:
    """Mean squared error of rounding the layer's inputs; taken as independent between inputs, it costs 1/2 error tr(S W W^T)."""
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
