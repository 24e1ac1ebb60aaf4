"""Plans of a whole population as arrays, so that costs and scores are computed for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search_spaces.codebooks import CODEBOOKS, NAMES, RANGES, check_scheme
from search_spaces.decompositions import METHODS, METRICS, RANKS, suits
from search_spaces.network import Layer, Network
from search_spaces.plan import FLOAT_BITS, Bits, CompressionPlan, Factor, Mask, Sparse
from search_spaces.sparsity import CRITERIA


@dataclass(frozen=True)
class Phenotypes:
    """N plans over a network of G groups, B blocks and L layers.

    kept (N, G) channels per group; skipped (N, B) bool; method (N, L) index into METHODS; ranks (N, L, 2);
    weight_bits and activation_bits (N, L); codebook (N, L) index into codebooks.NAMES, group (N, L) weights per step size;
    sparsity (N, L, 3) as in `sparsity.nonzero`.
    Column order is that of the network's tuples.
    """

    kept: np.ndarray
    skipped: np.ndarray
    method: np.ndarray
    ranks: np.ndarray
    weight_bits: np.ndarray
    activation_bits: np.ndarray
    codebook: np.ndarray
    group: np.ndarray
    sparsity: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)


def full(network: Network, n: int) -> Phenotypes:
    """N times the uncompressed network."""
    layers = len(network.layers)
    return Phenotypes(
        kept=np.tile(np.array([g.size for g in network.groups], dtype=np.int64), (n, 1)).reshape(n, -1),
        skipped=np.zeros((n, len(network.blocks)), dtype=bool),
        method=np.zeros((n, layers), dtype=np.int64),
        ranks=np.zeros((n, layers, 2), dtype=np.int64),
        weight_bits=np.full((n, layers), FLOAT_BITS, dtype=np.int64),
        activation_bits=np.full((n, layers), FLOAT_BITS, dtype=np.int64),
        codebook=np.zeros((n, layers), dtype=np.int64),
        group=np.zeros((n, layers), dtype=np.int64),
        sparsity=np.ones((n, layers, 3), dtype=np.int64),
    )


def of_plan(network: Network, plan: CompressionPlan) -> Phenotypes:
    """The one-row arrays of a plan; raises ValueError where the plan does not fit the network."""
    one = full(network, 1)
    groups = {g.name: i for i, g in enumerate(network.groups)}
    blocks = {b.name: i for i, b in enumerate(network.blocks)}
    layers = {layer.name: i for i, layer in enumerate(network.layers)}
    for width in plan.widths:
        one.kept[0, _place(groups, width.group, "channel group")] = _within(
            width.kept, network.group(width.group).size, width.group
        )
    for mask in plan.masks:
        at = _place(groups, mask.group, "channel group")
        one.kept[0, at] = _within(len(mask.kept), network.groups[at].size, mask.group)
        _check_units(mask, network.groups[at].size)
    for skip in plan.skips:
        one.skipped[0, _place(blocks, skip.block, "residual block")] = True
    for factor in plan.factors:
        at = _place(layers, factor.layer, "layer")
        _check_factor(factor, network.layers[at])
        one.method[0, at] = METHODS.index(factor.method)
        one.ranks[0, at, : len(factor.ranks)] = factor.ranks
    for sparse in plan.sparse:
        at = _place(layers, sparse.layer, "layer")
        _check_sparse(sparse, bool(one.method[0, at]))
        one.sparsity[0, at] = (sparse.kept, sparse.of, sparse.structured)
    for bits in plan.bits:
        at = _place(layers, bits.layer, "layer")
        _check_bits(bits)
        one.weight_bits[0, at] = bits.weight
        one.activation_bits[0, at] = bits.activation
        one.codebook[0, at] = NAMES.index(bits.codebook)
        one.group[0, at] = bits.group
    return one


def axis_sizes(network: Network, phenotypes: Phenotypes, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Input and output channels of a layer in every plan, each (N,)."""
    columns = network.columns
    return (
        _axis(phenotypes.kept, columns, layer.in_axis.fixed, layer.in_axis.terms),
        _axis(phenotypes.kept, columns, layer.out_axis.fixed, layer.out_axis.terms),
    )


def _axis(kept: np.ndarray, columns: dict[str, int], fixed: int, terms: tuple[tuple[str, int], ...]) -> np.ndarray:
    size = np.full(len(kept), fixed, dtype=np.int64)
    for group, times in terms:
        size = size + times * kept[:, columns[group]]
    return size


def _place(columns: dict[str, int], name: str, kind: str) -> int:
    if name not in columns:
        raise ValueError(f"a plan must name a {kind} of the network, but got {name!r}; known are: {', '.join(columns)}")
    return columns[name]


def _within(kept: int, size: int, group: str) -> int:
    if not 1 <= kept <= size:
        raise ValueError(f"1 <= kept <= {size} must hold for group {group!r}, but got kept={kept}; correct the plan")
    return kept


def _check_factor(factor: Factor, layer: Layer) -> None:
    if len(factor.ranks) != RANKS.get(factor.method):
        known = ", ".join(f"{method} ({n})" for method, n in RANKS.items())
        raise ValueError(f"a factor must be one of {known} with so many ranks, but got {factor}; correct the plan")
    if not suits(layer, factor.method):
        raise ValueError(
            f"a decomposition must suit its layer, but got {factor} for {layer.kind} with kernel {layer.kernel} and "
            f"{layer.groups} groups; leave it dense"
        )
    if factor.metric not in METRICS:
        raise ValueError(f"a metric must be one of {', '.join(METRICS)}, but got {factor}; correct the plan")


def _check_sparse(sparse: Sparse, factorised: bool) -> None:
    if not 1 <= sparse.kept < sparse.of:
        raise ValueError(f"1 <= kept < of must hold for a mask of weights, but got {sparse}; correct the plan")
    if sparse.criterion not in CRITERIA:
        raise ValueError(f"a mask's criterion must be one of {CRITERIA}, but got {sparse}; correct the plan")
    if factorised:
        raise ValueError(
            f"a layer must be either decomposed or masked, but got both for {sparse.layer!r}; remove one from the plan"
        )


def _check_bits(bits: Bits) -> None:
    check_scheme(bits.scheme)
    allowed = CODEBOOKS[bits.codebook]
    if bits.weight not in (*allowed, FLOAT_BITS):
        raise ValueError(
            f"weight bits of a {bits.codebook} codebook must lie in {allowed[0]}..{allowed[-1]} or be {FLOAT_BITS} for float, "
            f"but got {bits}; correct the plan"
        )
    if not (2 <= bits.activation <= 8 or bits.activation == FLOAT_BITS):
        raise ValueError(
            f"activation bits must lie in 2..8 or be {FLOAT_BITS} for float, but got {bits}; correct the plan"
        )
    if bits.range not in RANGES:
        raise ValueError(f"a range must be one of {RANGES}, but got {bits}; correct the plan")


def _check_units(mask: Mask, size: int) -> None:
    if len(set(mask.kept)) < len(mask.kept) or not all(0 <= unit < size for unit in mask.kept):
        raise ValueError(
            f"a mask must keep distinct units in 0..{size - 1} of group {mask.group!r}, "
            f"but got kept={mask.kept}; correct the plan"
        )
