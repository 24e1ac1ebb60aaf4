"""Figures of a search as files that need no network: interactive HTML (plotly) and PNG (matplotlib)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from evo.front import FrontPoint, format_measure, knee, plan_facts
from evo.views.pages import Section, fragment, page, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "viridis"
BASELINE = {"name": "baseline", "symbol": "star", "colour": "#d62728"}
KNEE = {"name": "knee", "symbol": "circle-open", "colour": "#111111"}
MARK_COLOUR = "#e377c2"
MARK_SYMBOLS, MARK_SHAPES = ("diamond", "cross", "triangle-up", "x"), ("D", "P", "^", "X")  # of plotly, of matplotlib
Marks = Mapping[str, Mapping[str, float]]
NO_MARKS: Marks = {}
HOW_TO_READ = (
    "Every point is a network that no other one beats in all objectives at once. Point at it to see what was done; choose "
    "the pair of objectives and the scale above the figure; click a name to hide it, drag to zoom."
)
HOW_TO_CHOOSE = (
    "Every line is a point of the front. Drag along an axis to keep the lines through it, drag a name to move an axis."
)


def front_html(
    points: Sequence[FrontPoint],
    baseline: Mapping[str, float],
    title: str = "Pareto front",
    marks: Marks = NO_MARKS,
) -> str:
    """A page with plotly.js inside: any pair of objectives by menu, the generation as colour, the plan on hovering; parallel
    coordinates; the front as a table. `marks` are further points to compare with, measures by name."""
    return page(title, front_sections(points, baseline, marks), f"{len(points)} points")


def front_sections(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], marks: Marks = NO_MARKS
) -> tuple[Section, ...]:
    sections = [Section("The front", fragment(front_figure(points, baseline, marks)), HOW_TO_READ)]
    if len(points) > 1:
        sections.append(Section("Parallel coordinates", fragment(parallel_figure(points)), HOW_TO_CHOOSE))
    columns, rows = front_rows(points, baseline)
    best = knee(points).candidate_id if points else ""
    return (*sections, Section("Table", table(columns, rows, [i for i, row in enumerate(rows) if row[0] == best])))


def front_rows(points: Sequence[FrontPoint], baseline: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of text, sorted by the first objective."""
    names = list(points[0].objectives) if points else list(baseline)
    original = [format_measure(name, baseline.get(name, math.nan)) for name in names]
    rows = [["baseline", *original, "-", "uncompressed"]] if baseline else []
    for point in sorted(points, key=lambda p: tuple(p.objectives.values())):
        values = [format_measure(name, point.value(name), baseline.get(name)) for name in names]
        rows.append([point.candidate_id, *values, str(point.generation), point.summary])
    return ["candidate", *names, "generation", "plan"], rows


def front_figure(points: Sequence[FrontPoint], baseline: Mapping[str, float], marks: Marks = NO_MARKS) -> Any:
    import plotly.graph_objects as go

    pairs = objective_pairs(points, baseline)
    traces = _front_traces(points, baseline, pairs[0], marks)
    figure = go.Figure(data=[go.Scatter(trace) for trace in traces])
    figure.update_layout(
        template="plotly_white",
        height=620,
        hovermode="closest",
        xaxis={"title": {"text": pairs[0][0]}},
        yaxis={"title": {"text": pairs[0][1]}},
        legend={"orientation": "h", "x": 0, "y": -0.14},
        margin={"t": 60, "r": 40},
        updatemenus=[_pair_menu(points, baseline, pairs, marks), _scale_menu()],
    )
    for pair, axis in zip(pairs[0], ("xaxis", "yaxis"), strict=True):
        figure.layout[axis].tickformat = _tick_format(pair)
    return figure


