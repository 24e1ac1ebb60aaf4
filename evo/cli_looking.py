"""Commands that look at finished or running searches."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from evo.cli_options import PICK, RUN_DIR, console_for_output


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
        from evo.writing import require_ending

        require_ending(plot)
    from evo.explain import explain as explain_points
    from evo.explain import write_explanation
    from evo.explain_display import explanation_table

    ((explanation,), sensitivities) = explain_points(result, (point,))
    if plot is not None:
        write_explanation(result, point, plot)
    if as_json:
        found = {**explanation.to_json(), "sensitivity": [asdict(s) for s in sensitivities]}
        print(json.dumps(found, indent=2))
    else:
        console_for_output().print(explanation_table(explanation))
