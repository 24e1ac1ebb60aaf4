"""Explanations of front members as figures: bars per layer, and what every choice is predicted to cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evo.front import format_measure
from evo.views.explanation import Explanation, LayerStory, Sensitivity
from evo.views.pages import Section, fragment, page, table
from search_spaces.plan import FLOAT_BITS

SHOWN_FLOAT = 10  # where the axis of bits, which ends at 8, draws "float"
BITS_TICKS = {2: "2", 4: "4", 6: "6", 8: "8", SHOWN_FLOAT: "float"}
PANELS = ("channels kept", "bits", "weight bytes left", "predicted loss (nats)")
COLOURS = {
    "kept": "#4c78a8",
    "weight bits": "#3b528b",
    "activation bits": "#9ecae9",
    "left": "#54a24b",
    "width": "#e45756",
    "weight_bits": "#3b528b",
    "activation_bits": "#9ecae9",
    "factor": "#f2a93b",
    "skip": "#79706e",
}
OTHER = "#b279a2"
OFFSETS = {"": -0.375, "w": -0.375, "a": 0.005}  # the two kinds of bits stand side by side


def explanation_figure(explanations: Sequence[Explanation]) -> Any:
    """A plotly figure: four bars per layer under each other; a menu takes one front member after the other."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.045, subplot_titles=PANELS)
    owners: list[int] = []
    for number, explanation in enumerate(explanations):
        for row, trace in _bars(explanation, number == 0):
            figure.add_trace(go.Bar(trace), row=row, col=1)
            owners.append(number)
    menu = [_button(explanation, number, owners) for number, explanation in enumerate(explanations)]
    figure.update_layout(
        template="plotly_white",
        barmode="stack",
        height=860,
        legend={"orientation": "h", "y": -0.16},
        margin={"t": 90, "l": 60, "r": 20},
        updatemenus=[{"buttons": menu, "x": 0, "xanchor": "left", "y": 1.1, "yanchor": "top"}],
    )
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(tickvals=list(BITS_TICKS), ticktext=list(BITS_TICKS.values()), row=2, col=1)
    figure.update_yaxes(tickformat=".0%", row=3, col=1)
    figure.update_xaxes(tickangle=-50)
    return figure


def _bars(explanation: Explanation, visible: bool) -> list[tuple[int, dict[str, Any]]]:
    stories = explanation.layers
    hover = [_hover(story) for story in stories]
    kinds = sorted({kind for story in stories for kind in story.predicted})
    rows: list[tuple[int, str, list[float], str, str]] = [
        (1, "channels kept", [s.outputs_kept / s.outputs for s in stories], COLOURS["kept"], ""),
        (2, "weight bits", [_bits(s, s.weight_bits) for s in stories], COLOURS["weight bits"], "w"),
        (2, "activation bits", [_bits(s, s.activation_bits) for s in stories], COLOURS["activation bits"], "a"),
        (3, "weight bytes left", [s.bytes_left for s in stories], COLOURS["left"], ""),
        *(
            (4, kind.replace("_", " "), [s.predicted.get(kind, 0.0) for s in stories], COLOURS.get(kind, OTHER), "")
            for kind in kinds
        ),
    ]
    names = [story.name for story in stories]
    return [
        (
            row,
            {
                "x": names,
                "y": values,
                "name": name if row != 4 else f"loss: {name}",
                "marker": {"color": colour},
                "hovertext": hover,
                "hoverinfo": "text",
                "visible": visible,
                "offsetgroup": side or "single",
                "offset": OFFSETS[side],
                "width": 0.75 if not side else 0.37,
                "showlegend": row in (2, 4),
            },
        )
        for row, name, values, colour, side in rows
    ]


def _bits(story: LayerStory, bits: int) -> float:
    return 0 if story.skipped else SHOWN_FLOAT if bits >= FLOAT_BITS else bits


def _hover(story: LayerStory) -> str:
    lines = [f"<b>{story.name}</b>", story.decision or f"left: {story.left_because}"]
    lines.append(f"{story.weights_share:.1%} of the weights; {story.bytes_left:.1%} of its bytes left")
    lines += [f"{kind.replace('_', ' ')}: {loss:.2g} nats" for kind, loss in story.predicted.items()]
    return "<br>".join(lines)


def _button(explanation: Explanation, number: int, owners: Sequence[int]) -> dict[str, Any]:
    point = explanation.point
    values = ", ".join(f"{name} {format_measure(name, point.value(name))}" for name in point.objectives)
    return {
        "label": f"{point.candidate_id}: {values}",
        "method": "update",
        "args": [{"visible": [owner == number for owner in owners]}],
    }


def sensitivity_figure(sensitivities: Sequence[Sensitivity], order: Sequence[str]) -> Any:
    """A plotly heat map: what step 1 predicts for every choice alone; rows are layers and groups in this order, then blocks."""
    import plotly.graph_objects as go

    rank = {name: i for i, name in enumerate(order)}
    places = sorted({s.place: None for s in sensitivities}, key=lambda place: rank.get(place, len(rank)))
    columns, losses = sensitivity_table(sensitivities)
    grid = [[_log(losses.get((place, column))) for column in columns] for place in places]
    text = [[_cell(place, column, losses.get((place, column))) for column in columns] for place in places]
    bar = {"title": {"text": "nats, log10"}, "thickness": 12}
    heat = go.Heatmap(
        x=columns, y=places, z=grid, text=text, hoverinfo="text", colorscale="YlOrRd", colorbar=bar, xgap=1, ygap=1
    )
    figure = go.Figure(heat)
    figure.update_layout(
        template="plotly_white",
        height=140 + 22 * len(places),
        margin={"t": 30, "l": 60, "r": 20},
        plot_bgcolor="#f4f4f4",
    )
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    figure.update_xaxes(tickangle=-50, automargin=True, showgrid=False)
    return figure