def parallel_figure(points: Sequence[FrontPoint]) -> Any:
    """Objectives and what the plans do, one axis each; drag along an axis to choose."""
    import plotly.graph_objects as go

    columns = {name: _coordinates(points, name) for name in points[0].objectives}
    for fact in plan_facts(points[0].plan):
        columns[fact.replace("_", " ")] = [plan_facts(point.plan)[fact] for point in points]
    moving = {name: values for name, values in columns.items() if min(values) < max(values)}
    generations = [p.generation for p in points]
    line = {"color": generations, "colorscale": COLOURS, "showscale": True, "colorbar": _bar(generations)}
    dimensions = [{"label": name, "values": values} for name, values in moving.items()]
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions))
    figure.update_layout(template="plotly_white", height=420, margin={"t": 60, "l": 70, "r": 40, "b": 30})
    return figure


def _bar(generations: Sequence[int]) -> dict[str, Any]:
    """A colour bar with whole generations on it."""
    spread = max(generations, default=0) - min(generations, default=0)
    return {"title": {"text": "generation"}, "thickness": 12, "tick0": 0, "dtick": max(1, math.ceil(spread / 8))}


def front_png(
    points: Sequence[FrontPoint],
    baseline: Mapping[str, float],
    path: str | IO[bytes],
    title: str = "Pareto front",
    marks: Marks = NO_MARKS,
) -> None:
    """A panel for every pair of objectives, written to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = objective_pairs(points, baseline)
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title} ({len(points)} points)")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, pair in zip(axes, pairs, strict=False):
        _draw_pair(ax, points, baseline, pair, marks)
    for ax in axes[len(pairs) :]:
        ax.remove()
    axes[0].legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=150, format="png")


def history_png(evaluations: Sequence[float], hypervolume: Sequence[float], path: str) -> None:
    """Hypervolume over the number of evaluations, written to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.step(evaluations, hypervolume, where="post", color="#3b528b")
    ax.set(xlabel="evaluations", ylabel="hypervolume", title="Search history")
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def front_parquet(points: Sequence[FrontPoint], path: str) -> None:
    """A row per point: identity, columns `objective.<measure>` and `measure.<measure>`, plan as JSON and as summary."""
    pq.write_table(pa.Table.from_pylist([_row(point) for point in points]), path)


def _row(point: FrontPoint) -> dict[str, Any]:
    return {
        "candidate_id": point.candidate_id,
        "generation": point.generation,
        "step": point.step,
        **{f"objective.{name}": float(value) for name, value in point.objectives.items()},
        **{f"measure.{name}": float(value) for name, value in point.measures.items()},
        "plan": point.plan.to_json(),
        "summary": point.summary,
    }


