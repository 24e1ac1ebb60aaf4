"""Commands that look at finished or running searches."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evo.cli.completion import run_dirs
from evo.cli.options import JSON, PICK, RUN_DIR, console_for_output, say

if TYPE_CHECKING:
    from evo.result import Result

MARK = typer.Option(help="a point to draw beside the front, NAME:measure=value,... (repeatable)")


def front(
    run_dir: Annotated[str, RUN_DIR],
    as_json: Annotated[bool, JSON] = False,
    plot: Annotated[Path | None, typer.Option(help="write a plot: FILE.html (interactive) or FILE.png")] = None,
    mark: Annotated[list[str] | None, MARK] = None,
) -> None:
    """Show the Pareto front of a search, running or finished.

    Example: evo front runs/demo --plot front.html --mark "published:top1_error=0.09,macs=0.46x"
    """
    from evo.result import load
    from evo.views.marks import parse_marks

    result = load(run_dir).with_marks(parse_marks(mark or []))
    if plot is not None:
        from evo.views.writing import write_plot

        write_plot(result, plot)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        show(result)


def show(result: Result) -> None:
    """The front, the picks after the last step, how far step 1 can be trusted, and how the search went."""
    from evo.views.summary import finals_table, shown_front, trust
    from evo.views.terminal_plot import front_plot, history_line

    console = console_for_output()
    console.print(shown_front(result))
    plotted = front_plot(result.useful or result.front, result.baseline, result.marks)
    console.print(plotted, highlight=False, markup=False)
    finals = finals_table(result)
    if finals is not None:
        console.print(finals)
    console.print(history_line(result.history), highlight=False)
    console.print(trust(result), soft_wrap=True, highlight=False)


def compare(
    run_dirs: Annotated[
        list[str],
        typer.Argument(metavar="RUN_DIR...", help="two searches or more", show_default=False, autocompletion=run_dirs),
    ],
    reference: Annotated[str | None, typer.Option(help="the hypervolume's bound, e.g. top1_error=0.3,macs=4e7")] = None,
    plot: Annotated[Path | None, typer.Option(help="write FILE.html (interactive) or FILE.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare searches: hypervolume up to a common reference point, coverage, attainment, over evaluations.

    Example: evo compare runs/nsga2 runs/random --plot compare.html
    """
    from evo.views.compare import compare as compare_runs
    from evo.views.compare import parse_reference
    from evo.views.writing import require_ending

    bound = parse_reference(reference) if reference is not None else None
    if plot is not None:
        require_ending(plot)
    found = compare_runs(run_dirs, bound)
    if plot is not None:
        from evo.views.compare_figures import write_comparison

        write_comparison(found, plot)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        from evo.views.summary import comparison_tables

        console_for_output().print(*comparison_tables(found))


def explain(
    run_dir: Annotated[str, RUN_DIR],
    pick: Annotated[str, PICK] = "knee",
    plot: Annotated[
        Path | None, typer.Option(help="write FILE.html (the whole front, interactive) or FILE.png")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the explanation as JSON")] = False,
) -> None:
    """Say layer by layer what a network of the front does, what that is predicted to cost, and why the rest was left.

    Example: evo explain runs/demo --pick "macs<=0.5x" --plot why.html
    """
    from evo.result import load

    result = load(run_dir)
    point = result.pick(pick).point
    if plot is not None:
        from evo.views.writing import require_ending

        require_ending(plot)
    from evo.studies.explain import explain as explain_points
    from evo.studies.explain import write_explanation
    from evo.views.explain_display import explanation_table

    ((explanation,), sensitivities) = explain_points(result, (point,))
    if plot is not None:
        write_explanation(result, point, plot)
    if as_json:
        found = {**explanation.to_json(), "sensitivity": [asdict(s) for s in sensitivities]}
        print(json.dumps(found, indent=2))
    else:
        console_for_output().print(explanation_table(explanation))


def report(
    run_dir: Annotated[str, RUN_DIR],
    out: Annotated[Path | None, typer.Option(help="FILE.html; default RUN_DIR/figures/report.html")] = None,
) -> None:
    """Write everything about a search into one HTML file that needs no network.

    Example: evo report runs/demo --out report.html
    """
    from evo.result import load

    result = load(run_dir)
    file = out or Path(run_dir) / "figures" / "report.html"
    if file.suffix != ".html":
        raise ValueError(f"a report must end in .html, but got out={str(file)!r}; rename it")
    if out is None and "://" in run_dir:
        raise ValueError(
            f"a report on a remote run needs a local file, but got run_dir={run_dir!r} alone; add --out FILE.html"
        )
    from evo.studies.report import report_html

    text = report_html(result)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    say(f"the report is in {file}")
