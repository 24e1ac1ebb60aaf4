"""Several members of a front under one name, as the code of CARS (Yang et al. 2020) takes its final networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from evo.front import FrontPoint, pick
from evo.randomness import stream
from evo.selection.survival import nsga3_survival

SEVERAL = re.compile(r"\s*(?P<kind>uniform|pareto):(?P<count>[1-9]\d*)\s*")


def picked(points: Sequence[FrontPoint], spec: str, baseline: Mapping[str, float]) -> tuple[FrontPoint, ...]:
    """The points that `spec` names: "uniform:4" or "pareto:4" for at most four, else the one of `evo.front.pick`. Raises
    ValueError where there is none."""
    several = SEVERAL.fullmatch(spec)
    if several is None:
        return (pick(points, spec, baseline),)
    choose = uniform if several["kind"] == "uniform" else pareto
    found = choose(points, int(several["count"]))
    if not found:
        raise ValueError(f"a pick must find a point, but got {spec} on a front of {len(points)}; search longer")
    return found


def uniform(points: Sequence[FrontPoint], count: int) -> tuple[FrontPoint, ...]:
    """Of the points in the better half of the range of the first objective, the best in each of `count` equal parts of their
    range of the second, a cost: cheapest first, none for an empty part."""
    values = _values(points)
    good = np.flatnonzero(_scaled(values[:, 0]) < 0.5) if len(points) > 1 else np.arange(len(points))
    if not good.size:
        return ()
    parts = np.minimum((_scaled(values[good, 1]) * count).astype(int), count - 1)
    chosen = (min(good[parts == part], key=lambda i: tuple(values[i])) for part in np.unique(parts))
    return tuple(points[int(i)] for i in chosen)


def pareto(points: Sequence[FrontPoint], count: int) -> tuple[FrontPoint, ...]:
    """Those that NSGA-III keeps, by niches around as many reference points."""
    values = _values(points)
    kept = nsga3_survival(values, np.zeros(len(points)), count, stream(0, "final picks")) if len(points) else ()
    return tuple(points[int(i)] for i in kept)


def _values(points: Sequence[FrontPoint]) -> np.ndarray:
    """Objectives, (N, M). Raises ValueError for fewer than two of them."""
    values = np.array([list(point.objectives.values()) for point in points], dtype=float)
    if len(points) and values.shape[1] < 2:
        raise ValueError(
            f"several picks spread over an error and a cost, but got objectives={list(points[0].objectives)}; name one point"
        )
    return values.reshape(len(points), -1)


def _scaled(values: np.ndarray) -> np.ndarray:
    """To 0..1; all 0 where there is no range."""
    width = np.ptp(values)
    return (values - values.min()) / width if width > 0 else np.zeros_like(values)
