"""What travels between algorithm, backend and journal: candidates out, evaluations back, joined by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np

from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan

STEP1 = "step1"
STEP2 = "step2"
FINAL = "final"
RUNG = "rung"  # with a number, from 1 on


def rung_steps(count: int) -> tuple[str, ...]:
    """The steps between step 1 and step 2, cheapest first."""
    return tuple(f"{RUNG}{i + 1}" for i in range(count))


class Status(str, Enum):
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One genome to be evaluated at one fidelity step.

    `id` is unique within a run except that the same candidate keeps its id when it is promoted to a higher step;
    `key` is unique without exception, and results join by it, never by position. `predecessor` is the key of an earlier
    candidate from whose tuned weights this one goes on; empty for the uncompressed network's.
    """

    id: str
    generation: int
    genome: Genome
    step: str
    parents: tuple[str, ...] = ()
    role: str = ""
    opponents: tuple[str, ...] = ()
    predecessor: str = ""

    @property
    def key(self) -> str:
        return f"{self.id}@{self.step}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one candidate. A failed one has no measures but a reason; it ranks after every completed one."""

    candidate: Candidate
    status: Status
    measures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    weights_version: int = 0
    seconds: float = 0.0
    worker: str = ""

    @property
    def completed(self) -> bool:
        return self.status is Status.COMPLETED


@dataclass(frozen=True)
class Batch:
    """Candidates to evaluate, after shared weights (if any) have been trained on the genomes in `train_on`."""

    candidates: tuple[Candidate, ...]
    train_on: tuple[Genome, ...] = ()


@dataclass(frozen=True)
class Predecessor:
    """Earlier work, from whose tuned weights later work goes on."""

    plan: CompressionPlan
    step: str
    seed: int


@dataclass(frozen=True)
class Request:
    """One unit of work for a backend. It goes on from the last of `lineage`, which went on from the one before, and so forth."""

    key: str
    plan: CompressionPlan
    step: str
    seed: int
    weights_version: int = 0
    lineage: tuple[Predecessor, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a backend answers for one request: measures, or the reason why the plan itself cannot be evaluated."""

    key: str
    status: Status
    measures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    worker: str = ""


class Backend(Protocol):
    """Where evaluations run. Yields one outcome per request, in order of completion, and never raises for a bad plan."""

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]: ...
    def close(self) -> None: ...


class StreamingBackend(Backend, Protocol):
    """A backend that asks for work as workers become free: `more(n)` gives at most n further requests, none for now or
    for good. It ends when nothing is under way and `more` gives nothing."""

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]: ...


class Scorer(Protocol):
    """A fidelity step so cheap that it runs on the driver, vectorised: codes (N, genes) in, measures of shape (N,) out."""

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]: ...


@runtime_checkable
class ContinuingScorer(Scorer, Protocol):
    """A scorer that also knows networks which go on from the tuned weights of earlier work."""

    def after(self, lineage: Sequence[Predecessor]) -> Scorer:
        """The scorer of plans that go on from the last of `lineage`: it predicts what they lose beyond that one."""
        ...
