"""Figures of a comparison: the fronts of every pair of objectives with attainment surfaces, hypervolume over evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evo.front import format_measure
from evo.views.compare import Comparison, RunFigures
from evo.views.pages import Section, fragment, page, table

COLOURS = ("#3b528b", "#e45756", "#54a24b", "#f2a93b", "#b279a2", "#4c9a9a", "#9d755d", "#79706e")
SURFACE = "#b0b7c3"


def write_comparison(found: Comparison, file: Path) -> None:
    """FILE.html, interactive and self-contained, or FILE.png."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        file.write_text(comparison_html(found), encoding="utf-8")
    else:
        comparison_png(found, str(file))


def comparison_html(found: Comparison) -> str:
    bounds = ", ".join(f"{name} {format_measure(name, abs(value))}" for name, value in found.reference.items())
    sections = (
        Section("Searches", _runs_table(found), f"Hypervolume up to the common reference point {bounds}."),
        Section(
            "Fronts",
            fragment(fronts_figure(found)),
            "Steps: what the best, half and all of the searches attain in this pair of objectives.",
        ),
        Section(
            "Hypervolume over evaluations", fragment(curves_figure(found)), "Step-2 evaluations: built and measured."
        ),
        Section("Coverage", _coverage_table(found), "The share of the column's front that the row's weakly dominates."),
    )
    return page("Comparison of searches", sections, ", ".join(run.name for run in found.runs))


def _runs_table(found: Comparison) -> str:
    columns = ("run", "hypervolume", "evaluations", "worker time", "front", "directory")
    rows = [
        (
            r.name,
            f"{r.hypervolume:.4f}",
            f"{r.evaluations:,}",
            f"{r.seconds / 60:.1f} min",
            str(len(r.front)),
            r.run_dir,
        )
        for r in sorted(found.runs, key=lambda run: -run.hypervolume)
    ]
    return table(columns, rows)


def _coverage_table(found: Comparison) -> str:
    rows = [(run.name, *(f"{s:.0%}" for s in shares)) for run, shares in zip(found.runs, found.coverage, strict=True)]
    return table(("", *(run.name for run in found.runs)), rows, text=len(found.runs) + 1)


def fronts_figure(found: Comparison) -> Any:
    """A plotly figure: a trace per run and per attainment surface; a menu takes the pairs of objectives."""
    import plotly.graph_objects as go

    pairs = [(name.split(" over ")[1], name.split(" over ")[0]) for name in found.attainment]
    figure = go.Figure()
    for number, pair in enumerate(pairs):
        for trace in (*_surfaces(found, pair), *(_run_trace(run, i, pair) for i, run in enumerate(found.runs))):
            figure.add_trace(go.Scatter({**trace, "visible": number == 0}))
    each = len(figure.data) // len(pairs)
    buttons = [
        {
            "label": f"{y} over {x}",
            "method": "update",
            "args": [
                {"visible": [i // each == number for i in range(len(figure.data))]},
                {"xaxis.title.text": x, "yaxis.title.text": y, "xaxis.autorange": True, "yaxis.autorange": True},
            ],
        }
        for number, (x, y) in enumerate(pairs)
    ]
    figure.update_layout(
        template="plotly_white",
        height=600,
        hovermode="closest",
        xaxis_title=pairs[0][0],
        yaxis_title=pairs[0][1],
        margin={"t": 60, "r": 30},
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}],
        legend={"orientation": "h", "x": 0, "y": -0.14},
    )
    return figure


def _surfaces(found: Comparison, pair: tuple[str, str]) -> list[dict[str, Any]]:
    surfaces = found.attainment[f"{pair[1]} over {pair[0]}"]
    dashes = {"best": "dot", "median": "solid", "worst": "dash"}
    return [
        {
            "x": [x for x, _ in corners],
            "y": [y for _, y in corners],
            "mode": "lines",
            "line": {"shape": "hv", "color": SURFACE, "width": 1.5, "dash": dashes[level]},
            "name": f"{level} attained",
            "hoverinfo": "skip",
        }
        for level, corners in surfaces.items()
    ]


def _run_trace(run: RunFigures, number: int, pair: tuple[str, str]) -> dict[str, Any]:
    hover = []
    for point in run.front:
        values = [f"{name} {format_measure(name, point.value(name))}" for name in point.objectives]
        hover.append("<br>".join([f"<b>{run.name}</b> {point.candidate_id}", *values, point.summary]))
    return {
        "x": [_value(run, i, pair[0]) for i in range(len(run.front))],
        "y": [_value(run, i, pair[1]) for i in range(len(run.front))],
        "mode": "markers",
        "name": run.name,
        "marker": {"size": 8, "color": COLOURS[number % len(COLOURS)], "opacity": 0.8},
        "hovertext": hover,
        "hoverinfo": "text",
    }


def _value(run: RunFigures, index: int, name: str) -> float:
    point = run.front[index]
    return float(point.generation) if name == "generation" else point.value(name)


def curves_figure(found: Comparison) -> Any:
    import plotly.graph_objects as go

    traces = [
        go.Scatter(
            x=[n for n, _ in run.curve],
            y=[value for _, value in run.curve],
            mode="lines",
            line={"shape": "hv", "color": COLOURS[i % len(COLOURS)]},
            name=run.name,
        )
        for i, run in enumerate(found.runs)
    ]
    figure = go.Figure(traces)
    figure.update_layout(
        template="plotly_white",
        height=420,
        xaxis_title="step-2 evaluations",
        yaxis_title="hypervolume",
        margin={"t": 20, "r": 30},
        hovermode="x unified",
    )
    return figure


def comparison_png(found: Comparison, path: str) -> None:
    """Panels: every pair of objectives, then hypervolume over evaluations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = [(name.split(" over ")[1], name.split(" over ")[0]) for name in found.attainment]
    columns = min(2, len(pairs) + 1)
    rows = -(-(len(pairs) + 1) // columns)
    figure = Figure(figsize=(5.6 * columns, 4.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, pair in zip(axes, pairs, strict=False):
        for surface in _surfaces(found, pair):
            ax.step(surface["x"], surface["y"], where="post", color=SURFACE, linewidth=1)
        for number, run in enumerate(found.runs):
            trace = _run_trace(run, number, pair)
            ax.scatter(trace["x"], trace["y"], s=18, color=trace["marker"]["color"], label=run.name, alpha=0.8)
        ax.set(xlabel=pair[0], ylabel=pair[1])
    curve_ax = axes[len(pairs)]
    for number, run in enumerate(found.runs):
        counts, values = zip(*run.curve, strict=True)
        curve_ax.step(counts, values, where="post", color=COLOURS[number % len(COLOURS)], label=run.name)
    curve_ax.set(xlabel="step-2 evaluations", ylabel="hypervolume")
    curve_ax.legend(fontsize="small")
    for ax in axes[: len(pairs) + 1]:
        ax.grid(alpha=0.3)
    for ax in axes[len(pairs) + 1 :]:
        ax.remove()
    figure.savefig(path, dpi=150)
