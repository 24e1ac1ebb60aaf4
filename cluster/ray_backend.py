"""Evaluations on Ray actors, each of which loads network, data and statistics once."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.dispatcher import Dispatcher, all_at_once
from cluster.messages import (
    Assign,
    Event,
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
from cluster.ray_actor import EvaluatorActor, event_of, fault_events, lost_with_machine
from cluster.ray_session import RaySession, worker_environment
from cluster.worker import first_line
from evaluators.protocol import EvaluatorFactory
from evo.candidates import Outcome, Request
from evo.failures import WorkerStartError

PATIENCE_S = 60.0
SLOW_FACTOR = 3.0  # an evaluation is slow at this multiple of the slowest recent one ...
SLOW_S = 2.0  # ... and at least so many seconds


@dataclass(frozen=True)
class _Call:
    """What an actor is doing: starting (no requests) or evaluating, since a moment of the monotonic clock."""

    worker: str
    requests: tuple[Request, ...]
    since: float


class RayBackend:
    """`workers` actors that run `threads` threads and hold `cpus` slots (default: as many as threads), `gpus`, and units of
    `custom` resources of the cluster each; shares below one may be fractions.

    Without `address` a Ray cluster with room for them, or for `cluster_cpus` where that is more, is started on this machine
    and shut down by `close`. An actor that dies is replaced
    and its request tried again, on at most `max_attempts` actors; an actor that went down with its machine does not count.
    A request without result after `deadline_s` seconds fails, and its actor is killed; one that takes far longer than usual
    is given to a second actor as soon as one has nothing else to do. Actors are started when there is work for them and
    kept until `close`.
    """

    def __init__(
        self,
        make_evaluator: EvaluatorFactory,
        workers: int = 2,
        threads: int = 1,
        address: str | None = None,
        deadline_s: float | None = None,
        max_attempts: int = 3,
        gpus: float = 0.0,
        cpus: float | None = None,
        custom: Mapping[str, float] | None = None,
        cluster_cpus: int = 0,
    ) -> None:
        self._workers, self._threads = workers, threads
        self._cpus, self._gpus, self._custom = float(threads) if cpus is None else cpus, gpus, dict(custom or {})
        self._deadline_s, self._max_attempts = deadline_s, max_attempts
        self._session = RaySession(address, max(cluster_cpus, math.ceil(workers * self._cpus)), make_evaluator)
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._named = 0
        self._dispatcher = Dispatcher(workers, max_attempts)
        self._told_slow: set[str] = set()

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        return self.stream(all_at_once(requests))

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        new = more(self._workers)
        if not new:
            return
        self._abandon()
        starting = {call.worker for call in self._calls.values()}
        self._dispatcher = Dispatcher(self._workers, self._max_attempts, len(starting))
        events: list[Event] = [WorkerJoined(name, started=False) for name in self._actors if name not in starting]
        try:
            while True:
                events += [Submitted(request) for request in new]
                for event in events:
                    yield from self._handle(event)
                new = more(self._dispatcher.free)
                if self._dispatcher.finished and not new:
                    return
                events = [] if new else self._slow() or self._wait()
        finally:
            self._abandon()

    def release(self) -> None:
        """Let all actors go; they are started again when there is work."""
        for name in tuple(self._actors):
            self._drop(name)
        self._calls.clear()

    def close(self) -> None:
        self.release()
        self._session.close()

    @property
    def _ray(self) -> Any:
        return self._session.ray

    def _handle(self, event: Event) -> Iterator[Outcome]:
        """A result is handed on, and so recorded, before its worker gets more: no worker ever has two to lose."""
        instructions = self._dispatcher.handle(event)
        yield from (i.outcome for i in instructions if isinstance(i, Report))
        self._perform(instructions)

    def _perform(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Assign):
                ref = self._actors[instruction.worker].evaluate.remote(instruction.requests)
                self._calls[ref] = _Call(instruction.worker, instruction.requests, time.monotonic())
                self._told_slow.discard(instruction.worker)
            elif isinstance(instruction, StartWorker):
                self._start()
            elif isinstance(instruction, StopWorker):
                self._stop(instruction.worker)
            elif not isinstance(instruction, Report):
                raise WorkerStartError.because(instruction.reason)

    def _start(self) -> None:
        name, factory = f"ray-{self._named}", self._session.factory
        self._named += 1
        kind = self._ray.remote(EvaluatorActor).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            resources=self._custom,
            max_restarts=0,
            max_task_retries=0,
            runtime_env=worker_environment(self._threads),
        )
        self._actors[name] = kind.remote(name, self._threads)
        self._calls[self._actors[name].start.remote(factory)] = _Call(name, (), time.monotonic())

    def _wait(self) -> list[Event]:
        calls = list(self._calls)
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=self._patience())
        if ready and len(calls) > 1:
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        if not ready and not any(call.requests for call in self._calls.values()):
            wanted = {"CPUs": self._cpus, "GPUs": self._gpus, **self._custom}
            held = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            warnings.warn(
                f"no worker has started within {PATIENCE_S:g} s; does the cluster have {held} free for one?",
                RuntimeWarning,
                stacklevel=3,
            )
        return [event for ref in ready for event in self._settle(ref)] + self._overdue()

    def _patience(self) -> float:
        """Seconds until something is due that no answer would tell."""
        now, due = time.monotonic(), [time.monotonic() + PATIENCE_S]
        for call in self._calls.values():
            if call.requests and self._deadline_s is not None:
                due.append(call.since + self._deadline_s)
            if call.requests and self._dispatcher.spare and call.worker not in self._told_slow:
                due.append(self._slow_at(call))
        return max(0.0, min(due) - now)

    def _slow_at(self, call: _Call) -> float:
        expected = self._dispatcher.expected(call.requests[0].step)
        return math.inf if expected is None else call.since + max(SLOW_S, SLOW_FACTOR * expected * len(call.requests))

    def _slow(self) -> list[Event]:
        """Calls that a worker without work might answer sooner; each is told once."""
        if not self._dispatcher.spare:
            return []
        calls = {ref: call for ref, call in self._calls.items() if call.requests and call.worker not in self._told_slow}
        slow = {ref: call.worker for ref, call in calls.items() if self._slow_at(call) <= time.monotonic()}
        if slow:  # it may be this process that was held up, and the answers are there
            _, waiting = self._ray.wait(list(slow), num_returns=len(slow), timeout=0)
            slow = {ref: slow[ref] for ref in waiting}
        self._told_slow.update(slow.values())
        return [Slow(worker) for worker in slow.values()]

    def _settle(self, ref: Any) -> list[Event]:
        call = self._calls.pop(ref)
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if not call.requests:
                return [self._unusable(call.worker, first_line(getattr(error, "cause", None) or error))]
            events = fault_events(call.worker, [request.key for request in call.requests], error)
            if isinstance(events[0], WorkerLost):
                self._drop(call.worker)
            return events
        except self._ray.exceptions.RayError as error:  # of the actor, its node, or Ray's memory monitor
            self._drop(call.worker)
            reason, machine = first_line(error), lost_with_machine(error)
            if call.requests:
                return [WorkerLost(call.worker, reason, machine)]
            return [StartFailed(reason, lost=True, machine=machine)]
        if call.requests:
            return [event_of(outcome, call.worker) for outcome in result]
        return [self._unusable(call.worker, result) if result else WorkerJoined(call.worker)]

    def _unusable(self, worker: str, reason: str) -> StartFailed:
        self._drop(worker)
        return StartFailed(reason)

    def _overdue(self) -> list[Event]:
        if self._deadline_s is None:
            return []
        now, events = time.monotonic(), list[Event]()
        for call in tuple(self._calls.values()):
            if call.requests and now - call.since >= self._deadline_s:
                self._stop(call.worker)
                reason = f"no result within the deadline of {self._deadline_s:g} s"
                if len(call.requests) > 1:
                    events.append(WorkerLost(call.worker, reason))
                else:
                    events.append(TimedOut(call.worker, call.requests[0].key, reason, now - call.since))
        return events

    def _abandon(self) -> None:
        """Kill the actors that still evaluate for somebody who no longer listens."""
        for call in tuple(self._calls.values()):
            if call.requests:
                self._stop(call.worker)

    def _stop(self, worker: str) -> None:
        """Kill an actor and forget what it was doing."""
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker != worker}
        self._drop(worker)

    def _drop(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)
