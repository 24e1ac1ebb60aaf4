"""What can happen to a search on a cluster, made to happen to a real one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.chaos_nodes import Nodes
from benchmarks.chaos_search import LOG, NO_MEMORY
from evo.candidates import STEP2
from evo.randomness import evaluation_seed
from evo.storage import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
AWAY_S = 4.0  # how long storage, MLflow or a slow worker are away
STORE_MB = 16
SLOWLY_S = 0.8  # an evaluation where nodes come and go, which takes them many seconds


@dataclass(frozen=True)
class Fault:
    kind: str
    after: int  # finished evaluations

    def __str__(self) -> str:
        return f"{self.kind}@{self.after}"


class Scene:
    """One search under way: its driver, its cluster, its storage, and the log that its evaluations write."""

    def __init__(self, folder: Path, nodes: Nodes, seed: int, bad: Mapping[str, str], kinds: Collection[str]) -> None:
        self.folder, self.nodes, self._seed, self._bad, self._kinds = folder, nodes, seed, bad, kinds
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
        if any(KINDS[kind].needs_root for kind in self._kinds):
            _mount("-t", "tmpfs", "-o", f"size={STORE_MB}m", "evo-chaos", str(self.store))
        if "late_node" in self._kinds:
            self.nodes.lose()
        if "mlflow_gone" in self._kinds:
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
        if any(KINDS[kind].slow for kind in self._kinds):
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

    def suffer(self, fault: Fault) -> None:
        KINDS[fault.kind].happens(self)

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


# --- Kinds of faults -------------------------------------------------------------------------------------------------


def _worker_killed(scene: Scene) -> None:
    os.kill(_some_worker(scene), signal.SIGKILL)


def _out_of_memory(scene: Scene) -> None:
    (scene.folder / NO_MEMORY).touch()


def _node_lost(scene: Scene) -> None:
    scene.nodes.lose()
    scene.nodes.complete()


def _node_drained(scene: Scene) -> None:
    scene.nodes.drain()
    scene.nodes.complete()


def _driver_killed(scene: Scene) -> None:
    scene.kill_driver()


def _head_lost(scene: Scene) -> None:
    """The cluster first: the driver sees all of its workers go before it goes itself."""
    scene.nodes.kill()
    time.sleep(1)
    scene.kill_driver()
    scene.nodes.start()


def _storage_full(scene: Scene) -> None:
    filler = scene.store / "filler"
    with open(filler, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    time.sleep(AWAY_S)
    filler.unlink()


def _storage_read_only(scene: Scene) -> None:
    _mount("-o", "remount,ro", str(scene.store))
    time.sleep(AWAY_S)
    _mount("-o", "remount,rw", str(scene.store))


def _mlflow_gone(scene: Scene) -> None:
    scene.kill_mlflow()
    time.sleep(AWAY_S)
    scene.start_mlflow()


def _straggler(scene: Scene) -> None:
    pid = _some_worker(scene)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * AWAY_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _late_node(scene: Scene) -> None:
    scene.nodes.complete()


def _in_the_plan(scene: Scene) -> None:
    """Nothing to do: one of the plans is bad, from the beginning."""


class Kind(NamedTuple):
    happens: Callable[[Scene], None]
    needs_root: bool = False
    slow: bool = False
    in_plan: bool = False


KINDS: Mapping[str, Kind] = {
    "worker_killed": Kind(_worker_killed),
    "out_of_memory": Kind(_out_of_memory),
    "node_lost": Kind(_node_lost, slow=True),
    "node_drained": Kind(_node_drained, slow=True),
    "driver_killed": Kind(_driver_killed),
    "head_lost": Kind(_head_lost, slow=True),
    "storage_full": Kind(_storage_full, needs_root=True),
    "storage_read_only": Kind(_storage_read_only, needs_root=True),
    "mlflow_gone": Kind(_mlflow_gone, slow=True),
    "hangs": Kind(_in_the_plan, in_plan=True),
    "crashes": Kind(_in_the_plan, in_plan=True),
    "straggler": Kind(_straggler),
    "late_node": Kind(_late_node, slow=True),
}
DRIVERLESS = ("driver_killed", "head_lost")


class TooLateError(Exception):
    """The search was over before it could be disturbed."""


def driver_gone(fault: Fault) -> bool:
    return fault.kind in DRIVERLESS


def _some_worker(scene: Scene) -> int:
    """A process that is at work; waits for one."""
    found: list[int] = []

    def one() -> bool:
        pid = scene.busy()
        found.extend([] if pid is None else [pid])
        return bool(found)

    if not scene.wait(one, 300.0):
        raise TooLateError
    return found[0]


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


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
