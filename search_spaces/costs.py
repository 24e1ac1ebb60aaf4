"""Costs of plans without torch: parameters, MACs, BOPs, bytes and peak activation bytes.

MACs count convolutions, linear layers and matrix products (attention). They are the numbers counted on the
built module, not estimates: `evaluators.count` counts them there and the tests hold both equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from search_spaces.codebooks import FLOAT_BYTES, arithmetic_bits, side_bytes
from search_spaces.decompositions import METHODS, Part, parts
from search_spaces.network import Layer, Network, Step
from search_spaces.phenotype import Phenotypes, _axis
from search_spaces.plan import FLOAT_BITS
from search_spaces.sparsity import mask_bytes, nonzero

QUANTIZER_BYTES = 8  # scale and zero point of one activation quantiser


def costs(network: Network, phenotypes: Phenotypes, peak: bool = False) -> dict[str, np.ndarray]:
    """Measures of N plans, each float64 (N,).

    params: weights, biases and normalisation parameters, masked ones included. macs: per sample, masks not counted. bops: macs of
    weights that no mask drops x weight bits x activation bits. size_bytes: weights packed at their bit-width (whole bytes per
    tensor) with masks and float32 steps, offsets or tables as their codebook needs, everything else in float32, including
    normalisation statistics. peak_activation_bytes (if asked for): the largest sum of float32 activations alive at one operation,
    for one sample, quantisation not counted.
    """
    n = len(phenotypes)
    total = {name: np.zeros(n, dtype=np.int64) for name in ("params", "macs", "bops", "size_bytes")}
    columns = network.columns
    in_block = _block_of(network)
    for index, layer in enumerate(network.layers):
        alive = _alive(phenotypes, in_block.get(layer.name))
        for rows, part in _layer_parts(network, phenotypes, index):
            on = alive[rows]
            total["params"][rows] += on * part.weights
            total["macs"][rows] += on * part.macs
            bops, size = _stored(phenotypes, rows, index, part)
            total["bops"][rows] += on * bops
            total["size_bytes"][rows] += on * size
        if layer.bias:
            outputs = alive * _axis(phenotypes.kept, columns, layer.out_axis.fixed, layer.out_axis.terms)
            total["params"] += outputs
            total["size_bytes"] += FLOAT_BYTES * outputs
    blocks = {block.name: i for i, block in enumerate(network.blocks)}
    for product in network.products:
        elements = _axis(phenotypes.kept, columns, product.elements.fixed, product.elements.terms)
        macs = product.macs * elements // product.of * _alive(phenotypes, blocks.get(product.block))
        total["macs"] += macs
        total["bops"] += macs * FLOAT_BITS**2
    for vector in network.vectors:
        size = _axis(phenotypes.kept, columns, vector.axis.fixed, vector.axis.terms)
        size = size * _alive(phenotypes, in_block.get(vector.name))
        total["params"] += vector.parameters * size
        total["size_bytes"] += FLOAT_BYTES * (vector.parameters + vector.buffers) * size
    total["params"] += network.fixed_parameters
    total["size_bytes"] += FLOAT_BYTES * (network.fixed_parameters + network.fixed_buffers)
    for at, block in enumerate(network.blocks):
        gone = phenotypes.skipped[:, at]
        total["params"] -= gone * block.fixed_parameters
        total["size_bytes"] -= FLOAT_BYTES * gone * (block.fixed_parameters + block.fixed_buffers)
    measures = {name: value.astype(np.float64) for name, value in total.items()}
    if peak:
        measures["peak_activation_bytes"] = np.array([_peak_bytes(network, phenotypes, row) for row in range(n)])
    return measures


def _stored(phenotypes: Phenotypes, rows: np.ndarray, index: int, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """BOPs and bytes of one part of a layer: codes, mask, steps and the input's scale and zero point."""
    bits_w, bits_a = phenotypes.weight_bits[rows, index], phenotypes.activation_bits[rows, index]
    codebook, group = phenotypes.codebook[rows, index], phenotypes.group[rows, index]
    counts = np.stack([part.outputs, part.weights // np.maximum(part.outputs, 1)])
    patterns = phenotypes.sparsity[rows, index]
    left = nonzero(patterns, counts[0], counts[1])
    beside = np.where(bits_w < FLOAT_BITS, side_bytes(codebook, group, bits_w, counts), 0)
    beside += mask_bytes(patterns, part.weights) + QUANTIZER_BYTES * (bits_a < FLOAT_BITS)
    operations = part.macs // np.maximum(part.weights, 1) * left
    return operations * arithmetic_bits(codebook, bits_w) * bits_a, (left * bits_w + 7) // 8 + beside


def _block_of(network: Network) -> dict[str, int]:
    return {name: i for i, block in enumerate(network.blocks) for name in (*block.layers, *block.vectors)}


def _alive(phenotypes: Phenotypes, block: int | None) -> np.ndarray:
    if block is None:
        return np.ones(len(phenotypes), dtype=np.int64)
    return (~phenotypes.skipped[:, block]).astype(np.int64)


def _layer_parts(network: Network, phenotypes: Phenotypes, index: int) -> Iterator[tuple[np.ndarray, Part]]:
    """The parts of one layer, split by factorisation method: (rows that use it, part over these rows)."""
    layer = network.layers[index]
    columns = network.columns
    c_in = _axis(phenotypes.kept, columns, layer.in_axis.fixed, layer.in_axis.terms)
    c_out = _axis(phenotypes.kept, columns, layer.out_axis.fixed, layer.out_axis.terms)
    for code, method in enumerate(METHODS):
        rows = np.flatnonzero(phenotypes.method[:, index] == code)
        if len(rows):
            for part in parts(layer, method, c_in[rows], c_out[rows], phenotypes.ranks[rows, index]):
                yield rows, part


def _peak_bytes(network: Network, phenotypes: Phenotypes, row: int) -> float:
    return float(max((held for _, held in live_bytes(network, phenotypes, row)), default=0))


def live_bytes(network: Network, phenotypes: Phenotypes, row: int) -> Iterator[tuple[Step, int]]:
    """Walk the schedule of one plan: bytes of activations held while each operation runs, for one sample.

    An activation lives from the operation that makes it to the last that reads it.
    """
    columns = {g.name: int(phenotypes.kept[row, i]) for i, g in enumerate(network.groups)}
    skipped = {b.name for i, b in enumerate(network.blocks) if phenotypes.skipped[row, i]}
    stands_for = {b.output: b.input for b in network.blocks if b.name in skipped}
    bytes_of = [FLOAT_BYTES * a.axis.size(columns) * a.positions for a in network.activations]
    schedule = [s for s in network.steps if s.block not in skipped]
    reads = [{_resolve(stands_for, i) for i in s.reads} for s in schedule]
    last = {i: at for at, used in enumerate(reads) for i in used}
    last.update({_resolve(stands_for, i): len(schedule) for i in network.outputs})
    layers = {layer.name: i for i, layer in enumerate(network.layers)}
    live: set[int] = set()
    for at, step in enumerate(schedule):
        live |= reads[at]
        dying = {i for i in live if last.get(i, at) <= at}
        made = set(step.makes) - live
        if step.layer and made:
            inner = _inner_bytes(network.layers[layers[step.layer]], phenotypes, row, layers[step.layer], columns)
        else:
            inner = []
        yield step, _peak_of_step(bytes_of, live, dying, made, inner)
        live = (live | made) - {i for i in live | made if last.get(i, at) <= at}


def _resolve(stands_for: dict[int, int], index: int) -> int:
    while index in stands_for:
        index = stands_for[index]
    return index


def _inner_bytes(layer: Layer, phenotypes: Phenotypes, row: int, index: int, kept: dict[str, int]) -> list[int]:
    """Bytes of the activations between the factors of a layer, in order."""
    c_in, c_out = (np.array([axis.size(kept)]) for axis in (layer.in_axis, layer.out_axis))
    method = METHODS[phenotypes.method[row, index]]
    made = parts(layer, method, c_in, c_out, phenotypes.ranks[row : row + 1, index])
    return [FLOAT_BYTES * int(elements[0]) for part in made for elements in part.inner]


def _peak_of_step(bytes_of: list[int], live: set[int], dying: set[int], made: set[int], inner: list[int]) -> int:
    output = sum(bytes_of[i] for i in made)
    if not inner:
        return sum(bytes_of[i] for i in live) + output
    kept = sum(bytes_of[i] for i in live - dying)
    chain = [sum(bytes_of[i] for i in dying), *inner, output]
    return kept + max(a + b for a, b in pairwise(chain))
