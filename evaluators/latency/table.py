"""Predicted latency of any plan from times of single layers, measured once per network and runtime.

Every distinct geometry (kernel, stride, size of the input ...) is timed on a grid of input and output channels, in float32 and,
where the runtime has such kernels, in 8-bit integers; between the grid's points time is interpolated linearly. Factorised layers
are sums of their parts. Weights of 2 to 7 bits run on the 8-bit kernels and take their time. What is neglected: operations that
are no layers, and what a runtime gains by joining layers; the whole is scaled so that the uncompressed network has its measured
latency.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

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
class LatencyTable:
    """floats and integers hold a grid per geometry; `integers` is empty where a runtime has no such kernels."""

    sites: Mapping[str, Site]
    floats: Mapping[str, Grid]
    integers: Mapping[str, Grid]
    scale: float = 1.0

    def predict(self, network: Network, phenotypes: Phenotypes) -> np.ndarray:
        """Milliseconds per batch of every plan, (N,)."""
        total = np.zeros(len(phenotypes))
        in_block = {name: i for i, block in enumerate(network.blocks) for name in block.layers}
        for index, layer in enumerate(network.layers):
            alive = 1 if layer.name not in in_block else ~phenotypes.skipped[:, in_block[layer.name]]
            total += alive * self._layer(network, layer, index, phenotypes)
        return total * self.scale

    def scaled_to(self, network: Network, baseline_ms: float) -> LatencyTable:
        """The table that predicts this for the uncompressed network."""
        return replace(self, scale=self.scale * baseline_ms / float(self.predict(network, full(network, 1))[0]))

    def _layer(self, network: Network, layer: Layer, index: int, phenotypes: Phenotypes) -> np.ndarray:
        on_integers = (
            (phenotypes.weight_bits[:, index] <= INTEGER_BITS)
            & (phenotypes.activation_bits[:, index] <= INTEGER_BITS)
            & (phenotypes.codebook[:, index] == NAMES.index("symmetric"))
            & (phenotypes.group[:, index] <= 0)
        )
        c_in, c_out = axis_sizes(network, phenotypes, layer)
        result = np.zeros(len(phenotypes))
        for integer in (False, True):
            grids = self.integers if integer and self.integers else self.floats
            for code, method in enumerate(METHODS):
                rows = np.flatnonzero((phenotypes.method[:, index] == code) & (on_integers == integer))
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
        return cls({name: Site(**site) for name, site in raw["sites"].items()}, grids[0], grids[1], raw["scale"])


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
    """Channel numbers at which a grid is measured: an eighth to all of the most that occur."""
    return tuple(sorted({max(1, round(most * share / 8)) for share in (1, 2, 4, 6, 8)}))
