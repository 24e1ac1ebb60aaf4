"""Predicted latency of any plan from times of single layers, measured once per network and runtime.

Every distinct geometry (kernel, stride, size of the input ...) is timed on a grid of input and output channels, in float32 and,
where the runtime has such kernels, in 8-bit integers; between the grid's points time is interpolated linearly. Factorised layers
are sums of their parts. Weights of 2 to 7 bits run on the 8-bit kernels and take their time. Where layers in float32 and in
integers meet, conversion is added; so are sums of branches. What two layers in float32 save by agreeing on a layout follows from
the measured latency of the uncompressed network, which the table then predicts exactly. All other operations are neglected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from evaluators.latency.flow import Join, flow_of
from search_spaces.codebooks import NAMES
from search_spaces.decompositions import METHODS, parts
from search_spaces.network import Layer, Network
from search_spaces.phenotype import Phenotypes, axis_sizes, full

INTEGER_BITS = 8


@dataclass(frozen=True)
class Grid:
    """Milliseconds (inputs, outputs) of one geometry at these channel numbers, both ascending."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]

    def at(self, c_in: np.ndarray, c_out: np.ndarray) -> np.ndarray:
        """Bilinear between the points, continued below them."""
        table = np.array(self.milliseconds)
        (row, down), (column, right) = _place(self.inputs, c_in), _place(self.outputs, c_out)
        below, beside = np.minimum(row + 1, len(self.inputs) - 1), np.minimum(column + 1, len(self.outputs) - 1)
        upper = table[row, column] * (1 - right) + table[row, beside] * right
        lower = table[below, column] * (1 - right) + table[below, beside] * right
        return np.maximum(upper * (1 - down) + lower * down, 0.0)


@dataclass(frozen=True)
class Site:
    """Which geometries a layer uses: its own, and 1 x 1 convolutions at its input and at its output."""

    own: str
    at_input: str
    at_output: str


@dataclass(frozen=True)
class Moves:
    """Milliseconds per element of what lies between layers: to and from 8-bit codes, and adding two tensors in either form.

    `joined` is what two neighbouring layers in float32 save, each element of the tensor between them: they agree on its layout.
    """

    quantise: float = 0.0
    dequantise: float = 0.0
    add: float = 0.0
    add_integers: float = 0.0
    joined: float = 0.0


