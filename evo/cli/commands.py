"""The command line. Light until a command needs more: torch, ray and mlflow are imported inside the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from evo.cli import jobs as cli_jobs
from evo.cli import looking as cli_looking
from evo.cli import starting as cli_starting
from evo.cli.completion import formats, tables
from evo.cli.options import ADDRESS, CONFIG, JSON, PICK, QUIET, RUN, RUN_DIR, SET, console_for_output, say
from evo.errors import USER_ERRORS, examined_by_doctor, sentence

if TYPE_CHECKING:
    from evo.api import Listeners
    from evo.result import Result

app = typer.Typer(
    name="evo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search how to prune, quantise and decompose a trained PyTorch network, and get a Pareto front of smaller ones.",
    epilog="Start with: evo search configs/demo_digits.yaml, or evo init for your own network. Completion: --install-completion",
)


app.command()(cli_starting.init)


@app.command()
def search(
    config: Annotated[Path, CONFIG],
    set_: Annotated[list[str] | None, SET] = None,
    run_dir: Annotated[str | None, typer.Option(help="new directory for the run; default runs/NAME-TIME")] = None,
    address: Annotated[str | None, ADDRESS] = None,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="go on where RUN_DIR holds this search already")
    ] = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run a search here, or on a Ray cluster.

    Example: evo search configs/demo_digits.yaml --run-dir runs/demo --set seed=1
    """
    from evo.config.schema import load

    with examined_by_doctor(str(config)):
        loaded = load(config, set_ or [])
    target = run_dir or f"runs/{loaded.name}-{datetime.now():%Y%m%d-%H%M%S}"
    from evo import api

    if or_resume and api.is_run(target):
        result = api.resume(target, [], address, _listeners(quiet), config=loaded)
    else:
        result = api.run_config(loaded, target, address, _listeners(quiet))
    _report(result, as_json)


@app.command()
def resume(
    run_dir: Annotated[str, RUN],
    set_: Annotated[list[str] | None, SET] = None,
    address: Annotated[str | None, ADDRESS] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Continue a search that was stopped, or extend a finished one; a submitted one at its job server, by its id.

    Example: evo resume runs/demo --set budget.generations=30
    """
    if address is not None and cli_jobs.is_job_server(address):
        cli_jobs.resume_job(run_dir, set_ or [], address)
        return
    from evo.storage.run_directory import RunDirectory

    RunDirectory.open(run_dir)
    from evo import api

    result = api.resume(run_dir, set_ or [], address, _listeners(quiet))
    _report(result, as_json)


app.command()(cli_looking.front)


@app.command()
def verify(
    run_dir: Annotated[str, RUN_DIR],
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Read every file of a search and say which are damaged; exit code 2 where one is.

    Example: evo verify runs/demo
    """
    from evo.storage.verification import verify as check

    report = check(run_dir)
    if as_json:
        print(json.dumps({"run_dir": report.run_dir, "checked": report.checked, "faults": report.faults}, indent=2))
    else:
        for fault in report.faults:
            say(f"error: {fault}")
        typer.echo(f"{run_dir}: {', '.join(f'{n} {kind}' for kind, n in report.checked.items())} checked")
    if report.faults:
        raise SystemExit(2)


app.command()(cli_looking.explain)
app.command()(cli_looking.compare)
app.command()(cli_looking.report)


@app.command()
def export(
    run_dir: Annotated[str, RUN_DIR],
    out: Annotated[Path, typer.Option(help="new folder, or a file ending in .onnx or .pt2")],
    pick: Annotated[str, PICK] = "knee",
    format_: Annotated[
        str | None, typer.Option("--format", help="pytorch, torch-export or onnx", autocompletion=formats)
    ] = None,
    check_data: Annotated[bool, typer.Option("--check-data", help="measure the file's own accuracy too")] = False,
) -> None:
    """Write one network of the front as files that need nothing of this project.

    Example: evo export runs/demo --pick knee --format onnx --out exported
    """
    from evo.result import load

    choice = load(run_dir).pick(pick)
    written = choice.export(out, format_, check_data)
    say(f"{choice.point.candidate_id} ({choice.point.summary}) is in {written}")


@app.command()
def doctor(
    config: Annotated[Path, CONFIG],
    set_: Annotated[list[str] | None, SET] = None,
    flash: Annotated[str | None, typer.Option(help="storage of the target, e.g. 1MB")] = None,
    ram: Annotated[str | None, typer.Option(help="memory for activations, e.g. 256KiB")] = None,
    macs_per_s: Annotated[str | None, typer.Option(help="sustained multiply-accumulates per second, e.g. 200M")] = None,
    bandwidth: Annotated[str | None, typer.Option(help="sustained bytes per second to and from memory")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="milliseconds that one sample may take", min=0.0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Say per layer what can be searched, what cannot and why, and what binds on a device, before any long work.

    Example: evo doctor configs/demo_digits.yaml --flash 64KB --ram 16KB --macs-per-s 50M --bandwidth 20MB
    """
    from evo.config.schema import load
    from evo.views.bottleneck import target_of

    loaded = load(config, set_ or [])
    target = target_of({"flash": flash, "ram": ram, "macs-per-s": macs_per_s, "bandwidth": bandwidth}, deadline_ms)
    from evo.studies.doctor import examine
    from evo.views.doctor_display import show

    report = examine(loaded, target)
    print(json.dumps(report, indent=2)) if as_json else show(report, console_for_output())


@app.command(name="list")
def list_(
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE]", help="one table, e.g. algorithms", show_default=False, autocompletion=tables),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """List what a configuration may name: algorithms, criteria, models, data sets, measures ...

    Example: evo list algorithms
    """
    from evo.registry import TABLES, check_name

    if table is not None:
        check_name({name: "" for name in TABLES}, table, "tables")
    chosen = {name: dict(entries) for name, entries in TABLES.items() if table in (None, name)}
    if as_json:
        print(json.dumps(chosen, indent=2))
        return
    for name, entries in chosen.items():
        typer.echo(name)
        for key, target in entries.items():
            typer.echo(f"  {key:26} {target}")


app.command()(cli_starting.reference)

for job_command in (cli_jobs.submit, cli_jobs.status, cli_jobs.logs, cli_jobs.stop):
    app.command()(job_command)


def _listeners(quiet: bool) -> Listeners:
    from evo.api import Listeners
    from evo.views.display import display

    return Listeners(display(quiet), (lambda text: None) if quiet else say)


def _report(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
        return
    cli_looking.show(result)
    tracking = result.config.tracking
    say(f"plot: {result.run_dir}/figures/front.html and front.png")
    say(f"everything in one page: evo report {result.run_dir}")
    if tracking.tracker == "mlflow":
        say(f"look at it in MLflow: mlflow ui --backend-store-uri {tracking.uri}")
    say(f"take one out: evo export {result.run_dir} --pick knee --format onnx --out exported")


def fail(error: BaseException) -> NoReturn:
    typer.echo(f"error: {sentence(error)}", err=True)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: the user's mistakes are one sentence and exit code 2, never a traceback."""
    import warnings

    sys.path.append(os.getcwd())  # factories of the user's own project are named from where the command is run
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app(None if arguments is None else list(arguments), prog_name="evo")
    except USER_ERRORS as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("stopped; continue with: evo resume RUN_DIR", err=True)
        raise SystemExit(130) from None