def objective_pairs(points: Sequence[FrontPoint], baseline: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every (x, y) pair: the first objective, usually the error, is the y axis of the first pairs."""
    names = list(points[0].objectives) if points else list(baseline)
    if not names:
        raise ValueError("a front figure must have an objective, but got no point and no baseline; search first")
    if len(names) == 1:
        return [("generation", names[0])]
    return [(x, y) for y, x in itertools.combinations(names, 2)]


def _coordinate(point: FrontPoint, name: str) -> float:
    return float(point.generation) if name == "generation" else point.value(name)


def _coordinates(points: Sequence[FrontPoint], name: str) -> list[float]:
    return [_coordinate(point, name) for point in points]


def _marked(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    return [knee(points)] if points else []


def _baseline_at(baseline: Mapping[str, float], name: str) -> list[float]:
    value = 0.0 if name == "generation" else baseline.get(name)
    return [] if value is None else [value]


def _front_traces(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str], marks: Marks
) -> list[dict[str, Any]]:
    xs, ys = _pair_data(points, baseline, pair, marks)
    generations = [p.generation for p in points]
    markers: list[dict[str, Any]] = [
        {"size": 11, "color": generations, "colorscale": COLOURS, "showscale": True, "colorbar": _bar(generations)},
        {"size": 20, "symbol": KNEE["symbol"], "color": KNEE["colour"], "line": {"width": 2}},
        {"size": 16, "symbol": BASELINE["symbol"], "color": BASELINE["colour"]},
        *({"size": 13, "symbol": MARK_SYMBOLS[i % len(MARK_SYMBOLS)], "color": MARK_COLOUR} for i in range(len(marks))),
    ]
    texts: list[list[str]] = [
        [_hover(p, baseline) for p in points],
        [_hover(p, baseline) for p in _marked(points)],
        [_hover_values("uncompressed", baseline, baseline, pair)],
        *([_hover_values(name, values, baseline, list(values))] for name, values in marks.items()),
    ]
    names = ("candidates", KNEE["name"], BASELINE["name"], *marks)
    return [
        {"x": x, "y": y, "mode": "markers", "name": name, "marker": marker, "hovertext": text, "hoverinfo": "text"}
        for x, y, name, marker, text in zip(xs, ys, names, markers, texts, strict=True)
    ]


def _pair_data(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str], marks: Marks = NO_MARKS
) -> tuple[list[list[float]], list[list[float]]]:
    """x and y of the traces: candidates, knee, baseline, then each mark; empty where a mark lacks either measure."""
    x, y = (
        [_coordinates(points, name), _coordinates(_marked(points), name), _baseline_at(baseline, name)] for name in pair
    )
    for values in marks.values():
        known = all(name in values for name in pair)
        x.append([values[pair[0]]] if known else [])
        y.append([values[pair[1]]] if known else [])
    return x, y


def _hover_values(title: str, values: Mapping[str, float], baseline: Mapping[str, float], names: Sequence[str]) -> str:
    known = [f"{name} {format_measure(name, values[name], baseline.get(name))}" for name in names if name in values]
    return "<br>".join([f"<b>{title}</b>", *known])


def _tick_format(name: str) -> str:
    return ".0%" if name.endswith(("error", "accuracy")) else "~s"


def _hover(point: FrontPoint, baseline: Mapping[str, float]) -> str:
    lines = [f"{name} {format_measure(name, point.value(name), baseline.get(name))}" for name in point.objectives]
    head = f"<b>{point.candidate_id}</b> (generation {point.generation}, {point.step})"
    return "<br>".join([head, *lines, *_wrapped(point.summary)])


def _wrapped(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _pair_menu(
    points: Sequence[FrontPoint],
    baseline: Mapping[str, float],
    pairs: Sequence[tuple[str, str]],
    marks: Marks,
) -> dict[str, Any]:
    buttons = []
    for pair in pairs:
        xs, ys = _pair_data(points, baseline, pair, marks)
        titles = {"xaxis.title.text": pair[0], "yaxis.title.text": pair[1]}
        ticks = {"xaxis.tickformat": _tick_format(pair[0]), "yaxis.tickformat": _tick_format(pair[1])}
        axes = titles | ticks | {"xaxis.autorange": True, "yaxis.autorange": True}
        buttons.append({"label": f"{pair[1]} over {pair[0]}", "method": "update", "args": [{"x": xs, "y": ys}, axes]})
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}


def _scale_menu() -> dict[str, Any]:
    buttons = [
        {"label": f"{scale} x axis", "method": "relayout", "args": [{"xaxis.type": scale, "xaxis.autorange": True}]}
        for scale in ("linear", "log")
    ]
    return {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "showactive": True}


def _draw_pair(
    ax: Axes, points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str], marks: Marks
) -> None:
    (x, knee_x, base_x, *_), (y, knee_y, base_y, *_) = _pair_data(points, baseline, pair)
    shown = ax.scatter(x, y, c=[p.generation for p in points], cmap=COLOURS, s=26, label="candidates")
    ax.scatter(knee_x, knee_y, s=130, facecolors="none", edgecolors=KNEE["colour"], label=KNEE["name"])
    if base_x and base_y:
        ax.scatter(base_x, base_y, marker="*", s=130, color=BASELINE["colour"], label=BASELINE["name"])
    for number, (name, values) in enumerate(marks.items()):
        if all(measure in values for measure in pair):
            shape = MARK_SHAPES[number % len(MARK_SHAPES)]
            ax.scatter([values[pair[0]]], [values[pair[1]]], marker=shape, s=70, color=MARK_COLOUR, label=name)
    ax.set(xlabel=pair[0], ylabel=pair[1])
    ax.grid(alpha=0.3)
    ax.figure.colorbar(shown, ax=ax, label="generation")
