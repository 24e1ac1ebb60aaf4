"""What binds on a target: storage, activation memory, compute or memory bandwidth. Formulas on a network's description alone.

Time is the roofline bound (Williams, Waterman and Patterson 2009) summed over convolutions and linear layers,
sum over layers of max(MACs / macs_per_s, bytes / bandwidth), where bytes are a layer's weights, inputs and outputs, each moved
once in float32; everything between layers counts as fused into them. A real device is slower, never faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.codebooks import FLOAT_BYTES
from search_spaces.costs import live_bytes
from search_spaces.network import Layer, Network
from search_spaces.phenotype import full

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
QUANTITY = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<unit>[kmgt]?i?)(?:b|macs)?(?:/s)?\s*", re.I)


@dataclass(frozen=True)
class Target:
    """A device. flash and ram in bytes, macs_per_s and bandwidth (bytes per second) sustained, deadline in seconds per sample."""

    flash: float | None = None
    ram: float | None = None
    macs_per_s: float | None = None
    bandwidth: float | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Load:
    """What one layer asks for, per sample: weights (count), macs, bytes moved, activation bytes alive while it runs."""

    name: str
    weights: int
    macs: int
    moved: int
    alive: int

    def seconds(self, target: Target) -> tuple[float, float]:
        """Lower bounds by compute and by bandwidth; 0 where the target does not say."""
        compute = self.macs / target.macs_per_s if target.macs_per_s else 0.0
        return compute, self.moved / target.bandwidth if target.bandwidth else 0.0


@dataclass(frozen=True)
class Need:
    """One resource of a target: what the uncompressed network needs and what there is, and which measures lower it."""

    resource: str
    measures: tuple[str, ...]
    needed: float
    available: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        return self.needed / self.available if self.available else None


@dataclass(frozen=True)
class Bottleneck:
    """`binding` is the resource that is used most beyond what there is, or None where the target states no limit."""

    needs: tuple[Need, ...]
    binding: str | None
    compute_share: float | None
    objectives: tuple[str, ...]
    constraints: tuple[tuple[str, float], ...]


def parse_quantity(text: str, name: str) -> float:
    """ "1MB" is 1e6, "256KiB" is 262,144; also "200M" or "4e9"."""
    match = QUANTITY.fullmatch(text)
    unit = match["unit"].lower() if match else "?"
    if match is None or unit not in UNITS or float(match["number"]) <= 0:
        raise ValueError(
            f"--{name} must be a positive quantity such as 1MB, 256KiB, 200M or 4e9, but got {name}={text!r}; correct it"
        )
    return float(match["number"]) * UNITS[unit]


def target_of(limits: Mapping[str, str | None], deadline_ms: float | None) -> Target | None:
    """A target from the command line's texts by option name; None where nothing is said."""
    found = {name.replace("-", "_"): parse_quantity(text, name) for name, text in limits.items() if text is not None}
    if not found and not deadline_ms:
        return None
    if deadline_ms and not {"macs_per_s", "bandwidth"} & set(found):
        raise ValueError(
            f"a deadline must come with --macs-per-s or --bandwidth, but got deadline_ms={deadline_ms:g} alone; add one of them"
        )
    return Target(**found, deadline=deadline_ms / 1e3 if deadline_ms else None)


def loads(network: Network) -> tuple[Load, ...]:
    """The uncompressed network's layers, in their order."""
    alive: dict[str, int] = {}
    for step, held in live_bytes(network, full(network, 1), 0):
        if step.layer:
            alive[step.layer] = max(held, alive.get(step.layer, 0))
    return tuple(_load(layer, alive.get(layer.name, 0)) for layer in network.layers)


def _load(layer: Layer, alive: int) -> Load:
    weights = layer.in_channels // layer.groups * layer.out_channels * layer.kernel_area
    elements = layer.in_channels * layer.in_positions + layer.out_channels * layer.out_positions
    moved = FLOAT_BYTES * (weights * layer.calls + elements)
    return Load(layer.name, weights, weights * layer.out_positions, moved, alive)


def find_bottleneck(layers: tuple[Load, ...], costs: Mapping[str, float], target: Target) -> Bottleneck:
    """`costs` are the uncompressed network's measures: size_bytes, peak_activation_bytes, macs."""
    needs = [
        Need("storage", ("size_bytes",), costs["size_bytes"], target.flash, "B"),
        Need("activation memory", ("peak_activation_bytes",), costs["peak_activation_bytes"], target.ram, "B"),
    ]
    share = None
    if target.macs_per_s or target.bandwidth:
        total = sum(max(load.seconds(target)) for load in layers)
        share = sum(max(load.seconds(target)) for load in layers if _compute_bound(load, target)) / total
        measures = ("macs",) if share >= 0.5 else ("size_bytes",)
        name = "compute" if share >= 0.5 else "bandwidth"
        needs.append(Need(name, measures, total, target.deadline, "s"))
    limited = [need for need in needs if need.ratio is not None]
    worst = max(limited, key=lambda need: need.ratio or 0.0, default=None)
    over = [need for need in limited if (need.ratio or 0.0) > 1.0]
    wanted = sorted(over, key=lambda need: -(need.ratio or 0.0)) or ([worst] if worst else needs[-1:])
    objectives = dict.fromkeys(("top1_error", *(m for need in wanted for m in need.measures)))
    return Bottleneck(
        tuple(needs),
        worst.resource if worst else None,
        share,
        tuple(objectives),
        _constraints(over, target, costs),
    )


def _compute_bound(load: Load, target: Target) -> bool:
    compute, bandwidth = load.seconds(target)
    return compute >= bandwidth


def _constraints(over: list[Need], target: Target, costs: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Limits that every network on the target must meet: necessary, and for time not sufficient."""
    limits: dict[str, float] = {}
    for need in over:
        if need.unit == "B" and need.available:
            limits[need.measures[0]] = min(need.available, limits.get(need.measures[0], need.available))
        elif target.deadline:
            rate = target.macs_per_s if need.resource == "compute" else target.bandwidth
            bound = (rate or 0.0) * target.deadline
            if bound < costs[need.measures[0]]:
                limits[need.measures[0]] = min(bound, limits.get(need.measures[0], bound))
    return tuple(limits.items())
