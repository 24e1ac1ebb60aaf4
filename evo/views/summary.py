"""What is said about a finished search besides its front: the final picks, and how far the cheap step can be trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from evo.archive import Agreement
from evo.candidates import STEP1, STEP2
from evo.front import FrontPoint, format_measure, front_table, speed_cells, speed_columns, spread
from evo.result import Result
from evo.views.compare import Comparison
from evo.views.headline import headline
from evo.views.terminal_plot import sparkline

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

TRUSTED_TAU = 0.5
FEWEST_FOR_INTERVAL = 5
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


ADVICE = {
    STEP1: "raise evaluation.step1.images, or promote more candidates",
    STEP2: "raise evaluation.step2.tune.epochs, or finish more picks",
}
RUNG_ADVICE = "raise its tune.epochs in evaluation.rungs, or algorithm.params.keep"


def trust(result: Result) -> str:
    """How far each step agrees with the next one, in words, with a warning where it is too low and what to change."""
    pairs = [(lower, upper, result.agreement(lower, upper)) for lower, upper in pairwise(result.steps)]
    told = [(lower, upper, found) for lower, upper, found in pairs if found.pairs > 1 and not math.isnan(found.tau)]
    if not told:
        return f"no agreement between steps can be told from {pairs[0][2].pairs} candidates"
    parts = [_agreement(lower, upper, found) for lower, upper, found in told]
    timed = result.latency_agreement()
    if not math.isnan(timed.tau):
        parts.append(f"predicted / measured latency: {timed.tau:.2f} ({timed.pairs} candidates)")
    warnings = [
        f". Too low to trust {_named(lower)}: {ADVICE.get(lower, RUNG_ADVICE)}"
        for lower, _, found in told
        if found.high < TRUSTED_TAU
    ]
    return "Kendall's tau " + "; ".join(parts) + "".join(warnings)


def _agreement(lower: str, upper: str, found: Agreement) -> str:
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}, " if found.pairs >= FEWEST_FOR_INTERVAL else ""
    return f"{_named(lower)} / {_named(upper)}: {found.tau:.2f} ({interval}{found.pairs} candidates)"


def _named(step: str) -> str:
    """ "step1" as "step 1"."""
    return re.sub(r"(\d+)$", r" \1", step)


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
