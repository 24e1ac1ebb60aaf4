"""Who evaluates what: events in, instructions out. No input or output, no clock, no threads.

A request is queued, or runs on exactly one worker, or has been reported. A lost worker costs one evaluation, which is
retried elsewhere; an error of the plan itself is reported and not retried.
"""

from __future__ import annotations

from collections import deque

from cluster.messages import (
    Assign,
    Event,
    Failed,
    Finished,
    GiveUp,
    Instruction,
    Report,
    StartFailed,
    StartWorker,
    Submitted,
    TimedOut,
    WorkerJoined,
    WorkerLost,
)
from evo.candidates import Outcome, Request, Status


class Dispatcher:
    """Changed only through `handle`. Keeps up to `workers` workers busy and tries a request on at most `max_attempts`.

    `starting` workers are already on their way.
    """

    def __init__(self, workers: int, max_attempts: int = 3, starting: int = 0) -> None:
        if workers < 1 or max_attempts < 1:
            raise ValueError(
                f"workers and max_attempts must be at least 1, but got workers={workers}, max_attempts={max_attempts}; "
                "raise them"
            )
        self.workers, self.max_attempts = workers, max_attempts
        self._queue: deque[Request] = deque()
        self._running: dict[str, Request] = {}
        self._idle: deque[str] = deque()
        self._attempts: dict[str, int] = {}
        self._starting = starting
        self._failed_starts, self._start_fault = 0, ""

    @property
    def finished(self) -> bool:
        return not self._attempts

    def handle(self, event: Event) -> list[Instruction]:
        """What to do now. Events about a worker or an assignment that is over are ignored."""
        instructions: list[Instruction] = []
        if isinstance(event, Submitted):
            self._submit(event.request)
        elif isinstance(event, WorkerJoined):
            self._join(event)
        elif isinstance(event, StartFailed):
            self._start_failed(event)
        elif isinstance(event, WorkerLost):
            instructions += self._lose(event)
        elif self._is_current(event.worker, event.key):
            instructions += self._complete(event)
        return instructions + self._assign() + self._start()

    def _submit(self, request: Request) -> None:
        if request.key in self._attempts:
            raise ValueError(f"keys of requests must be unique, but got key={request.key} twice; submit it once")
        self._attempts[request.key] = 0
        self._queue.append(request)

    def _join(self, event: WorkerJoined) -> None:
        if event.worker in self._idle or event.worker in self._running:
            return
        self._idle.append(event.worker)
        if event.started:
            self._starting = max(0, self._starting - 1)
            self._failed_starts = 0

    def _start_failed(self, event: StartFailed) -> None:
        self._starting = max(0, self._starting - 1)
        self._failed_starts = self._failed_starts + 1 if event.lost else self.max_attempts
        self._start_fault = event.reason

    def _lose(self, event: WorkerLost) -> list[Instruction]:
        if event.worker in self._idle:
            self._idle.remove(event.worker)
        request = self._running.pop(event.worker, None)
        if request is None:
            return []
        if self._attempts[request.key] < self.max_attempts:
            self._queue.appendleft(request)
            return []
        reason = f"its worker was lost {self.max_attempts} times, last: {event.reason}"
        return [self._report(Outcome(request.key, Status.FAILED, reason=reason, worker=event.worker))]

    def _is_current(self, worker: str, key: str) -> bool:
        return worker in self._running and self._running[worker].key == key

    def _complete(self, event: Finished | Failed | TimedOut) -> list[Instruction]:
        del self._running[event.worker]
        if not isinstance(event, TimedOut):
            self._idle.append(event.worker)
        if isinstance(event, Finished):
            outcome = Outcome(event.key, Status.COMPLETED, event.measures, seconds=event.seconds, worker=event.worker)
        else:
            outcome = Outcome(event.key, Status.FAILED, reason=event.reason, seconds=event.seconds, worker=event.worker)
        return [self._report(outcome)]

    def _report(self, outcome: Outcome) -> Report:
        del self._attempts[outcome.key]
        return Report(outcome)

    def _assign(self) -> list[Instruction]:
        assigned: list[Instruction] = []
        while self._queue and self._idle:
            worker, request = self._idle.popleft(), self._queue.popleft()
            self._running[worker] = request
            self._attempts[request.key] += 1
            assigned.append(Assign(worker, request))
        return assigned

    def _start(self) -> list[Instruction]:
        """As many workers as there is work for, unless starting them has failed too often."""
        present = len(self._idle) + len(self._running) + self._starting
        missing = max(0, min(self.workers, len(self._attempts)) - present)
        if self._failed_starts >= self.max_attempts:
            return [GiveUp(self._start_fault)] if missing and not present else []
        self._starting += missing
        return [StartWorker() for _ in range(missing)]

    def validate(self) -> None:
        """Raise RuntimeError naming the invariant that does not hold."""
        queued, running = [r.key for r in self._queue], [r.key for r in self._running.values()]
        rules = {
            "every unfinished request is queued or running, once": sorted(queued + running) == sorted(self._attempts),
            "a worker is idle or runs one request": not set(self._idle) & set(self._running),
            "no worker is idle twice": len(set(self._idle)) == len(self._idle),
            "no worker is idle while requests wait": not (self._queue and self._idle),
            "attempts are within bounds": all(0 <= n <= self.max_attempts for n in self._attempts.values()),
            "a running request was attempted": all(self._attempts[key] >= 1 for key in running),
            "starts are counted": self._starting >= 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise RuntimeError(f"the dispatcher is in a state that must not be: {broken[0]}; report this as a bug")
