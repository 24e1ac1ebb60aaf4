"""Connecting to Ray: an existing cluster, or a private one on this machine that leaves no trace."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cluster.worker import first_line
from evo.failures import WorkerStartError

REACH_TIMEOUT_S = 10.0
START_ATTEMPTS = 4
_TOO_SLOW = ("timed out during startup", "Timed out waiting for file")
_TOKEN_SETTINGS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class RaySession:
    """Ray, connected when it is first asked for, and the factory by which actors build what they hold, sent there once."""

    def __init__(self, address: str | None, cpus: int, make: Callable[[], Any]) -> None:
        self._address, self._cpus, self._make = address, cpus, make
        self._ray: Any = None
        self._factory: Any = None
        self._owns_cluster = False

    @property
    def ray(self) -> Any:
        """The module `ray`; without an address, connected to a cluster with at least `cpus` CPU slots."""
        if self._ray is None:
            self._ray, self._owns_cluster = connect(self._address, self._cpus)
        return self._ray

    @property
    def factory(self) -> Any:
        """A reference for actors. Raises WorkerStartError where the factory cannot be sent."""
        if self._factory is None:
            try:
                self._factory = self.ray.put(self._make)
            except TypeError as error:
                raise WorkerStartError.because(f"a factory that cannot be sent to it ({first_line(error)})") from error
        return self._factory

    def close(self) -> None:
        """Shut down the cluster, if it was started here."""
        if self._owns_cluster:
            self._ray.shutdown()
        self._ray, self._factory, self._owns_cluster = None, None, False


def connect(address: str | None, cpus: int) -> tuple[Any, bool]:
    """The module `ray`, connected, and whether a cluster was started for it (which the caller then shuts down).

    Without an address, and outside of a Ray job, a cluster with at least `cpus` CPU slots is started on this machine.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        _keep_private()
    else:
        _require_reachable(address)
    import ray

    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        _start_here(ray, max(cpus, os.cpu_count() or 1), quiet)
        return ray, True
    try:
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_let_in(address, error) from error
    return ray, False


def _start_here(ray: Any, cpus: int, quiet: dict[str, Any]) -> None:
    """Start a private cluster; again where a busy machine was too slow for Ray's patience."""
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address="local", include_dashboard=False, num_cpus=cpus, **quiet)
            return
        except Exception as error:
            ray.shutdown()
            if not any(words in str(error) for words in _TOO_SLOW) or attempt + 1 == START_ATTEMPTS:
                raise


def _require_reachable(address: str) -> None:
    """Raise ConnectionError at once where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"address must be that of a running Ray cluster, but got address={address} ({_first_line(error)}); "
        "start the cluster, or leave the address out to run on this machine"
    )


def _not_let_in(address: str, error: Exception) -> ConnectionError:
    """Ray does not say why it gave up; where something listens it is most often the token."""
    token = "the token given" if any(os.environ.get(name) for name in _TOKEN_SETTINGS[1:]) else "no token given"
    return ConnectionError(
        f"a Ray cluster must let this driver in, but got address={address} ({_first_line(error)}) with {token}; is a head "
        "running there, and is RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) what it was started with?"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _keep_private() -> None:
    """A cluster that only this process uses: a token of its own, and sockets on the loopback address only.

    Since Ray 2.59 `ray.init` protects a local cluster by a token, which it writes to the home directory unless one is
    given; a token left there changes how later `ray` commands connect. Ray takes loopback only where it believes that
    it cannot form a cluster, which it reads from the environment when it is first imported.
    """
    if not any(name in os.environ for name in _TOKEN_SETTINGS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def worker_environment(threads: int) -> dict[str, Any]:
    """A runtime_env in which workers import what this process imports, from whatever folder they start in."""
    paths = os.pathsep.join(import_paths([str(Path(__file__).resolve().parents[1]), *sys.path]))
    return {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}}


def import_paths(entries: Iterable[str]) -> list[str]:
    """Absolute folders among `entries` that are not part of the Python installation, which workers have anyway."""
    installed = [Path(path) for path in set(sysconfig.get_paths().values())]
    found = dict.fromkeys(os.path.abspath(entry) for entry in entries)
    return [p for p in found if os.path.isdir(p) and not any(_is_within(Path(p), root) for root in installed)]


def _is_within(path: Path, root: Path) -> bool:
    return root == path or root in path.parents or bool({"site-packages", "dist-packages"} & set(path.parts))
