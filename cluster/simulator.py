"""A cluster of any size in simulated time: the dispatcher of the real one, workers that only take as long as real ones do."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.dispatcher import Dispatcher, all_at_once
from cluster.messages import (
    Assign,
    Event,
    Finished,
    Report,
    StartWorker,
    StopWorker,
    Submitted,
    WorkerJoined,
    WorkerLost,
)
from evo.candidates import Outcome, Request
from evo.randomness import stream as random_stream

HOUR_S = 3600.0


@dataclass(frozen=True)
class Conditions:
    """How a cluster behaves: `start_s` until a new worker is ready, `preemptions` per worker and hour without notice,
    `latency_s` from driver to worker or back, and `driver_s` of the driver's own time per evaluation."""

    start_s: float = 60.0
    preemptions: float = 0.0
    latency_s: float = 0.005
    driver_s: float = 0.0005


@dataclass
class SimulatedBackend:
    """A backend whose `now` is simulated. `service(request)` gives the seconds of an evaluation, `measure` its measures."""

    workers: int
    service: Callable[[Request], float]
    measure: Callable[[Request], Mapping[str, float]] = lambda _: {}
    conditions: Conditions = Conditions()
    seed: int = 0
    now: float = 0.0
    since: float = 0.0  # from when on use is counted
    useful_s: float = 0.0  # worker time that led to a reported result
    driver_s: float = 0.0
    losses: int = 0
    _due: list[tuple[float, int, Event]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)
    _began: dict[str, float] = field(default_factory=dict)  # what is at work, by worker
    _alive: set[str] = field(default_factory=set)

    @property
    def utilisation(self) -> float:
        """Share of all workers' time so far that led to results."""
        spent = self.workers * (self.now - self.since)
        return self.useful_s / spent if spent else 0.0

    def count_from_now(self) -> None:
        """Begin to count use and losses here: workers that are still starting before are not part of it."""
        self.since, self.useful_s, self.driver_s, self.losses = self.now, 0.0, 0.0, 0

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        return self.stream(all_at_once(requests))

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        dispatcher = Dispatcher(self.workers)
        events: list[Event] = [WorkerJoined(name, started=False) for name in sorted(self._alive)]
        new = more(self.workers)
        while True:
            events += [Submitted(request) for request in new]
            for event in events:
                self._act(instructions := dispatcher.handle(event))
                yield from (i.outcome for i in instructions if isinstance(i, Report))
            new = more(dispatcher.free)
            if dispatcher.finished and not new:
                self._began.clear()
                return
            events = [] if new else self._next()

    def close(self) -> None:
        self._alive.clear()
        self._due.clear()

    def _act(self, instructions: Sequence[object]) -> None:
        for instruction in instructions:
            if isinstance(instruction, StartWorker):
                self._start()
            elif isinstance(instruction, StopWorker):
                self._began.pop(instruction.worker, None)
                self._alive.discard(instruction.worker)
            elif isinstance(instruction, Assign):
                self._run(instruction)

    def _start(self) -> None:
        number = next(self._number)
        ready = self.now + self.conditions.start_s
        self._later(ready, WorkerJoined(f"sim-{number}"))
        if self.conditions.preemptions:
            rng = random_stream(self.seed, "preemption", number)
            lifetime = rng.exponential(HOUR_S / self.conditions.preemptions)
            self._later(ready + lifetime, WorkerLost(f"sim-{number}", "preempted", machine=True))

    def _run(self, assign: Assign) -> None:
        at = self.now + self.conditions.latency_s
        self._began[assign.worker] = at
        for request in assign.requests:
            seconds = self.service(request)
            at += seconds
            finished = Finished(assign.worker, request.key, self.measure(request), seconds)
            self._later(at + self.conditions.latency_s, finished)

    def _later(self, when: float, event: Event) -> None:
        heapq.heappush(self._due, (when, next(self._number), event))

    def _next(self) -> list[Event]:
        """The next event that still matters; the driver is busy for a while with each result."""
        while self._due:
            when, _, event = heapq.heappop(self._due)
            if isinstance(event, WorkerJoined):
                self._alive.add(event.worker)
            elif isinstance(event, WorkerLost):
                if event.worker not in self._alive:
                    continue
                self._alive.discard(event.worker)
                self._began.pop(event.worker, None)
                self.losses += 1
            elif isinstance(event, Finished):
                if event.worker not in self._began:
                    continue
                self.useful_s += event.seconds
                self.driver_s += self.conditions.driver_s
                when = max(when, self.now) + self.conditions.driver_s
            self.now = max(self.now, when)
            return [event]
        raise RuntimeError("a simulation must have something due while requests are unfinished; report this as a bug")


def resampled(seconds: Sequence[float], seed: int) -> Callable[[Request], float]:
    """Service times drawn from measured ones, by the request's seed alone."""
    known = np.asarray(seconds, dtype=float)
    return lambda request: float(known[random_stream(seed, "service", request.seed).integers(len(known))])
