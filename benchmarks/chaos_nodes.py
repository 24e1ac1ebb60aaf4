"""A Ray cluster of several nodes on one machine: a head without room for workers, and nodes with room for one each."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

NODES = 2
STORE_BYTES = 80 * 2**20
NOTICE_S = 3.0
ATTEMPTS, PATIENCE_S = 8, 300.0  # a busy machine is too slow for Ray's own patience, again and again


class Nodes:
    """`with Nodes() as nodes:` is a cluster with a token of its own; `shapes` are Ray's arguments of each node but the head."""

    def __init__(self, shapes: Sequence[Mapping[str, Any]] = ({"num_cpus": 1},) * NODES) -> None:
        self._shapes = shapes
        self._before: dict[str, str] = {}

    def __enter__(self) -> Nodes:
        logging.disable(logging.WARNING)
        self._before = dict(os.environ)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # Ray reads them when imported
        from ray._private import services

        services.get_node = _patient(services.get_node)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        import ray

        ray.shutdown()  # where this process was a driver too
        self.kill()
        os.environ.clear()
        os.environ.update(self._before)
        logging.disable(logging.NOTSET)

    def start(self) -> None:
        """A new cluster with all nodes."""
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self._nodes: list[tuple[Mapping[str, Any], Any]] = []
        self._add({"num_cpus": 0})
        self.complete()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def complete(self) -> None:
        """Add what is missing."""
        missing = list(self._shapes)
        for shape, _ in self._nodes:
            missing.remove(shape)
        self._nodes += [(shape, self._add(shape)) for shape in missing]

    @property
    def ids(self) -> list[str]:
        """Ray's ids of the nodes, the oldest first."""
        return [str(node.node_id) for _, node in self._nodes]

    def lose(self) -> None:
        """The oldest node dies without notice."""
        self._cluster.remove_node(self._nodes.pop(0)[1], allow_graceful=False)

    def drain(self) -> None:
        """The oldest node is told that it will be taken away, and is."""
        import ray
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until_ms = int((time.time() + NOTICE_S) * 1000)
        accepted, answer = ray._raylet.GcsClient(address=self.address).drain_node(
            self.ids[0], reason, "preempted", until_ms
        )
        if not accepted:
            raise RuntimeError(f"a node must take notice, but got {answer}; is it there?")
        time.sleep(NOTICE_S + 1)
        self.lose()

    def kill(self) -> None:
        """All nodes and the head die at once."""
        for _, node in self._nodes:
            self._cluster.remove_node(node, allow_graceful=False)
        self._nodes = []
        if self._cluster.head_node is not None:
            self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def _add(self, shape: Mapping[str, Any]) -> Any:
        for attempt in range(ATTEMPTS):
            before = _children()
            try:
                return self._cluster.add_node(
                    **shape,
                    object_store_memory=STORE_BYTES,
                    include_dashboard=False,
                    include_log_monitor=False,
                    no_monitor=True,
                    wait=False,
                )
            except Exception:
                _end(_children() - before)
                if attempt + 1 == ATTEMPTS:
                    raise
        return None


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Waits for a node for as long as its process is there; Ray would give it 30 seconds."""

    def wait(address: str, node_id: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return get_node(address, node_id)
            except RuntimeError as error:
                if time.monotonic() > deadline or any(map(_dead_raylet, _children())):
                    raise ConnectionError("the node did not come up") from error
                time.sleep(0.2)

    return wait


def _children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in tasks for pid in file.read_text().split()}


def _dead_raylet(pid: int) -> bool:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return False
    return name == "raylet" and rest.split()[0] == "Z"


def _end(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
