"""What the commands share: arguments and options, and where their words go. Standard output is for results alone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from evo.cli.completion import configs, overrides, picks, run_dirs

if TYPE_CHECKING:
    from rich.console import Console

CONFIG = typer.Argument(
    metavar="CONFIG", help="YAML file; see configs/ for commented examples", show_default=False, autocompletion=configs
)
RUN_DIR = typer.Argument(metavar="RUN_DIR", help="directory of a search", show_default=False, autocompletion=run_dirs)
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    help="override a key, e.g. --set budget.generations=5 (repeatable)",
    autocompletion=overrides,
)
RUN = typer.Argument(
    metavar="RUN_DIR",
    help="directory of a search, or the id of a submitted one",
    show_default=False,
    autocompletion=run_dirs,
)
ADDRESS = typer.Option(help="a running Ray cluster, e.g. auto or ray://head:10001; without it one is started here")
PICK = typer.Option(help='an id, "knee", or limits such as "macs<=0.5x,top1_error<=0.09"', autocompletion=picks)
QUIET = typer.Option("--quiet", "-q", help="no progress display")
JSON = typer.Option("--json", help="print the front as JSON on standard output")


def say(text: str) -> None:
    typer.echo(text, err=True)


def console_for_output() -> Console:
    """For results on standard output; where it is no terminal, wide enough for tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)
