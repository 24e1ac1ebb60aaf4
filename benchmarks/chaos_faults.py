"""What can happen to a search on a cluster, made to happen to a real one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.chaos_scene import Scene, Staging, mount
from benchmarks.chaos_search import NO_MEMORY

AWAY_S = 4.0  # how long storage, MLflow or a slow worker are away


@dataclass(frozen=True)
class Fault:
    kind: str
    after: int  # finished evaluations

    def __str__(self) -> str:
        return f"{self.kind}@{self.after}"


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
    mount("-o", "remount,ro", str(scene.store))
    time.sleep(AWAY_S)
    mount("-o", "remount,rw", str(scene.store))


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


def staging_of(kinds: Collection[str]) -> Staging:
    """What a search needs that these will happen to."""
    rooted, slow = any(KINDS[kind].needs_root for kind in kinds), any(KINDS[kind].slow for kind in kinds)
    return Staging(rooted, slow, node_away="late_node" in kinds, mlflow="mlflow_gone" in kinds)


def suffer(scene: Scene, fault: Fault) -> None:
    KINDS[fault.kind].happens(scene)


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
