"""What a dispatcher is told (events) and what it answers (instructions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evo.candidates import Outcome, Request


@dataclass(frozen=True)
class Submitted:
    request: Request


@dataclass(frozen=True)
class WorkerJoined:
    """A worker that can take requests: one that was started, or one that was already there."""

    worker: str
    started: bool = True


@dataclass(frozen=True)
class StartFailed:
    """A worker did not come up. Starting again may help where it died (`lost`), not where its factory raised; where its
    machine went away (`machine`) that is nobody's fault."""

    reason: str
    lost: bool = False
    machine: bool = False


@dataclass(frozen=True)
class WorkerLost:
    """A worker died: alone, which its requests may be the cause of, or with its `machine`, which they are not."""

    worker: str
    reason: str
    machine: bool = False


@dataclass(frozen=True)
class Finished:
    worker: str
    key: str
    measures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    """The plan itself cannot be evaluated."""

    worker: str
    key: str
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class TimedOut:
    """The request took too long, and its worker was killed for it."""

    worker: str
    key: str
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Slow:
    """A worker takes far longer than is usual: another one may be quicker."""

    worker: str


@dataclass(frozen=True)
class Assign:
    """Requests for a worker, one after the other; more than one only where each takes next to no time."""

    worker: str
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Report:
    outcome: Outcome


@dataclass(frozen=True)
class StartWorker:
    pass


@dataclass(frozen=True)
class StopWorker:
    """What it works on has been answered by another one."""

    worker: str


@dataclass(frozen=True)
class GiveUp:
    """No worker is left and none can be started."""

    reason: str


Event = Submitted | WorkerJoined | StartFailed | WorkerLost | Finished | Failed | TimedOut | Slow
Instruction = Assign | Report | StartWorker | StopWorker | GiveUp
