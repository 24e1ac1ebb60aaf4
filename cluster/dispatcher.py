"""Who evaluates what: events in, instructions out. No input or output, no clock, no threads.

A request is queued, or runs on a worker (a second one where the first is slow), or has been reported. A lost worker costs
what it was at, which is retried elsewhere; an error of the plan itself is reported and not retried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from cluster.messages import (
    Assign,
    Event,
    Failed,
    Finished,
    GiveUp,
    Instruction,
    Report,
    Slow,
    StartFailed,
    StartWorker,
    StopWorker,
    Submitted,
    TimedOut,
    WorkerJoined,
    WorkerLost,
)
from evo.candidates import Outcome, Request, Status

BATCH_S = 0.02  # requests that together take less than this travel together
MAX_BATCH = 256
FORGETTING = 0.95


def all_at_once(requests: Sequence[Request]) -> Callable[[int], Sequence[Request]]:
    """A source of work that gives everything when first asked, and then nothing."""
    given = iter((tuple(requests),))
    return lambda free: next(given, ())


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
        self._running: dict[str, dict[str, Request]] = {}
        self._at: dict[str, list[str]] = {}  # workers that run a request, by its key
        self._idle: deque[str] = deque()
        self._attempts: dict[str, int] = {}
        self._pace: dict[str, float] = {}  # by step: seconds of the slowest recent evaluations
        self._starting = starting
        self._failed_starts, self._start_fault = 0, ""

    @property
    def finished(self) -> bool:
        return not self._attempts

    @property
    def free(self) -> int:
        """How many more requests there are workers for."""
        return max(0, self.workers - len(self._attempts))

    @property
    def spare(self) -> bool:
        """Whether somebody has nothing to do."""
        return bool(self._idle)

    def expected(self, step: str) -> float | None:
        """Seconds that a slow evaluation of a step takes; None before the first."""
        return self._pace.get(step)

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
        elif isinstance(event, Slow):
            instructions += self._copy(event.worker)
        elif event.key in self._running.get(event.worker, ()):
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
        if not event.machine:
            self._failed_starts = self._failed_starts + 1 if event.lost else self.max_attempts
            self._start_fault = event.reason

    def _lose(self, event: WorkerLost) -> list[Instruction]:
        if event.worker in self._idle:
            self._idle.remove(event.worker)
        reports: list[Instruction] = []
        for request in reversed(self._running.pop(event.worker, {}).values()):
            self._at[request.key].remove(event.worker)
            if self._workers_on(request.key):
                continue
            self._attempts[request.key] -= event.machine
            if self._attempts[request.key] < self.max_attempts:
                self._queue.appendleft(request)
            else:
                reason = f"its worker was lost {self.max_attempts} times, last: {event.reason}"
                reports.append(self._report(Outcome(request.key, Status.FAILED, reason=reason, worker=event.worker)))
        return reports

    def _complete(self, event: Finished | Failed | TimedOut) -> list[Instruction]:
        request = self._leave(event.worker, event.key)
        if isinstance(event, TimedOut):
            self._lose(WorkerLost(event.worker, event.reason, machine=True))  # what it had not begun is not to blame
            if self._workers_on(event.key):
                return []  # the other copy has a deadline of its own
        self._pace[request.step] = max(event.seconds, FORGETTING * self._pace.get(request.step, 0.0))
        if isinstance(event, Finished):
            outcome = Outcome(event.key, Status.COMPLETED, event.measures, seconds=event.seconds, worker=event.worker)
        else:
            outcome = Outcome(event.key, Status.FAILED, reason=event.reason, seconds=event.seconds, worker=event.worker)
        return [self._report(outcome), *self._stop_copies(event.key)]

    def _leave(self, worker: str, key: str) -> Request:
        request = self._running[worker].pop(key)
        self._at[key].remove(worker)
        if not self._running[worker]:
            del self._running[worker]
            self._idle.append(worker)
        return request

    def _workers_on(self, key: str) -> list[str]:
        return self._at.get(key, [])

    def _stop_copies(self, key: str) -> list[Instruction]:
        others = self._at.pop(key, [])
        for worker in others:
            del self._running[worker][key]
        done = [worker for worker in others if not self._running[worker]]
        for worker in done:
            del self._running[worker]
        return [StopWorker(worker) for worker in done]

    def _report(self, outcome: Outcome) -> Report:
        del self._attempts[outcome.key]
        if not self._workers_on(outcome.key):
            self._at.pop(outcome.key, None)
        return Report(outcome)

    def _assign(self) -> list[Instruction]:
        assigned: list[Instruction] = []
        while self._queue and self._idle:
            assigned.append(self._put(self._idle.popleft(), self._take()))
        return assigned

    def _put(self, worker: str, requests: tuple[Request, ...]) -> Assign:
        self._running[worker] = {request.key: request for request in requests}
        for request in requests:
            self._attempts[request.key] += 1
            self._at.setdefault(request.key, []).append(worker)
        return Assign(worker, requests)

    def _take(self) -> tuple[Request, ...]:
        """The next requests for one worker. What was lost before goes alone, so that it cannot take others with it."""
        taken = [self._queue.popleft()]
        if self._attempts[taken[0].key]:
            return tuple(taken)
        size = self._batch(taken[0].step)
        while len(taken) < size and self._queue and self._fits(taken[0], self._queue[0]):
            taken.append(self._queue.popleft())
        return tuple(taken)

    def _fits(self, first: Request, other: Request) -> bool:
        return other.step == first.step and not self._attempts[other.key]

    def _batch(self, step: str) -> int:
        if step not in self._pace or self.max_attempts == 1:
            return 1
        share = -(-(len(self._queue) + 1) // (len(self._idle) + len(self._running) + 1))
        return min(MAX_BATCH, share, int(BATCH_S / max(self._pace[step], 1e-9)))

    def _copy(self, slow: str) -> list[Instruction]:
        """A second copy of the first request of a slow worker that has none, where somebody has nothing else to do."""
        if self._queue or not self._idle:
            return []
        for request in self._running.get(slow, {}).values():
            if len(self._workers_on(request.key)) == 1 and self._attempts[request.key] < self.max_attempts:
                return [self._put(self._idle.popleft(), (request,))]
        return []

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
        queued = [r.key for r in self._queue]
        running = [key for requests in self._running.values() for key in requests]
        rules = {
            "every unfinished request is queued or running": {*queued, *running} == set(self._attempts),
            "a queued request is queued once and does not run": len({*queued} - {*running}) == len(queued),
            "a request runs on two workers at most": all(running.count(key) <= 2 for key in running),
            "workers of a request are known": sorted(k for k, at in self._at.items() for _ in at) == sorted(running),
            "a worker is idle or at work": not set(self._idle) & set(self._running) and all(self._running.values()),
            "no worker is idle twice": len(set(self._idle)) == len(self._idle),
            "no worker is idle while requests wait": not (self._queue and self._idle),
            "attempts are within bounds": all(0 <= n <= self.max_attempts for n in self._attempts.values()),
            "a running request was attempted": all(self._attempts[key] >= 1 for key in running),
            "starts are counted": self._starting >= 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise RuntimeError(f"the dispatcher is in a state that must not be: {broken[0]}; report this as a bug")
