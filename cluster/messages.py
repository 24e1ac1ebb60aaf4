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
    """A worker that can take a request: one that was started, or one that was already there."""

    worker: str
    started: bool = True


@dataclass(frozen=True)
class StartFailed:
    """A worker did not come up. Starting again may help where it died (`lost`), not where its factory raised."""

    reason: str
    lost: bool = False


@dataclass(frozen=True)
class WorkerLost:
    worker: str
    reason: str


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
class Assign:
    worker: str
    request: Request


@dataclass(frozen=True)
class Report:
    outcome: Outcome


@dataclass(frozen=True)
class StartWorker:
    pass


@dataclass(frozen=True)
class GiveUp:
    """No worker is left and none can be started."""

    reason: str


Event = Submitted | WorkerJoined | StartFailed | WorkerLost | Finished | Failed | TimedOut
Instruction = Assign | Report | StartWorker | GiveUp