@dataclass(frozen=True)
class LatencyTable:
    """floats and integers hold a grid per geometry; `integers` is empty where a runtime has no such kernels."""

    sites: Mapping[str, Site]
    floats: Mapping[str, Grid]
    integers: Mapping[str, Grid]
    moves: Moves = Moves()
    batch: int = 1
    scale: float = 1.0

    def predict(self, network: Network, phenotypes: Phenotypes) -> np.ndarray:
        """Milliseconds per batch of every plan, (N,)."""
        flow = flow_of(network)
        columns = {layer.name: i for i, layer in enumerate(network.layers)}
        integer = self._on_integers(phenotypes)
        total = np.zeros(len(phenotypes))
        for index, layer in enumerate(network.layers):
            before = integer[:, [columns[name] for name in flow.producers[layer.name]]]
            time = self._layer(network, layer, index, phenotypes, integer[:, index])
            time = time + self._entering(network, index, phenotypes, integer[:, index], before)
            total += np.maximum(time, 0.0) * _alive(network, phenotypes, layer.name)
        for join in flow.joins:
            total += self._joining(network, phenotypes, join, integer[:, [columns[name] for name in join.producers]])
        return total * self.scale

    def scaled_to(self, network: Network, baseline_ms: float) -> LatencyTable:
        """The table that predicts this for the uncompressed network in float32: what is less than its layers take one by one is
        what they save side by side, the rest a factor."""
        whole, loose = full(network, 1), replace(self, moves=replace(self.moves, joined=0.0), scale=1.0)
        between = float(replace(loose, floats=_free(self.floats), moves=Moves(joined=-1.0)).predict(network, whole)[0])
        saved = max(0.0, float(loose.predict(network, whole)[0]) - baseline_ms) / max(between, 1e-12)
        joined = replace(loose, moves=replace(self.moves, joined=saved))
        return replace(joined, scale=baseline_ms / float(joined.predict(network, whole)[0]))

    def _on_integers(self, phenotypes: Phenotypes) -> np.ndarray:
        if not self.integers:
            return np.zeros(phenotypes.weight_bits.shape, dtype=bool)
        few = (phenotypes.weight_bits <= INTEGER_BITS) & (phenotypes.activation_bits <= INTEGER_BITS)
        known: np.ndarray = few & (phenotypes.codebook == NAMES.index("symmetric")) & (phenotypes.group <= 0)
        return known

    def _entering(
        self, network: Network, index: int, phenotypes: Phenotypes, integer: np.ndarray, before: np.ndarray
    ) -> np.ndarray:
        """Milliseconds to bring a layer's input into the form in which it computes."""
        moves, layer = self.moves, network.layers[index]
        elements = axis_sizes(network, phenotypes, layer)[0] * layer.in_positions * self.batch
        some = before.any(axis=1)
        all_integer = before.all(axis=1) & (before.shape[1] > 0)
        into_integers = np.where(all_integer, 0.0, moves.quantise)
        rounded = bool(self.integers) & (phenotypes.activation_bits[:, index] <= INTEGER_BITS)
        joined = moves.joined * (before.shape[1] > 0) * ~rounded
        into_floats = np.where(some, moves.dequantise, -joined) + rounded * (moves.quantise + moves.dequantise)
        result: np.ndarray = elements * np.where(integer, into_integers, into_floats)
        return result

    def _joining(self, network: Network, phenotypes: Phenotypes, join: Join, before: np.ndarray) -> np.ndarray:
        activation = network.activations[join.activation]
        sizes = np.full(len(phenotypes), activation.axis.fixed)
        for group, times in activation.axis.terms:
            sizes = sizes + times * phenotypes.kept[:, network.columns[group]]
        gone = [phenotypes.skipped[:, i] for i, block in enumerate(network.blocks) if block.name == join.block]
        alive = ~gone[0] if gone else np.ones(len(phenotypes), dtype=bool)
        each = np.where(before.all(axis=1), self.moves.add_integers, self.moves.add)
        result: np.ndarray = alive * sizes * activation.positions * self.batch * each
        return result

    def _layer(
        self, network: Network, layer: Layer, index: int, phenotypes: Phenotypes, integer: np.ndarray
    ) -> np.ndarray:
        c_in, c_out = axis_sizes(network, phenotypes, layer)
        result = np.zeros(len(phenotypes))
        for on_integers, grids in ((False, self.floats), (True, self.integers)):
            for code, method in enumerate(METHODS):
                rows = np.flatnonzero((phenotypes.method[:, index] == code) & (integer == on_integers))
                if len(rows):
                    ranks = phenotypes.ranks[rows, index]
                    result[rows] = self._method(grids, layer, method, c_in[rows], c_out[rows], ranks)
        return result

    def _method(
        self,
        grids: Mapping[str, Grid],
        layer: Layer,
        method: str,
        c_in: np.ndarray,
        c_out: np.ndarray,
        ranks: np.ndarray,
    ) -> np.ndarray:
        site = self.sites[layer.name]
        first, second = ranks[:, 0], ranks[:, 1]
        if method == "none":
            return grids[site.own].at(c_in, c_out)
        if method == "svd":
            return grids[site.own].at(c_in, first) + grids[site.at_output].at(first, c_out)
        if method == "tucker2":
            narrow = grids[site.at_input].at(c_in, first) + grids[site.at_output].at(second, c_out)
            return narrow + grids[site.own].at(first, second)
        (dense,) = parts(layer, "none", c_in, c_out, ranks)
        macs = sum((part.macs for part in parts(layer, method, c_in, c_out, ranks)), np.zeros(len(c_in)))
        return grids[site.own].at(c_in, c_out) * macs / dense.macs  # of parts that were not timed: by their MACs

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        raw = json.loads(text)
        grids = [{key: _grid(value) for key, value in raw[kind].items()} for kind in ("floats", "integers")]
        sites = {name: Site(**site) for name, site in raw["sites"].items()}
        return cls(sites, grids[0], grids[1], Moves(**raw["moves"]), raw["batch"], raw["scale"])


def _free(grids: Mapping[str, Grid]) -> dict[str, Grid]:
    return dict.fromkeys(grids, Grid((1,), (1,), ((0.0,),)))


def _alive(network: Network, phenotypes: Phenotypes, layer: str) -> np.ndarray:
    gone = [phenotypes.skipped[:, i] for i, block in enumerate(network.blocks) if layer in block.layers]
    return ~gone[0] if gone else np.ones(len(phenotypes), dtype=bool)


def _grid(raw: dict[str, list[int]]) -> Grid:
    rows = tuple(tuple(float(ms) for ms in row) for row in raw["milliseconds"])  # type: ignore[attr-defined]
    return Grid(tuple(raw["inputs"]), tuple(raw["outputs"]), rows)


def _place(points: tuple[int, ...], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index of the point below, share of the way to the next) of each value."""
    clipped = np.minimum(values, points[-1]).astype(float)
    at = np.clip(np.searchsorted(points, clipped, side="right") - 1, 0, max(0, len(points) - 2))
    if len(points) == 1:
        return at, np.zeros(len(values))
    knots = np.array(points, dtype=float)
    return at, (clipped - knots[at]) / (knots[at + 1] - knots[at])


def channel_points(most: int) -> tuple[int, ...]:
    """Channel numbers at which a grid is measured: about eight multiples of 4 up to the most that occur. Kernels work on blocks
    of channels, so that 12 of them can take longer than 16."""
    step = 4 * max(1, math.ceil(most / 32))
    return tuple(sorted({1 if most <= step else step, *range(step, most, step), most}))