def sensitivity_table(sensitivities: Sequence[Sensitivity]) -> tuple[list[str], dict[tuple[str, str], float]]:
    """Columns in order, and the predicted loss by (place, column); widths as shares of the full one, to share columns."""
    losses: dict[tuple[str, str], float] = {}
    order: dict[str, tuple[str, float]] = {}
    for sensitivity in sensitivities:
        widest = max((_channels(choice) for choice in sensitivity.choices), default=0)
        for position, (choice, loss) in enumerate(zip(sensitivity.choices, sensitivity.losses, strict=True)):
            if loss <= 0:
                continue
            width = sensitivity.kind == "width"
            label = f"width {_rounded(_channels(choice) / widest):.0%}" if width else _label(sensitivity.kind, choice)
            order[label] = (sensitivity.kind, _channels(choice) / widest if width else position)
            losses[sensitivity.place, label] = max(loss, losses.get((sensitivity.place, label), 0.0))
    return sorted(order, key=lambda label: (order[label][0], order[label][1], label)), losses


def _rounded(share: float) -> float:
    """To eighths: widths are multiples, so that neighbouring shares of different layers mean the same choice."""
    return round(share * 8) / 8


def _channels(choice: str) -> int:
    number = choice.removesuffix(" ch")
    return int(number) if number.isdigit() and choice.endswith(" ch") else 0


def _label(kind: str, choice: str) -> str:
    return choice if kind in ("factor", "skip") else f"{kind.replace('_', ' ')} {choice.removesuffix(' bit')}"


def _log(loss: float | None) -> float | None:
    return None if loss is None or loss <= 0 else math.log10(loss)


def _cell(place: str, column: str, loss: float | None) -> str:
    return f"{place}: {column}<br>" + ("no such choice" if loss is None else f"{loss:.2g} nats")


def explanation_png(explanation: Explanation, path: str) -> None:
    """The same four bars per layer of one front member, written to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stories = explanation.layers
    figure = Figure(figsize=(max(7.0, 0.42 * len(stories) + 2), 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{explanation.point.candidate_id}: {explanation.point.summary}", fontsize="medium")
    axes = figure.subplots(4, 1, sharex=True)
    names = [story.name for story in stories]
    bottoms: dict[int, list[float]] = {}
    for row, trace in _bars(explanation, True):
        ax = axes[row - 1]
        bottom = bottoms.get(row, [0.0] * len(stories)) if row == 4 else [0.0] * len(stories)
        left = [index + trace["offset"] for index in range(len(stories))]
        style = {"width": trace["width"], "color": trace["marker"]["color"], "label": trace["name"]}
        ax.bar(left, trace["y"], bottom=bottom, align="edge", **style)
        bottoms[row] = [a + b for a, b in zip(bottom, trace["y"], strict=True)]
    for ax, title in zip(axes, PANELS, strict=True):
        ax.set_title(title, loc="left", fontsize="small")
        ax.grid(axis="y", alpha=0.3)
    axes[1].set_yticks(list(BITS_TICKS), list(BITS_TICKS.values()))
    for ax in (axes[1], axes[3]):
        ax.legend(fontsize="x-small", ncols=4)
    axes[3].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize="small")
    figure.savefig(path, dpi=130)


def explanation_sections(
    explanations: Sequence[Explanation], sensitivities: Sequence[Sensitivity]
) -> tuple[Section, ...]:
    """The parts of a page about a front: bars per layer of every member, why layers were left, every choice's prediction."""
    first = explanations[0]
    left = [
        (story.name, f"{story.weights_share:.1%}", story.left_because) for story in first.layers if story.left_because
    ]
    sections = [
        Section(
            "Layer by layer",
            fragment(explanation_figure(explanations)),
            "Choose a point of the front on the left. Predicted loss is what step 1 expects of each decision alone, in nats per "
            "sample over the uncompressed network, before measurements correct it.",
        )
    ]
    if left:
        body = table(("layer", "share of weights", "why"), left)
        sections.append(Section(f"Layers that {first.point.candidate_id} leaves as they are", body))
    if sensitivities:
        sections.append(
            Section(
                "Sensitivity",
                fragment(sensitivity_figure(sensitivities, [story.name for story in first.layers])),
                "The loss that step 1 predicts for every choice alone: pale is nearly free, dark is dear, grey is no choice.",
            )
        )
    return tuple(sections)


def explanation_html(title: str, explanations: Sequence[Explanation], sensitivities: Sequence[Sensitivity]) -> str:
    """A page of its own about a front; the first explanation is shown first."""
    return page(
        title, explanation_sections(explanations, sensitivities), "Why every point of the front looks as it does."
    )
