"""Build the joint space of a network from a few options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from search_spaces.codebooks import CHANNEL
from search_spaces.decompositions import suits
from search_spaces.genes import (
    DENSE,
    ActivationBitsGene,
    CriterionGene,
    FactorGene,
    FactorOption,
    Gene,
    MaskGene,
    RangeGene,
    SchemeGene,
    SkipGene,
    SparsityGene,
    WeightBitsGene,
    WidthGene,
)
from search_spaces.network import ChannelGroup, Layer, Network
from search_spaces.schemes import SchemeChoice, schemes_of
from search_spaces.space import CompressionSpace
from search_spaces.sparsity import DENSE as DENSE_PATTERN
from search_spaces.sparsity import Pattern

SMALLEST_FACTORED = 8  # channels below which no decomposition is offered


@dataclass(frozen=True)
class SpaceOptions:
    """What may be chosen. Empty tuples switch a decision off; `keep` are name patterns (as in shells) that stay untouched.

    codebooks x groups x roundings are the schemes of quantised weights, ranges the rules for the limits of quantised activations
    (names in `search_spaces.codebooks`). With channel_codes every unit of a channel group has a bit of its own, instead of widths
    by criteria; groups of equal size with a producer that matches the same pattern of shared_codes then share their bits.
    """

    widths: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    multiple: int = 4
    channel_codes: bool = False
    shared_codes: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ("fisher",)
    weight_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 32)
    activation_bits: tuple[int, ...] = (8, 32)
    codebooks: tuple[str, ...] = ("symmetric",)
    groups: tuple[int, ...] = (CHANNEL,)
    roundings: tuple[str, ...] = ("nearest",)
    ranges: tuple[str, ...] = ("percentile",)
    factors: tuple[str, ...] = ("svd", "tucker2")
    factor_shares: tuple[float, ...] = (0.3, 0.5, 0.7)
    factor_metric: str = "weights"
    sparsity: tuple[Pattern, ...] = ()
    mask_criterion: str = "magnitude"
    compensate: bool = False
    skip_blocks: bool = True
    keep: tuple[str, ...] = ()


def build_space(
    network: Network, options: SpaceOptions, chosen_ranks: Mapping[str, tuple[FactorOption, ...]] | None = None
) -> CompressionSpace:
    """All genes of a network under these options; raises ValueError where nothing is left to choose.

    chosen_ranks: what rank rules chose for the weights of each layer, offered beside options.factor_shares.
    """
    genes: list[Gene] = []
    followers = _followers(network.groups, options) if options.channel_codes else {}
    for group in network.groups:
        if group.name not in {name for names in followers.values() for name in names}:
            genes.extend(_group_genes(group, options, followers.get(group.name, ())))
    for layer in network.layers:
        genes.extend(_layer_genes(layer, options, (chosen_ranks or {}).get(layer.name, ())))
    if options.skip_blocks:
        genes.extend(SkipGene(b.name) for b in network.blocks if not _kept(b.layers, options.keep))
    chosen = tuple(gene for gene in genes if gene.cardinality > 1)
    if not any(gene.decides for gene in chosen):
        raise ValueError(
            "the space must leave something to choose, but got no gene with two alleles; allow more widths, bits or factors"
        )
    return CompressionSpace(network, tuple(g for g in genes if g.cardinality > 1 or _states(g, chosen)))


def _states(gene: Gene, chosen: tuple[Gene, ...]) -> bool:
    """A gene of one allele stays where it tells something: the criterion of a group with a width, or fixed bits."""
    if isinstance(gene, CriterionGene):
        return any(isinstance(g, WidthGene) and g.group == gene.group for g in chosen)
    return gene.tells


def legal_widths(size: int, shares: Iterable[float], multiple: int) -> tuple[int, ...]:
    """Channel counts near share * size that the hardware likes: multiples of `multiple`, never fewer than one of them."""
    step = min(multiple, size)
    kept = {min(size, max(step, step * math.floor(share * size / step + 0.5))) for share in shares}
    return tuple(sorted(kept))


def _followers(groups: tuple[ChannelGroup, ...], options: SpaceOptions) -> dict[str, tuple[str, ...]]:
    """For the first group of every shared code the others that follow it; raises ValueError for a pattern that joins nothing."""
    found: dict[str, tuple[str, ...]] = {}
    free = [group for group in groups if not _kept(group.producers, options.keep)]
    for pattern in options.shared_codes:
        together = [group for group in free if _kept(group.producers, (pattern,))]
        if len({group.size for group in together}) != 1 or len(together) < 2:
            sizes = ", ".join(f"{group.name} ({group.size})" for group in together) or "none"
            raise ValueError(
                f"a pattern of space.shared_codes must match two or more channel groups of one size, but got {pattern!r}, "
                f"which matches {sizes}; evo doctor lists the groups"
            )
        found[together[0].name] = tuple(group.name for group in together[1:])
    return found


def _group_genes(group: ChannelGroup, options: SpaceOptions, followers: tuple[str, ...]) -> list[Gene]:
    if _kept(group.producers, options.keep):
        return []
    if options.channel_codes:
        return [MaskGene(group.name, u, also=followers, compensate=options.compensate) for u in range(group.size)]
    if not options.widths:
        return []
    kept = legal_widths(group.size, options.widths, math.ceil(options.multiple / group.unit))
    return [WidthGene(group.name, kept, options.compensate), CriterionGene(group.name, options.criteria)]


def _layer_genes(layer: Layer, options: SpaceOptions, chosen_ranks: tuple[FactorOption, ...]) -> list[Gene]:
    if not layer.replaceable or _kept((layer.name,), options.keep):
        return []
    genes: list[Gene] = []
    if options.weight_bits:
        choice = SchemeChoice(
            tuple(sorted(options.weight_bits)), schemes_of(options.codebooks, options.groups, options.roundings)
        )
        genes += [WeightBitsGene(layer.name, choice.bits), SchemeGene(layer.name, choice.schemes)]
    if options.activation_bits:
        genes.append(ActivationBitsGene(layer.name, tuple(sorted(options.activation_bits))))
        genes.append(RangeGene(layer.name, options.ranges))
    methods = [m for m in options.factors if _factorable(layer, m)]
    if methods:
        shares = (FactorOption(method, share) for method in methods for share in sorted(options.factor_shares))
        ruled = (option for option in chosen_ranks if option.method in methods)
        genes.append(FactorGene(layer.name, tuple(dict.fromkeys((DENSE, *shares, *ruled))), options.factor_metric))
    if options.sparsity:
        patterns = tuple(dict.fromkeys((DENSE_PATTERN, *options.sparsity)))
        genes.append(SparsityGene(layer.name, patterns, options.mask_criterion, options.compensate))
    return genes


def _factorable(layer: Layer, method: str) -> bool:
    return min(layer.in_channels, layer.out_channels) >= SMALLEST_FACTORED and suits(layer, method)


def _kept(names: Iterable[str], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
