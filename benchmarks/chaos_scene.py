"""A search on a cluster of several nodes, to be disturbed: its processes, its storage and what it wrote down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.chaos_nodes import Nodes
from benchmarks.chaos_search import LOG
from evo.candidates import STEP2
from evo.randomness import evaluation_seed
from evo.storage.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
STORE_MB = 16
SLOWLY_S = 0.8  # an evaluation where nodes come and go, which takes them many seconds


@dataclass(frozen=True)
class Staging:
    """How a search is set up. small_store: its storage is a file system of its own, which needs root. slow: evaluations take
    long. node_away: one node is missing at first. mlflow: it tracks to a server."""

    small_store: bool = False
    slow: bool = False
    node_away: bool = False
    mlflow: bool = False


class Scene:
    """One search under way: its driver, its cluster, its storage, and the log that its evaluations write."""

    def __init__(self, folder: Path, nodes: Nodes, seed: int, bad: Mapping[str, str], staging: Staging) -> None:
        self.folder, self.nodes, self._seed, self._bad, self._staging = folder, nodes, seed, bad, staging
        self.store = folder / "store"
        self.run = self.store / "run"
        self.repeated = 0
        self._recorded: set[int] = set()
        self._seen = 0
        self._driver: subprocess.Popen[bytes] | None = None
        self._mlflow: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Scene:
        self.store.mkdir()
        if self._staging.small_store:
            mount("-t", "tmpfs", "-o", f"size={STORE_MB}m", "evo-chaos", str(self.store))
        if self._staging.node_away:
            self.nodes.lose()
        if self._staging.mlflow:
            self._port = _free_port()
            self.start_mlflow()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in (self._driver, self._mlflow):
            _kill(process)
        self.nodes.complete()
        if os.path.ismount(self.store):
            subprocess.run(["umount", "--lazy", str(self.store)], check=False)

    # --- the driver ---

    def start_driver(self) -> None:
        """Begin the search, or go on with it. What is recorded now must not be evaluated again."""
        self._recorded, self._seen = self._journal(), len(self.log)
        command = [sys.executable, "-m", "benchmarks.chaos_search", str(self.run), "--seed", str(self._seed)]
        command += ["--address", self.nodes.address, "--folder", str(self.folder)]
        if self._staging.slow:
            command += ["--delay", str(SLOWLY_S)]
        command += [part for name, digest in self._bad.items() for part in (f"--{name}", digest)]
        if self._port:
            command += ["--mlflow", f"http://127.0.0.1:{self._port}"]
        with open(self.folder / "driver.log", "ab") as log:
            self._driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def kill_driver(self) -> None:
        _kill(self._driver)
        self._count_repeated()

    def finish(self, limit_s: float) -> list[str]:
        """Wait for the end; what is wrong with it."""
        self.wait(lambda: False, limit_s)
        self._count_repeated()
        code = self._driver.poll() if self._driver else None
        if code == 0:
            return []
        return [f"the driver ended with {code}", *self.said.splitlines()[-5:]]

    def wait(self, holds: Callable[[], bool], limit_s: float) -> bool:
        """Whether it came to hold before the driver ended or the time was up."""
        deadline = time.monotonic() + limit_s
        while not self.over and time.monotonic() < deadline:
            if holds():
                return True
            time.sleep(0.05)
        return False

    @property
    def over(self) -> bool:
        return self._driver is None or self._driver.poll() is not None

    @property
    def said(self) -> str:
        return (self.folder / "driver.log").read_text(errors="replace")

    # --- what the evaluations wrote down ---

    @property
    def log(self) -> list[Any]:
        file = self.folder / LOG
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def ended(self) -> int:
        return len({work for what, work, *_ in self.log if what == "end"})

    def reached(self, evaluations: int) -> bool:
        return self.ended >= evaluations

    def busy(self) -> int | None:
        """The process of an evaluation under way."""
        begun = {pid: what for what, _, pid, _ in self.log}
        return next((pid for pid, what in reversed(begun.items()) if what == "begin" and _alive(pid)), None)

    def _journal(self) -> set[int]:
        if not (self.run / "run.json").exists():
            return set()
        rows = RunDirectory.open(str(self.run)).evaluations()
        return {evaluation_seed(self._seed, e.candidate.genome, STEP2) for e in rows}

    def _count_repeated(self) -> None:
        later = {work for what, work, *_ in self.log[self._seen :] if what == "begin"}
        self.repeated += len(later & self._recorded)

    # --- MLflow ---

    def start_mlflow(self) -> None:
        uri = f"sqlite:///{self.folder}/mlflow.db"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += [
            "--workers",
            "1",
            "--backend-store-uri",
            uri,
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]
        with open(self.folder / "mlflow.log", "ab") as log:
            self._mlflow = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill_mlflow(self) -> None:
        _kill(self._mlflow)


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
