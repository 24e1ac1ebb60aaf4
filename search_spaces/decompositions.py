"""Decompositions without torch: which exist, what they cost, and which ranks spend a given share of the dense layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from search_spaces.network import Layer

METRICS = ("weights", "inputs")  # what is kept close: the weight, or the outputs on the inputs that were seen
METHODS = ("none", "svd", "tucker2", "spatial", "cp", "tt2", "tt3")
RANKS = {"svd": 1, "tucker2": 2, "spatial": 1, "cp": 1, "tt2": 1, "tt3": 2}


@dataclass(frozen=True)
class Part:
    """One layer of a (possibly factorised) layer: weights, MACs and output channels, each (N,); `inner`: elements that it makes,
    per sample and call, for the parts after it."""

    weights: np.ndarray
    macs: np.ndarray
    outputs: np.ndarray
    inner: tuple[np.ndarray, ...] = ()


def suits(layer: Layer, method: str) -> bool:
    """Whether a method can stand in for a layer at all."""
    if layer.groups > 1 or layer.kind == "conv_transpose":
        return False
    if method in ("tt2", "tt3"):
        return layer.kind == "linear"
    return method == "svd" or (layer.kind == "conv" and layer.kernel_area > 1)


def parts(layer: Layer, method: str, c_in: np.ndarray, c_out: np.ndarray, ranks: np.ndarray) -> list[Part]:
    """The layers that a layer becomes; ranks (N, 2). MACs = weights x the places at which each is applied.

    svd:     k x k C->r (keeps stride and padding), 1 x 1 r->N
    spatial: k x 1 C->r, 1 x k r->N (each with the stride and padding of its axis)      (Jaderberg et al. 2014)
    tucker2: 1 x 1 C->r0, k x k r0->r1 (keeps stride and padding), 1 x 1 r1->N          (Kim et al. 2016)
    cp:      1 x 1 C->r, depthwise k x 1 and 1 x k, 1 x 1 r->N                           (Lebedev et al. 2015)
    tt2:     C = c1 c2, N = n1 n2: c2->r n2 at c1 places, c1 r->n1 at n2 places          (Novikov et al. 2015)
    tt3:     the same with three factors: c3->r1 n3, c2 r1->r0 n2, c1 r0->n1
    """
    area, at_in, at_out, between = layer.kernel_area, layer.in_positions, layer.out_positions, layer.mid_positions
    first, second = ranks[:, 0], ranks[:, 1]
    height, width = layer.kernel
    if method == "none":
        fan_in = np.ones_like(c_in) if layer.depthwise else c_in // layer.groups
        return _parts(layer, [(c_out * fan_in * area, at_out, c_out)])
    if method == "svd":
        return _parts(layer, [(c_in * first * area, at_out, first), (first * c_out, at_out, c_out)])
    if method == "spatial":
        return _parts(layer, [(c_in * first * height, between, first), (first * c_out * width, at_out, c_out)])
    if method == "tucker2":
        middle = (first * second * area, at_out, second)
        return _parts(layer, [(c_in * first, at_in, first), middle, (second * c_out, at_out, c_out)])
    if method == "cp":
        shapes = [(c_in * first, at_in, first), (first * height, between, first), (first * width, at_out, first)]
        return _parts(layer, [*shapes, (first * c_out, at_out, c_out)])
    if method in ("tt2", "tt3"):
        return _train(layer, c_in, c_out, ranks, RANKS[method] + 1)
    raise ValueError(f"a factorisation must be one of {METHODS}, but got method={method!r}; choose one of these")


def _parts(layer: Layer, shapes: list[tuple[np.ndarray, int, np.ndarray]]) -> list[Part]:
    found = [Part(w, w * at, outputs, (outputs * at // layer.calls,)) for w, at, outputs in shapes]
    return [*found[:-1], replace(found[-1], inner=())]  # what the last one makes is the layer's output


def _train(layer: Layer, c_in: np.ndarray, c_out: np.ndarray, ranks: np.ndarray, cores: int) -> list[Part]:
    """From the last core to the first; what a core makes is copied into the order of the next."""
    into, out = _factors(c_in, cores), _factors(c_out, cores)
    bonds = [np.ones_like(c_in), *(ranks[:, at] for at in range(cores - 1)), np.ones_like(c_in)]
    found = []
    for at in reversed(range(cores)):
        weights = bonds[at] * out[at] * into[at] * bonds[at + 1]
        places = _product(into[:at], c_in) * _product(out[at + 1 :], c_in)
        made = places * bonds[at] * out[at] * layer.out_positions // layer.calls
        found.append(Part(weights, weights * places * layer.out_positions, bonds[at] * out[at], (made, made)))
    return [*found[:-1], replace(found[-1], inner=found[-1].inner[:1])]


def _factors(sizes: np.ndarray, cores: int) -> list[np.ndarray]:
    table = np.array([balanced(int(size), cores) for size in sizes], dtype=np.int64).reshape(-1, cores)
    return list(table.T)


def _product(factors: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.prod([np.ones_like(like), *factors], axis=0)
    return result


@cache
def balanced(size: int, factors: int) -> tuple[int, ...]:
    """So many ascending factors of a size, the first as large as it may be: 48 in two is (6, 8), in three (3, 4, 4)."""
    if factors == 1:
        return (size,)
    limit = round(size ** (1 / factors) + 1e-9)
    while limit**factors > size or size % limit:
        limit -= 1
    return (limit, *balanced(size // limit, factors - 1))


def tt_limits(sizes: tuple[int, int, int], ranks: tuple[int, ...]) -> tuple[int, int]:
    """Largest useful ranks of three cores of these sizes (outputs x inputs of each); the second depends on the first."""
    first = min(sizes[0], sizes[1] * sizes[2])
    return first, min(sizes[2], sizes[1] * min(first, ranks[0] if ranks else first))
