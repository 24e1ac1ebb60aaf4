"""What is said about a finished search besides its front: the final picks, and how far the cheap step can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evo.candidates import FINAL, STEP2
from evo.compare import Comparison
from evo.front import FrontPoint, format_measure, front_table, speed_cells, speed_columns, spread
from evo.headline import headline
from evo.result import Result
from evo.terminal_plot import sparkline

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

TRUSTED_TAU = 0.5
SHOWN_POINTS = 20


def shown_front(result: Result, most: int = SHOWN_POINTS) -> Group:
    """The front as a table of at most so many useful points, and a line that tells how many more there are."""
    from rich.console import Group
    from rich.text import Text

    points = spread(result.useful or result.front, most)
    table = front_table(points, result.baseline)
    text = _left_out(len(points), len(result.useful), len(result.front))
    return Group(table, Text(text)) if text else Group(table)


def _left_out(shown: int, useful: int, front: int) -> str:
    if shown == front:
        return ""
    beyond = f", {front - useful} of them beyond the hypervolume's reference point" if useful < front else ""
    return f"{shown} of {front} points are shown{beyond}; --json (or result.front) has all of them"


def finals_table(result: Result) -> Table | None:
    """Picks after the last step, with the test split; None where there are none."""
    from rich.table import Table

    finals = result.finals
    if not finals:
        return None
    table = Table(title="Last step (test split, last epoch)", title_justify="left")
    costs = [
        o.measure
        for o in result.problem.objectives
        if o.measure in result.baseline and not o.measure.startswith("top1")
    ]
    speeds = speed_columns(result.baseline)
    title, _ = headline(next(iter(finals.values())))
    for name in ("candidate", title, "epochs", *costs, *speeds):
        table.add_column(name, no_wrap=True)
    if result.final_baseline:
        original = [format_measure(name, result.baseline[name]) for name in costs]
        table.add_row("baseline", headline(result.final_baseline)[1], "-", *original, *("1" for _ in speeds))
    for candidate, measures in sorted(finals.items()):
        cells = [format_measure(name, measures[name], result.baseline[name]) for name in costs]
        cells += speed_cells(measures, result.baseline)
        table.add_row(candidate, headline(measures)[1], f"{measures['epochs']:g}", *cells)
    return table


def trust(result: Result) -> str:
    """A sentence on the agreement of step 1 and step 2, with a warning where it is low."""
    found = result.agreement()
    if math.isnan(found.tau):
        return f"no agreement between steps can be told from {found.pairs} candidates"
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}"
    text = f"Kendall's tau step 1 / step 2: {found.tau:.2f} ({interval}, {found.pairs} candidates)"
    later = result.agreement(STEP2, FINAL)
    if later.pairs > 1 and not math.isnan(later.tau):
        text += f"; step 2 / final: {later.tau:.2f} ({later.pairs} candidates)"
    timed = result.latency_agreement()
    if not math.isnan(timed.tau):
        text += f"; predicted / measured latency: {timed.tau:.2f} ({timed.pairs} candidates)"
    if found.high < TRUSTED_TAU:
        text += ". Too low to trust the cheap step: raise evaluation.step1.images, or promote more candidates"
    return text


def comparison_tables(found: Comparison) -> tuple[Table, Table, Text]:
    """A row per run, and which front covers which."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    runs = Table(title="Searches", title_justify="left", box=SIMPLE_HEAD)
    for name in ("run", "hypervolume", "over evaluations", "evaluations", "worker time", "front", *found.measures):
        runs.add_column(name, no_wrap=True)
    for run in sorted(found.runs, key=lambda run: -run.hypervolume):
        best = [_best(run.front, name, found.baseline) for name in found.measures]
        line = sparkline([value for _, value in run.curve], 20)
        time = f"{run.seconds / 60:.1f} min"
        runs.add_row(run.name, f"{run.hypervolume:.4f}", line, f"{run.evaluations:,}", time, str(len(run.front)), *best)
    covers = Table(title="Share of the column's front that the row's covers", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", *(run.name for run in found.runs)):
        covers.add_column(name, no_wrap=True)
    for run, shares in zip(found.runs, found.coverage, strict=True):
        cells = ("-" if run is other else f"{share:.0%}" for other, share in zip(found.runs, shares, strict=True))
        covers.add_row(run.name, *cells)
    bounds = ", ".join(f"{name} {format_measure(name, abs(value))}" for name, value in found.reference.items())
    return runs, covers, Text(f"hypervolume: share of the box between zero and the reference point {bounds}")


def _best(front: Sequence[FrontPoint], name: str, baseline: Mapping[str, float]) -> str:
    best = min(front, key=lambda point: point.objectives[name])
    return f"from {format_measure(name, best.value(name), baseline.get(name))}"
