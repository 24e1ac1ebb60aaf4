"""Plots made of characters: a front as a scatter of dots, a curve as a sparkline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from evo.front import FrontPoint, format_measure, knee
from evo.views.figures import objective_pairs

BLOCKS = "▁▂▃▄▅▆▇█"
DOT = "•"
WIDTH, HEIGHT = 60, 14


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as blocks of rising height, at most `width` of them; their least is the lowest block."""
    if not values:
        return ""
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    chosen = np.array(values, dtype=float)[at]
    low, high = float(chosen.min()), float(chosen.max())
    scaled = (chosen - low) / (high - low) if high > low else np.ones(len(chosen))
    return "".join(BLOCKS[round(float(v) * (len(BLOCKS) - 1))] for v in scaled)


def history_line(history: Sequence[tuple[int, float]]) -> str:
    """Hypervolume over the evaluations in one line."""
    known = [(n, value) for n, value in history if math.isfinite(value)]
    if not known:
        return "hypervolume: none yet"
    line = sparkline([value for _, value in known])
    return f"hypervolume {line} {known[-1][1]:.4f} after {known[-1][0]} evaluations"


def front_plot(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], marks: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """The first pair of objectives as dots; K is the knee, B the uncompressed network, 1, 2 ... are marks."""
    if not points:
        return "no point yet"
    x_name, y_name = objective_pairs(points, baseline)[0]
    letters = {"B": baseline, "K": knee(points).measures}
    letters |= {str(number): values for number, values in enumerate((marks or {}).values(), 1)}
    placed = {
        letter: (values[x_name], values[y_name])
        for letter, values in letters.items()
        if x_name in values and y_name in values
    }
    dots = np.array([_place(p, x_name, y_name) for p in points])
    rows = _canvas(dots, placed)
    names = [f"{number}: {name}" for number, name in enumerate(marks or {}, 1)]
    everything = np.vstack([dots, *(np.array([at]) for at in placed.values())])
    (left, bottom), (right, top) = everything.min(axis=0), everything.max(axis=0)
    legend = ", ".join(["K: knee", *(["B: baseline"] if "B" in placed else []), *names])
    first, last = format_measure(x_name, left), format_measure(x_name, right)
    return "\n".join(
        [
            f"{y_name} up to {format_measure(y_name, top)}   ({legend})",
            *(f" │{row}" for row in rows),
            f" └{'─' * WIDTH}",
            f"  {first}{f'{x_name}'.center(WIDTH - len(first) - len(last))}{last}   from {format_measure(y_name, bottom)}",
        ]
    )


def _place(point: FrontPoint, x_name: str, y_name: str) -> tuple[float, float]:
    x = float(point.generation) if x_name == "generation" else point.value(x_name)
    return x, point.value(y_name)


def _canvas(dots: np.ndarray, letters: Mapping[str, tuple[float, float]]) -> list[str]:
    """Rows of characters: dots (N, 2), and letters over them."""
    everything = np.vstack([dots, *(np.array([at]) for at in letters.values())])
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for sign, at in [*((DOT, tuple(dot)) for dot in dots), *letters.items()]:
        x, y = (np.array(at) - low) / span
        rows[round((1 - float(y)) * (HEIGHT - 1))][round(float(x) * (WIDTH - 1))] = sign
    return ["".join(row).rstrip() for row in rows]
