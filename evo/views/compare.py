"""Compare finished or running searches on common ground: one reference point, coverage, attainment, over evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import moocore
import numpy as np

from evo.archive import dominated_share, pareto_front
from evo.candidates import STEP2
from evo.front import FrontPoint
from evo.problem import Problem
from evo.result import Result, load
from evo.views.figures import objective_pairs
from evo.views.reporting import front_points

CURVE_POINTS = 60
LEVELS = {"best": 1, "median": 50, "worst": 100}  # percentages of the runs that attain a surface


@dataclass(frozen=True)
class RunFigures:
    """One search, its hypervolume as a share of the box between zero and the common reference point."""

    name: str
    run_dir: str
    hypervolume: float
    evaluations: int
    seconds: float
    front: tuple[FrontPoint, ...]
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Comparison:
    """`coverage[i][j]` is the share of front j that front i weakly dominates (Zitzler and Thiele 1999); `attainment` by pair
    of objectives the points that the best, half and all of the runs attain (Fonseca et al. 2011), None for a single run."""

    measures: tuple[str, ...]
    reference: Mapping[str, float]
    baseline: Mapping[str, float]
    runs: tuple[RunFigures, ...]
    coverage: tuple[tuple[float, ...], ...]
    attainment: Mapping[str, Mapping[str, list[tuple[float, float]]]]

    def to_json(self) -> dict[str, Any]:
        runs = []
        for run in self.runs:
            values = asdict(replace(run, front=()))
            del values["front"]
            runs.append({**values, "front": [dict(point.objectives) for point in run.front]})
        return {
            "reference": dict(self.reference),
            "runs": runs,
            "coverage": self.coverage,
            "attainment": self.attainment,
        }


def compare(run_dirs: Sequence[str], reference: Mapping[str, float] | None = None) -> Comparison:
    """Raises ValueError where there are fewer than two runs, where they have other objectives, or a front is empty."""
    if len(run_dirs) < 2:
        raise ValueError(
            f"a comparison must have two runs or more, but got {len(run_dirs)}; name another run directory"
        )
    results = [load(run_dir) for run_dir in run_dirs]
    for result in results[1:]:
        _require_same_objectives(results[0], result)
    problem = replace(results[0].problem, reference=_reference(results, reference))
    measures = tuple(o.measure for o in problem.objectives)
    names = _names(results)
    runs = tuple(
        _figures(result, replace(problem, space=result.problem.space), name)
        for result, name in zip(results, names, strict=True)
    )
    values = [_values(run.front) for run in runs]
    return Comparison(
        measures,
        dict(zip(measures, problem.reference, strict=True)),
        results[0].baseline,
        runs,
        tuple(tuple(_coverage(a, b) for b in values) for a in values),
        {f"{y} over {x}": _attainment(runs, x, y) for x, y in objective_pairs(runs[0].front, results[0].baseline)},
    )


def parse_reference(text: str) -> dict[str, float]:
    """ "top1_error=0.3,macs=4e7" by measure."""
    try:
        return {key.strip(): float(value) for key, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError as error:
        raise ValueError(
            f"--reference must look like top1_error=0.3,macs=4e7, but got reference={text!r}; correct it"
        ) from error


def _require_same_objectives(first: Result, other: Result) -> None:
    mine, theirs = ([f"{o.direction} {o.measure}" for o in r.problem.objectives] for r in (first, other))
    if mine != theirs:
        raise ValueError(
            f"compared searches must have the same objectives, but got {', '.join(mine)} in {first.run_dir} "
            f"and {', '.join(theirs)} in {other.run_dir}; compare searches for the same objectives"
        )


def _reference(results: Sequence[Result], wanted: Mapping[str, float] | None) -> tuple[float, ...]:
    """The given bound, in minimised values; else the widest of the runs' own."""
    objectives = results[0].problem.objectives
    if wanted is None:
        return tuple(np.array([result.problem.reference for result in results]).max(axis=0).tolist())
    names = [o.measure for o in objectives]
    if sorted(wanted) != sorted(names):
        raise ValueError(
            f"--reference must bound every objective once, but got {', '.join(wanted)} for {', '.join(names)}; correct it"
        )
    return tuple(o.sign * wanted[o.measure] for o in objectives)


def _names(results: Sequence[Result]) -> list[str]:
    """The shortest ends of the run directories that tell them apart."""
    parts = [result.run_dir.rstrip("/").split("/") for result in results]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part)} ({number})" for number, part in enumerate(parts, 1)]


def _figures(result: Result, problem: Problem, name: str) -> RunFigures:
    measured = [e for e in result.evaluations if e.candidate.step == STEP2]
    front = pareto_front(problem, measured, STEP2)
    if not front:
        raise ValueError(
            f"a compared search must have a front, but got none in {result.run_dir}; wait for its first measured networks"
        )
    counts = sorted({len(measured) * i // CURVE_POINTS for i in range(1, CURVE_POINTS + 1)} - {0})
    curve = tuple((n, dominated_share(problem, pareto_front(problem, measured[:n], STEP2))) for n in counts)
    seconds = sum(e.seconds for e in result.evaluations)
    return RunFigures(
        name,
        result.run_dir,
        dominated_share(problem, front),
        len(measured),
        seconds,
        front_points(problem, front),
        curve,
    )


def _values(points: Sequence[FrontPoint]) -> np.ndarray:
    return np.array([list(point.objectives.values()) for point in points], dtype=float)


def _coverage(a: np.ndarray, b: np.ndarray) -> float:
    """The share of rows of b that some row of a weakly dominates."""
    return float((a[:, None, :] <= b[None, :, :]).all(axis=2).any(axis=0).mean())


def _attainment(runs: Sequence[RunFigures], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """By level the corner points of the attainment surface of two objectives, in natural values, by x."""
    if "generation" in (x, y):
        return {}
    points = np.array([[p.objectives[x], p.objectives[y]] for run in runs for p in run.front])
    signs = np.sign([[_sign(runs, x), _sign(runs, y)]])
    sets = np.repeat(np.arange(1, len(runs) + 1), [len(run.front) for run in runs])
    percent = sorted({max(100.0 / len(runs), float(level)) for level in LEVELS.values()})
    found = moocore.eaf(points, sets, percentiles=percent)
    surfaces = {}
    for name, level in LEVELS.items():
        rows = found[np.isclose(found[:, 2], max(100.0 / len(runs), float(level)))][:, :2] * signs
        surfaces[name] = [(float(a), float(b)) for a, b in rows[np.argsort(rows[:, 0])]]
    return surfaces


def _sign(runs: Sequence[RunFigures], measure: str) -> float:
    """-1 where the objective is a maximised measure."""
    point = runs[0].front[0]
    return -1.0 if point.objectives[measure] != point.measures.get(measure, point.objectives[measure]) else 1.0
