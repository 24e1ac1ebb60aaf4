"""Commands for searches that run as jobs of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evo.cli.options import CONFIG, SET, say
from evo.errors import examined_by_doctor

if TYPE_CHECKING:
    from cluster.jobs import Job

SERVER = typer.Option("--address", help="the cluster's job server, e.g. http://127.0.0.1:8265")
RUN_ID = typer.Argument(metavar="RUN_ID", help="id of a submitted search", show_default=False)


def submit(
    config: Annotated[Path, CONFIG],
    address: Annotated[str, SERVER],
    set_: Annotated[list[str] | None, SET] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", help="name of the run; the same one again goes on with it")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="folder for runs that every machine of the cluster sees: a path there, or s3://...")
    ] = "~/evo-runs",
    follow: Annotated[bool, typer.Option("--follow", help="stay and show the log")] = False,
) -> None:
    """Run a search on a Ray cluster as a job, with your own modules, configuration and weights.

    Example: evo submit search.yaml --address http://127.0.0.1:8265 --storage s3://bucket/runs --follow
    """
    from evo.config.schema import load

    with examined_by_doctor(str(config)):
        loaded = load(config, set_ or [])
    from cluster.jobs import JobServer, check_run_id

    name = run_id or f"{loaded.name}-{datetime.now():%Y%m%d-%H%M%S}"
    check_run_id(name)
    server = JobServer(address)
    job = server.submit(loaded, name, storage, say)
    say(f"run {name} writes to {job.run_dir}; look: evo status {name} --address {address}")
    if follow:
        _end(name, server.follow(name, lambda text: print(text, end="", flush=True)))


def status(run_id: Annotated[str, RUN_ID], address: Annotated[str, SERVER]) -> None:
    """Say how a submitted search is doing.

    Example: evo status search-1 --address http://127.0.0.1:8265
    """
    from cluster.jobs import JobServer

    for job in JobServer(address).jobs(run_id) or [JobServer(address).job(run_id)]:
        typer.echo(f"{job.id}  {job.state}  {job.run_dir}  {_last_line(job.message)}".rstrip())


def logs(
    run_id: Annotated[str, RUN_ID],
    address: Annotated[str, SERVER],
    follow: Annotated[bool, typer.Option("--follow", help="stay until it ends")] = False,
) -> None:
    """Show the log of a submitted search.

    Example: evo logs search-1 --address http://127.0.0.1:8265 --follow
    """
    from cluster.jobs import JobServer

    server = JobServer(address)
    if follow:
        _end(run_id, server.follow(run_id, lambda text: print(text, end="", flush=True)))
    else:
        print(server.logs(run_id), end="")


def stop(run_id: Annotated[str, RUN_ID], address: Annotated[str, SERVER]) -> None:
    """Stop a submitted search, to go on with it by evo resume.

    Example: evo stop search-1 --address http://127.0.0.1:8265
    """
    from cluster.jobs import JobServer

    job = JobServer(address).stop(run_id)
    say(f"{job.id} {job.state}; go on with: evo resume {run_id} --address {address}")


def is_job_server(address: str | None) -> bool:
    return address is not None and address.startswith(("http://", "https://"))


def resume_job(run_id: str, overrides: Sequence[str], address: str) -> None:
    from cluster.jobs import JobServer, check_run_id

    check_run_id(run_id)
    job = JobServer(address).resume(run_id, overrides, say)
    say(f"{job.id} {job.state} in {job.run_dir}; look: evo logs {run_id} --address {address} --follow")


def _last_line(text: str) -> str:
    """Of a failed job's log, which ends with what went wrong."""
    return (text.strip().splitlines() or [""])[-1]


def _end(run_id: str, job: Job) -> None:
    if job.state != "SUCCEEDED":
        say(f"error: run {run_id} must end well, but got {job.state} ({_last_line(job.message)}); see its log above")
        raise SystemExit(2 if job.exit_code == 2 else 1)
