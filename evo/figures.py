"""Figures of a search as files that need no network: interactive HTML (plotly) and PNG (matplotlib)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from evo.front import FrontPoint, format_measure, knee

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "viridis"
BASELINE = {"name": "baseline", "symbol": "star", "colour": "#d62728"}
KNEE = {"name": "knee", "symbol": "circle-open", "colour": "#111111"}


def front_html(points: Sequence[FrontPoint], baseline: Mapping[str, float], title: str = "Pareto front") -> str:
    """A page with plotly.js inside: any pair of objectives by menu, the generation as colour, the plan on hovering."""
    import plotly.graph_objects as go

    pairs = objective_pairs(points, baseline)
    traces = _front_traces(points, baseline, pairs[0])
    figure = go.Figure(data=[go.Scatter(trace) for trace in traces])
    figure.update_layout(
        template="plotly_white",
        title={"text": f"{title} ({len(points)} points)", "x": 0.02},
        hovermode="closest",
        xaxis={"title": {"text": pairs[0][0]}},
        yaxis={"title": {"text": pairs[0][1]}},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        margin={"t": 110, "r": 40},
        updatemenus=[_pair_menu(points, baseline, pairs), _scale_menu()],
    )
    return str(figure.to_html(include_plotlyjs=True, default_height="94vh", config={"displaylogo": False}))


def front_png(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], path: str, title: str = "Pareto front"
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
        _draw_pair(ax, points, baseline, pair)
    for ax in axes[len(pairs) :]:
        ax.remove()
    axes[0].legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=150)


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
    points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str]
) -> list[dict[str, Any]]:
    xs, ys = _pair_data(points, baseline, pair)
    bar = {"title": {"text": "generation"}, "thickness": 12}
    generations = [p.generation for p in points]
    markers = (
        {"size": 11, "color": generations, "colorscale": COLOURS, "showscale": True, "colorbar": bar},
        {"size": 20, "symbol": KNEE["symbol"], "color": KNEE["colour"], "line": {"width": 2}},
        {"size": 16, "symbol": BASELINE["symbol"], "color": BASELINE["colour"]},
    )
    texts = ([_hover(p, baseline) for p in points], [_hover(p, baseline) for p in _marked(points)], ["uncompressed"])
    names = ("candidates", KNEE["name"], BASELINE["name"])
    return [
        {"x": x, "y": y, "mode": "markers", "name": name, "marker": marker, "hovertext": text, "hoverinfo": "text"}
        for x, y, name, marker, text in zip(xs, ys, names, markers, texts, strict=True)
    ]


def _pair_data(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str]
) -> tuple[list[list[float]], list[list[float]]]:
    """x and y of the three traces: candidates, knee, baseline."""
    x, y = (
        [_coordinates(points, name), _coordinates(_marked(points), name), _baseline_at(baseline, name)] for name in pair
    )
    return x, y


def _hover(point: FrontPoint, baseline: Mapping[str, float]) -> str:
    lines = [f"{name} {format_measure(name, point.value(name), baseline.get(name))}" for name in point.objectives]
    head = f"<b>{point.candidate_id}</b> (generation {point.generation}, {point.step})"
    return "<br>".join([head, *lines, *_wrapped(point.summary)])


def _wrapped(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _pair_menu(
    points: Sequence[FrontPoint], baseline: Mapping[str, float], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    buttons = []
    for pair in pairs:
        xs, ys = _pair_data(points, baseline, pair)
        titles = {"xaxis.title.text": pair[0], "yaxis.title.text": pair[1]}
        axes = titles | {"xaxis.autorange": True, "yaxis.autorange": True}
        buttons.append({"label": f"{pair[1]} over {pair[0]}", "method": "update", "args": [{"x": xs, "y": ys}, axes]})
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}


def _scale_menu() -> dict[str, Any]:
    buttons = [
        {"label": f"{scale} x axis", "method": "relayout", "args": [{"xaxis.type": scale, "xaxis.autorange": True}]}
        for scale in ("linear", "log")
    ]
    return {"buttons": buttons, "x": 0.28, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}


def _draw_pair(ax: Axes, points: Sequence[FrontPoint], baseline: Mapping[str, float], pair: tuple[str, str]) -> None:
    (x, knee_x, base_x), (y, knee_y, base_y) = _pair_data(points, baseline, pair)
    shown = ax.scatter(x, y, c=[p.generation for p in points], cmap=COLOURS, s=26, label="candidates")
    ax.scatter(knee_x, knee_y, s=130, facecolors="none", edgecolors=KNEE["colour"], label=KNEE["name"])
    if base_x and base_y:
        ax.scatter(base_x, base_y, marker="*", s=130, color=BASELINE["colour"], label=BASELINE["name"])
    ax.set(xlabel=pair[0], ylabel=pair[1])
    ax.grid(alpha=0.3)
    ax.figure.colorbar(shown, ax=ax, label="generation")
