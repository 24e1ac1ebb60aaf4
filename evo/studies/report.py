"""Everything about one search in one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evo.candidates import STEP1, STEP2
from evo.front import format_measure, knee, spread
from evo.result import Result
from evo.studies.explain import explain
from evo.views.explain_figures import explanation_sections
from evo.views.figures import front_sections
from evo.views.headline import headline
from evo.views.pages import Section, facts, fragment, page, preformatted, table
from evo.views.summary import SHOWN_POINTS, trust
from search_spaces.space import CompressionSpace

MOST_FAILURES = 20
LINE = "#3b528b"


def report_html(result: Result) -> str:
    """Raises ValueError for a search that has measured nothing yet."""
    front = result.useful or result.front
    chosen = knee(front)
    others = [p for p in spread(front, SHOWN_POINTS) if p.candidate_id != chosen.candidate_id]
    explanations: tuple[Section, ...] = ()
    if isinstance(result.problem.space, CompressionSpace):  # of cells there is no original to explain them by
        explanations = explanation_sections(*explain(result, (chosen, *others)))
    sections = (
        Section("In short", facts(_facts(result)), trust(result)),
        *front_sections(result.front, result.baseline, result.marks),
        *_finals(result),
        *explanations,
        Section(
            "How the search went",
            fragment(_history_figure(result)),
            "Hypervolume: share of the box between zero and the reference point that the front dominates.",
        ),
        *_agreement(result),
        *_failures(result),
        Section("Configuration", preformatted(result.config.to_yaml())),
    )
    return page(result.config.name, sections, f"{chosen.candidate_id} is the knee of the front: {chosen.summary}")


def _facts(result: Result) -> dict[str, str]:
    point, baseline = knee(result.useful or result.front), result.baseline
    measured = sum(e.candidate.step == STEP2 for e in result.evaluations)
    scored = sum(e.candidate.step == STEP1 for e in result.evaluations)
    values = {
        f"{name} of the knee, from {format_measure(name, baseline[name])}": format_measure(
            name, point.value(name), baseline[name]
        )
        for name in point.objectives
        if name in baseline
    }
    return {
        **values,
        "points on the front": str(len(result.front)),
        "networks built and measured": f"{measured:,}",
        "scored in closed form": f"{scored:,}",
        "hypervolume": f"{result.history[-1][1]:.4f}",
    }


def _finals(result: Result) -> tuple[Section, ...]:
    if not result.finals:
        return ()
    costs = [name for name in result.baseline if name in {o.measure for o in result.problem.objectives}]
    costs = [name for name in costs if not name.endswith("error")]
    rows = []
    if result.final_baseline:
        original = headline(result.final_baseline)[1]
        rows.append(["baseline", original, "-", *(format_measure(n, result.baseline[n]) for n in costs)])
    for candidate, measures in sorted(result.finals.items()):
        cells = [format_measure(n, measures[n], result.baseline[n]) for n in costs]
        rows.append([candidate, headline(measures)[1], f"{measures['epochs']:g}", *cells])
    title, _ = headline(next(iter(result.finals.values())))
    body = table(("candidate", title, "epochs", *costs), rows, text=len(costs) + 3)
    return (Section("Last step", body, "Fully tuned picks; the test split was seen once, after the last epoch."),)


def _history_figure(result: Result) -> Any:
    import plotly.graph_objects as go

    counts, values = zip(*result.history, strict=True)
    figure = go.Figure(go.Scatter(x=counts, y=values, mode="lines", line={"shape": "hv", "color": LINE}))
    figure.update_layout(
        template="plotly_white",
        height=340,
        xaxis_title="step-2 evaluations",
        yaxis_title="hypervolume",
        margin={"t": 20},
    )
    return figure


def _agreement(result: Result) -> tuple[Section, ...]:
    """Step 1's prediction against step 2's error, for every candidate that has both."""
    import plotly.graph_objects as go

    pairs = _pairs(result)
    if len(pairs) < 2:
        return ()
    marker = {"size": 8, "color": LINE, "opacity": 0.7}
    x, y = [predicted for _, predicted, _ in pairs], [error for _, _, error in pairs]
    names = [f"{name}<br>predicted {p:.3g} nats, error {100 * e:.2f} %" for name, p, e in pairs]
    figure = go.Figure(go.Scatter(x=x, y=y, mode="markers", marker=marker, hovertext=names, hoverinfo="text"))
    figure.update_layout(
        template="plotly_white",
        height=420,
        xaxis={"title": {"text": "predicted loss increase (nats)"}, "type": "log"},
        yaxis={"title": {"text": "measured top1_error"}, "tickformat": ".0%"},
        margin={"t": 20},
    )
    return (Section("How far step 1 can be trusted", fragment(figure), trust(result)),)


def _pairs(result: Result) -> list[tuple[str, float, float]]:
    """(id, predicted loss at step 1, error at step 2)."""
    predicted = {
        e.candidate.id: e.measures.get("predicted_loss_increase", 0.0)
        for e in result.evaluations
        if e.candidate.step == STEP1 and e.completed
    }
    measured = [e for e in result.evaluations if e.candidate.step == STEP2 and e.completed]
    return [
        (e.candidate.id, predicted[e.candidate.id], e.measures["top1_error"])
        for e in measured
        if "top1_error" in e.measures and predicted.get(e.candidate.id, 0.0) > 0
    ]


def _failures(result: Result) -> tuple[Section, ...]:
    failed = [e for e in result.evaluations if not e.completed]
    if not failed:
        return ()
    rows: Sequence[Sequence[str]] = [(e.candidate.key, e.reason) for e in failed[:MOST_FAILURES]]
    return (Section(f"{len(failed)} failed evaluations", table(("candidate", "reason"), rows)),)
