"""One driver per run directory: a lease that is kept alive by a heartbeat and taken over when its holder is gone.

A claim is a file of its own, `.lease-OWNER.json`, so that any strongly consistent store will do: who claims lists the
claims afterwards, and holds the lease only where there is no other. Two who claim at once both see the other, or one of
them does; whoever sees another withdraws and tries again. No clock is compared with that of another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

from evo.failures import StorageError
from evo.storage.folder import Folder

HEARTBEAT_S = 5.0
PATIENCE_S = 30.0  # a claim of another machine whose heartbeat stands still for so long is given up
ATTEMPTS = 8
PREFIX = ".lease-"


@dataclass(frozen=True)
class Claim:
    """Who claims a run directory. `place` is where process ids mean the same: host, boot and process namespace."""

    owner: str
    place: str
    host: str
    pid: int
    started: str
    term: int = 1
    beat: int = 0

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.owner}.json"

    @classmethod
    def mine(cls) -> Claim:
        pid = os.getpid()
        return cls(secrets.token_hex(8), _place(), socket.gethostname(), pid, _started(pid))

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """Raises ValueError, TypeError or KeyError where the bytes are not a whole claim."""
        return cls(**json.loads(data))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def seen_from(self, place: str) -> bool | None:
        """Whether the process is alive; None where only its heartbeat can tell."""
        return None if self.place != place else _started(self.pid) == self.started != ""


@dataclass
class Lease:
    """`with Lease(folder, uri) as lease:` holds the run directory; raises ValueError where somebody else does.

    `note` takes sentences for people. `require` raises StorageError once the lease is lost.
    """

    folder: Folder
    uri: str
    note: Callable[[str], None] = lambda _: None
    heartbeat_s: float = HEARTBEAT_S
    patience_s: float = PATIENCE_S
    claim: Claim = field(default_factory=Claim.mine)
    _taker: Claim | None = None
    _lost: bool = False
    _beaten: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Lease:
        self._acquire()
        threading.Thread(target=self._keep_alive, name="lease", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        with self._lock, contextlib.suppress(OSError):
            self.folder.delete(self.claim.name)

    def require(self) -> None:
        """Raise StorageError where another driver has taken over; OSError while that cannot be found out."""
        if _now() - self._beaten > self.patience_s / 2:  # this process was suspended, or the storage was away
            self._beat()
        if self._lost:
            by = f"by process {self._taker.pid} on {self._taker.host}" if self._taker else "and given back"
            raise StorageError(
                f"a search must hold its run directory, but got {self.uri} taken over {by} while this process was not "
                "heard of; let the other one finish"
            )

    def _acquire(self) -> None:
        for attempt in range(ATTEMPTS):
            dead = self._require_dead(self._others())
            self.claim = replace(self.claim, term=1 + max((c.term for c in dead), default=0))
            self.folder.write(self.claim.name, self.claim.to_json())
            rivals = [c for c in self._others() if c.owner not in {d.owner for d in dead}]
            if not rivals:
                self._beaten = _now()
                self._delete(dead)
                return
            self.folder.delete(self.claim.name)
            time.sleep(random.uniform(0.0, 0.1 * 2**attempt))
        raise _held(self.uri, rivals[0])

    def _require_dead(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        """The given claims, none of which has a living holder; waits for heartbeats that only time can tell."""
        place = self.claim.place
        for claim in claims:
            if claim.seen_from(place):
                raise _held(self.uri, claim)
        unknown = [c for c in claims if c.seen_from(place) is None]
        if unknown:
            self.note(
                f"{self.uri} was in use by process {unknown[0].pid} on {unknown[0].host}; "
                f"waiting {self.patience_s:g} s to see whether it still is"
            )
            self._watch(unknown)
        return claims

    def _watch(self, claims: Sequence[Claim]) -> None:
        until = _now() + self.patience_s
        while _now() < until:
            time.sleep(min(self.heartbeat_s, self.patience_s) / 2)
            current = {c.owner: c for c in self._others()}
            for claim in claims:
                if current.get(claim.owner, claim).beat != claim.beat:
                    raise _held(self.uri, claim)
            if not current:
                return

    def _others(self) -> list[Claim]:
        return [c for c in claims(self.folder) if c.owner != self.claim.owner]

    def _keep_alive(self) -> None:
        while not (self._lost or self._done.wait(self.heartbeat_s)):
            with contextlib.suppress(OSError):  # storage that is away for a while is waited for where data are written
                self._beat()

    def _beat(self) -> None:
        with self._lock:
            if self._done.is_set() or self._lost:
                return
            present = claims(self.folder)
            newer = [c for c in present if c.term > self.claim.term]
            if newer or self.claim.owner not in {c.owner for c in present}:
                self._taker, self._lost = next(iter(newer), None), True
                return
            self.claim = replace(self.claim, beat=self.claim.beat + 1)
            self.folder.write(self.claim.name, self.claim.to_json())
            self._delete([c for c in present if c.term < self.claim.term])
            self._beaten = _now()

    def _delete(self, dead: Sequence[Claim]) -> None:
        for claim in dead:
            with contextlib.suppress(OSError):
                self.folder.delete(claim.name)


def claims(folder: Folder) -> list[Claim]:
    """Every claim in a folder. One that is not whole was never held: whoever wrote it did not get to list the others."""
    found = []
    for name in folder.names():
        if name.startswith(PREFIX):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                found.append(Claim.from_json(folder.read(name)))
    return found


def _held(uri: str, claim: Claim) -> ValueError:
    return ValueError(
        f"a run directory must have one driver at a time, but got {uri} in use by process {claim.pid} on {claim.host}; "
        f"wait for it, or stop it and continue with: evo resume {uri}"
    )


def _now() -> float:
    """Seconds that also pass while the machine is suspended, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _place() -> str:
    return f"{socket.gethostname()} {_read('/proc/sys/kernel/random/boot_id')} {_namespace()}"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine was started, in a form that no other process of that id shares; empty where gone."""
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        state, *rest = stat.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return str(pid)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
