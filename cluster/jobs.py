"""Searches as jobs of a Ray cluster: submit, look, stop, go on. A run id is one search, however many jobs it took."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.packing import CONFIG_FILE, pack
from evo.config.schema import Config, parse
from evo.storage.folder import require_no_credentials

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
STORAGE = "~/evo-runs"
REACH_TIMEOUT_S = 10.0
POLL_S = 1.0
AGENT_PATIENCE_S = 120.0
NO_AGENT = "No available agent"  # of a head that was only just started
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One attempt at a run: its submission id, state (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED) and where it writes."""

    id: str
    state: str
    run_dir: str
    message: str
    exit_code: int | None
    config: str = ""  # as it was submitted

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


def _patiently(submit: Callable[[], Any]) -> None:
    """Submit as soon as the cluster can take a job."""
    until = time.monotonic() + AGENT_PATIENCE_S
    while True:
        try:
            submit()
            return
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > until:
                raise
        time.sleep(POLL_S)


def check_run_id(run_id: str) -> None:
    """A run id becomes part of paths and of job ids: nothing in it may lead elsewhere."""
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"a run id must be up to 64 letters, digits, - and _, but got run_id={run_id!r}; choose another one with --id"
        )


class JobServer:
    """The job server of a Ray cluster. Every failure to reach it or to be let in is a ConnectionError of one sentence."""

    def __init__(self, address: str) -> None:
        self._address = address
        _require_reachable(address)
        from ray.job_submission import JobSubmissionClient

        with self._told():
            self._client: Any = JobSubmissionClient(address, headers=_token_header())

    def submit(self, config: Config, run_id: str, storage: str, say: Say) -> Job:
        """Start the run, or go on with it: a run that is at work is left alone, one that ended continues where it stopped."""
        check_run_id(run_id)
        require_no_credentials(storage)
        before = self.jobs(run_id)
        if before and not before[-1].finished:
            say(f"{run_id} is at work already ({before[-1].state})")
            return before[-1]
        run_dir = f"{storage.rstrip('/')}/{run_id}"
        job_id = run_id if not before else f"{run_id}.{len(before) + 1}"
        command = f"python -m evo.cli search {CONFIG_FILE} --run-dir {shlex.quote(run_dir)} --or-resume --address auto"
        with tempfile.TemporaryDirectory() as folder:
            pack(config, Path(folder))
            job = {
                "entrypoint": command,
                "submission_id": job_id,
                "runtime_env": {"working_dir": folder},
                "metadata": {"evo_run_dir": run_dir, "evo_config": config.to_yaml()},
            }
            with self._told():
                _patiently(lambda: self._client.submit_job(**job))
        return self.job(run_id)

    def resume(self, run_id: str, overrides: Sequence[str], say: Say) -> Job:
        """Go on with a run under the configuration of its newest attempt and `overrides`; modules are taken from here."""
        job = self.job(run_id)
        config = parse(job.config, overrides, f"the configuration of {run_id}")
        return self.submit(config, run_id, job.run_dir.rpartition("/")[0], say)

    def jobs(self, run_id: str) -> list[Job]:
        """All attempts at a run, the first one first."""
        check_run_id(run_id)
        attempt = re.compile(rf"{re.escape(run_id)}(?:\.(\d+))?")
        with self._told():
            known = [d for d in self._client.list_jobs() if d.submission_id and attempt.fullmatch(d.submission_id)]
        return [_job(d) for d in sorted(known, key=lambda d: int(attempt.fullmatch(d.submission_id)[1] or 1))]  # type: ignore[index]

    def job(self, run_id: str) -> Job:
        """The newest attempt. Raises ValueError where there is none."""
        found = self.jobs(run_id)
        if not found:
            raise ValueError(
                f"a run must have been submitted, but got run_id={run_id!r} unknown to {self._address}; check both"
            )
        return found[-1]

    def logs(self, run_id: str) -> str:
        job = self.job(run_id)
        with self._told():
            return str(self._client.get_job_logs(job.id))

    def follow(self, run_id: str, write: Say) -> Job:
        """Pass on the log until the job has ended."""
        job = self.job(run_id)
        with self._told():
            asyncio.run(self._tail(job.id, write))
        while not (job := self.job(run_id)).finished:
            time.sleep(POLL_S)
        return job

    def stop(self, run_id: str) -> Job:
        """Stop the newest attempt and wait until it has; what it finished is kept."""
        job = self.job(run_id)
        if not job.finished:
            with self._told():
                self._client.stop_job(job.id)
        while not (job := self.job(run_id)).finished:
            time.sleep(POLL_S)
        return job

    async def _tail(self, job_id: str, write: Say) -> None:
        async for lines in self._client.tail_job_logs(job_id):
            write(lines)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ConnectionError(_token_sentence(self._address)) from error
        except (RuntimeError, OSError, KeyError) as error:  # of requests too, and of an answer that is not Ray's
            raise ConnectionError(
                f"{self._address} must accept the request, but got {_first_line(error)}; is it a Ray job server?"
            ) from error


def _job(details: Any) -> Job:
    known = details.metadata or {}
    run_dir, config = known.get("evo_run_dir", ""), known.get("evo_config", "")
    state = str(details.status.value)
    return Job(details.submission_id, state, run_dir, details.message or "", details.driver_exit_code, config)


def _require_reachable(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"the address of a job server must look like http://HEAD:8265, but got address={address!r}; correct it"
        )
    try:
        socket.create_connection(
            (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), REACH_TIMEOUT_S
        ).close()
    except OSError as error:
        raise ConnectionError(
            f"a job server must listen at {address}, but got {_first_line(error)}; start the cluster, or forward its port: "
            "ssh -L 8265:127.0.0.1:8265 HEAD"
        ) from error


def _token_header() -> dict[str, str]:
    """The cluster's token from where Ray keeps it; sent whether or not this side asks for tokens itself."""
    token = token_of(os.environ)
    return {"Authorization": f"Bearer {token}"} if token else {}


def token_of(environment: Any) -> str:
    """RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token; empty where there is none."""
    if environment.get("RAY_AUTH_TOKEN"):
        return str(environment["RAY_AUTH_TOKEN"]).strip()
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return file.read_text().strip() if file.is_file() else ""


def _token_sentence(address: str) -> str:
    got = "a wrong token" if token_of(os.environ) else "no token"
    return (
        f"{address} must be given the cluster's token, but got {got}; set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the value "
        "that the head was started with"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
