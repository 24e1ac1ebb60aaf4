"""Points of the Pareto front: what is shown, stored as JSON and picked from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evo import pareto
from search_spaces.cells import NONE
from search_spaces.plan import FLOAT_BITS, CompressionPlan

if TYPE_CHECKING:
    from rich.table import Table

# A limit of at most 1 on a measure that large can only be meant as a fraction of the uncompressed network's value.
RELATIVE_ABOVE = 10.0
# What a cost promises, what the table of layer times predicts, and what was measured.
SPEEDS = {"macs x": "macs", "predicted x": "predicted_latency_ms", "latency x": "latency_ms"}
LIMIT = re.compile(r"\s*(?P<measure>\w+)\s*(?P<relation><=|>=)\s*(?P<bound>[-+.\deE]+?)(?P<relative>x?)\s*")


@dataclass(frozen=True)
class FrontPoint:
    """A candidate of the Pareto front: `objectives` are minimised values, `measures` natural ones, both by measure."""

    candidate_id: str
    generation: int
    step: str
    objectives: Mapping[str, float]
    measures: Mapping[str, float]
    plan: CompressionPlan
    summary: str

    def value(self, measure: str) -> float:
        return self.measures.get(measure, self.objectives.get(measure, math.nan))

    def to_json(self) -> dict[str, Any]:
        """An object for `json.dumps`; a measure that is not finite becomes null, which JSON can hold."""
        return {
            "candidate_id": self.candidate_id,
            "generation": self.generation,
            "step": self.step,
            "objectives": _finite(self.objectives),
            "measures": _finite(self.measures),
            "plan": json.loads(self.plan.to_json()),
            "summary": self.summary,
        }


@dataclass(frozen=True)
class Limit:
    measure: str
    relation: str
    bound: float

    def excess(self, value: float) -> float:
        """How far outside the limit, relative to it: 0 within, inf for an unknown value."""
        gap = value - self.bound if self.relation == "<=" else self.bound - value
        return math.inf if math.isnan(gap) else max(0.0, gap) / max(abs(self.bound), 1e-12)

    def __str__(self) -> str:
        return f"{self.measure}{self.relation}{self.bound:.4g}"


def plan_summary(plan: CompressionPlan) -> str:
    """One line for people, such as "9 groups narrowed, weights 3-8 bits (mean 4.6), 1 block skipped"."""
    parts = (
        _count(len(plan.widths) + len(plan.masks), "group", "narrowed"),
        _bits("weights", [b.weight for b in plan.bits]),
        _bits("activations", [b.activation for b in plan.bits]),
        _count(len(plan.factors), "layer", "factorised"),
        _count(len(plan.sparse), "layer", "masked"),
        _count(len(plan.skips), "block", "skipped"),
        _operations([edge.operation for edge in plan.edges]),
    )
    return ", ".join(part for part in parts if part) or "unchanged"


def plan_facts(plan: CompressionPlan) -> dict[str, float]:
    """What a plan does, in numbers."""
    weights, activations = ([b.weight for b in plan.bits], [b.activation for b in plan.bits])
    return {
        "groups_narrowed": len(plan.widths) + len(plan.masks),
        "blocks_skipped": len(plan.skips),
        "layers_factorised": len(plan.factors),
        "layers_masked": len(plan.sparse),
        "layers_quantised": sum(b < FLOAT_BITS for b in weights),
        "mean_weight_bits": float(np.mean(weights)) if weights else FLOAT_BITS,
        "mean_activation_bits": float(np.mean(activations)) if activations else FLOAT_BITS,
    }


def knee(points: Sequence[FrontPoint]) -> FrontPoint:
    """The point closest to the ideal one, each objective scaled to 0..1 over the front."""
    _require_points(points)
    return points[pareto.knee(np.array([list(point.objectives.values()) for point in points], dtype=float))]


def pick(points: Sequence[FrontPoint], spec: str, baseline: Mapping[str, float]) -> FrontPoint:
    """The point that `spec` names: a candidate id, "knee", or limits such as "macs<=0.5,top1_error<=0.09".

    A limit of at most 1 on a measure whose `baseline` (the uncompressed network's value) exceeds 10 is a fraction of
    that value; a trailing x ("latency_ms<=0.5x") says so for any measure; every other limit is in the measure's own
    unit. Within the limits the best is taken in the first objective that no limit names, else in the first objective.
    """
    _require_points(points)
    named = next((point for point in points if point.candidate_id == spec), None)
    if named is not None:
        return named
    if spec.strip() == "knee":
        return knee(points)
    return _within(points, [_limit(text, points, baseline) for text in spec.split(",")])


def within_reference(points: Sequence[FrontPoint], reference: Mapping[str, float]) -> tuple[FrontPoint, ...]:
    """The points that are nowhere worse than the reference (minimised values by measure), where it names a bound."""
    return tuple(p for p in points if all(p.objectives[name] <= bound for name, bound in reference.items()))


def spread(points: Sequence[FrontPoint], most: int) -> tuple[FrontPoint, ...]:
    """At most so many of the points: the knee, and others at even steps along the first objective, both ends included."""
    ordered = sorted(points, key=lambda p: tuple(p.objectives.values()))
    if len(ordered) <= most:
        return tuple(ordered)
    chosen = {ordered.index(knee(ordered))}
    chosen.update(np.linspace(0, len(ordered) - 1, most - 1).round().astype(int).tolist())
    return tuple(ordered[i] for i in sorted(chosen))


def front_table(points: Sequence[FrontPoint], baseline: Mapping[str, float], title: str = "Pareto front") -> Table:
    """A table of the front, sorted by the first objective; measures with a large baseline also relative to it."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    names = list(points[0].objectives) if points else list(baseline)
    table.add_column("candidate", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    speeds = speed_columns(baseline)
    for name in speeds:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("plan", overflow="fold")
    uncompressed = [*(format_measure(name, baseline.get(name, math.nan)) for name in names), *("1" for _ in speeds)]
    table.add_row("baseline", *uncompressed, "uncompressed")
    for point in sorted(points, key=lambda p: tuple(p.objectives.values())):
        cells = [format_measure(name, point.value(name), baseline.get(name)) for name in names]
        table.add_row(point.candidate_id, *cells, *speed_cells(point.measures, baseline), point.summary)
    return table


def speed_columns(baseline: Mapping[str, float]) -> Mapping[str, str]:
    """SPEEDS where a search measured latency, else nothing."""
    return SPEEDS if set(SPEEDS.values()) <= set(baseline) else {}


def speed_cells(measures: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """These columns of a row, each relative to the uncompressed network."""
    shares = [measures.get(name, math.nan) / baseline[name] for name in speed_columns(baseline).values()]
    return ["-" if math.isnan(share) else f"{share:.2f}" for share in shares]


def format_measure(name: str, value: float, baseline: float | None = None) -> str:
    """Rates as percentages, costs with a metric prefix and, where the baseline is known, as a multiple of it."""
    if math.isnan(value):
        return "-"
    if name.endswith(("error", "accuracy")):
        return f"{100 * value:.2f} %"
    relative = f" ({value / baseline:.2f}x)" if baseline and abs(baseline) > RELATIVE_ABOVE else ""
    return _metric(value) + relative


def _require_points(points: Sequence[FrontPoint]) -> None:
    if not points:
        raise ValueError("the front must hold a point, but it is empty; search longer or relax the constraints")


def _metric(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.4g}"


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _count(number: int, noun: str, done: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''} {done}" if number else ""


def _operations(names: Sequence[str]) -> str:
    counts = {name: names.count(name) for name in sorted(set(names)) if name != NONE}
    return "cells of " + ", ".join(f"{number} {name}" for name, number in counts.items()) if names else ""


def _bits(what: str, bits: Sequence[int]) -> str:
    quantised = [b for b in bits if b < FLOAT_BITS]
    if not quantised:
        return ""
    low, high = min(quantised), max(quantised)
    return f"{what} {low} bits" if low == high else f"{what} {low}-{high} bits (mean {np.mean(quantised):.1f})"


def _limit(text: str, points: Sequence[FrontPoint], baseline: Mapping[str, float]) -> Limit:
    match = LIMIT.fullmatch(text)
    if match is None:
        known = ", ".join(point.candidate_id for point in points[:5])
        raise ValueError(
            f"a pick must be a candidate id, knee, or limits such as macs<=0.5,top1_error<=0.09, but got {text!r}; "
            f"ids of this front are {known}{', ...' if len(points) > 5 else ''}"
        )
    measure, bound = match["measure"], _number(match["bound"], text)
    measures = sorted({name for point in points for name in (*point.measures, *point.objectives)})
    if measure not in measures:
        raise ValueError(f"a limit must name a measure, but got {measure!r}; the front has {', '.join(measures)}")
    full = baseline.get(measure, math.nan)
    if match["relative"] and math.isnan(full):
        raise ValueError(
            f"a relative limit must have a baseline, but {measure} has none; give the limit in the measure's own unit"
        )
    relative = bool(match["relative"]) or (bound <= 1 and full > RELATIVE_ABOVE)
    return Limit(measure, match["relation"], bound * full if relative else bound)


def _number(text: str, limit: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"a limit must end in a number, but got {limit!r}; write for example macs<=0.5") from None


def _within(points: Sequence[FrontPoint], limits: Sequence[Limit]) -> FrontPoint:
    nearest = min(points, key=lambda p: _excess(p, limits))
    if _excess(nearest, limits) > 0:
        wanted = " and ".join(map(str, limits))
        reached = ", ".join(f"{limit.measure}={nearest.value(limit.measure):.4g}" for limit in limits)
        raise ValueError(
            f"a point within {wanted} must exist, but the nearest is {nearest.candidate_id} with {reached}; "
            "relax the limits or search longer"
        )
    names = list(nearest.objectives)
    free = next((name for name in names if name not in {limit.measure for limit in limits}), names[0])
    return min(
        (p for p in points if _excess(p, limits) == 0),
        key=lambda p: (p.objectives[free], *p.objectives.values(), p.candidate_id),
    )


def _excess(point: FrontPoint, limits: Sequence[Limit]) -> float:
    return sum(limit.excess(point.value(limit.measure)) for limit in limits)
