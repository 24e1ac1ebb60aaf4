"""What a finished search leaves for people: the front as JSON, Parquet, interactive page and picture."""

from __future__ import annotations

import json
from pathlib import Path

from evo.result import Result
from evo.storage.run_directory import RunDirectory
from evo.views.figures import front_html, front_parquet, front_png, history_png

FIGURES = "figures"


def write_outputs(run: RunDirectory, result: Result) -> None:
    """Write front.json, and for a local run directory front.parquet, front.html, front.png and history.png, under figures/."""
    run.write(f"{FIGURES}/front.json", json.dumps(result.to_json(), indent=2).encode())
    if result.front:
        run.write(f"{FIGURES}/front.html", _page(result).encode())
    if result.front and run.local is not None:
        front_parquet(result.front, str(run.local / FIGURES / "front.parquet"))
        _picture(result, run.local / FIGURES / "front.png")
        evaluations, hypervolume = zip(*result.history, strict=True)
        history_png(evaluations, hypervolume, str(run.local / FIGURES / "history.png"))


def write_plot(result: Result, file: Path) -> None:
    """One plot of the front: .html or .png by the file's ending."""
    require_ending(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        file.write_text(_page(result), encoding="utf-8")
    else:
        _picture(result, file)


def require_ending(file: Path) -> None:
    """Raise ValueError unless a plot can be written in the format of the file's ending."""
    if file.suffix not in (".html", ".png"):
        raise ValueError(f"a plot must end in .html or .png, but got {str(file)!r}; rename it")


def _page(result: Result) -> str:
    return front_html(result.front, result.baseline, result.config.name, result.marks)


def _picture(result: Result, file: Path) -> None:
    front_png(result.front, result.baseline, str(file), result.config.name, result.marks)
