"""Evaluations on Ray actors, each of which loads network, data and statistics once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.dispatcher import Dispatcher
from cluster.messages import (
    Assign,
    Event,
    Failed,
    Finished,
    Instruction,
    Report,
    StartFailed,
    StartWorker,
    Submitted,
    TimedOut,
    WorkerJoined,
    WorkerLost,
)
from cluster.ray_session import connect, worker_environment
from cluster.worker import answer, build, first_line
from evaluators.protocol import Evaluator, EvaluatorFactory
from evo.candidates import Outcome, Request
from evo.failures import WorkerStartError

PATIENCE_S = 60.0


class EvaluatorActor:
    """Lives in a process of its own. Its factory is a method's argument, so that what it raises can be told apart."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._evaluator: Evaluator | None = None

    def start(self, make_evaluator: EvaluatorFactory) -> str:
        """Empty, or why the evaluator could not be built."""
        try:
            self._evaluator = build(make_evaluator, self._threads)
        except Exception as error:
            return first_line(error)
        return ""

    def evaluate(self, request: Request) -> Outcome:
        if self._evaluator is None:
            raise RuntimeError(f"an actor must be started before it evaluates, but got key={request.key}; call start")
        return answer(self._evaluator, request, self._threads, self._name)


@dataclass(frozen=True)
class _Call:
    """What an actor is doing: starting (no key) or evaluating, since a moment of the monotonic clock."""

    worker: str
    key: str
    since: float


class RayBackend:
    """`workers` actors with `threads` CPU slots and `gpus` (a share may be a fraction) each.

    Without `address` a Ray cluster is started on this machine, and shut down by `close`. An actor that dies is replaced
    and its request tried again, on at most `max_attempts` actors. A request without result after `deadline_s` seconds
    fails, and its actor is killed. Actors are started when there is work for them and kept until `close`.
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
    ) -> None:
        Dispatcher(workers, max_attempts)
        self._make_evaluator, self._workers, self._threads, self._gpus = make_evaluator, workers, threads, gpus
        self._address, self._deadline_s, self._max_attempts = address, deadline_s, max_attempts
        self._ray: Any = None
        self._owns_cluster = False
        self._factory: Any = None
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._named = 0

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        if not requests:
            return
        self._connect()
        self._abandon()
        starting = {call.worker for call in self._calls.values()}
        dispatcher = Dispatcher(self._workers, self._max_attempts, len(starting))
        events: list[Event] = [WorkerJoined(name, started=False) for name in self._actors if name not in starting]
        events += [Submitted(request) for request in requests]
        try:
            while not dispatcher.finished or events:
                instructions = [i for event in events for i in dispatcher.handle(event)]
                self._perform(instructions)
                yield from (i.outcome for i in instructions if isinstance(i, Report))
                events = [] if dispatcher.finished else self._wait()
        finally:
            self._abandon()

    def close(self) -> None:
        for name in tuple(self._actors):
            self._drop(name)
        self._calls.clear()
        if self._owns_cluster:
            self._ray.shutdown()
        self._ray, self._factory, self._owns_cluster = None, None, False

    def _connect(self) -> None:
        if self._ray is None:
            self._ray, self._owns_cluster = connect(self._address, self._workers * self._threads)
        if self._factory is None:
            try:
                self._factory = self._ray.put(self._make_evaluator)
            except TypeError as error:
                raise WorkerStartError.because(f"a factory that cannot be sent to it ({first_line(error)})") from error

    def _perform(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Assign):
                ref = self._actors[instruction.worker].evaluate.remote(instruction.request)
                self._calls[ref] = _Call(instruction.worker, instruction.request.key, time.monotonic())
            elif isinstance(instruction, StartWorker):
                self._start()
            elif not isinstance(instruction, Report):
                raise WorkerStartError.because(instruction.reason)

    def _start(self) -> None:
        name = f"ray-{self._named}"
        self._named += 1
        kind = self._ray.remote(EvaluatorActor).options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env=worker_environment(self._threads),
        )
        self._actors[name] = kind.remote(name, self._threads)
        self._calls[self._actors[name].start.remote(self._factory)] = _Call(name, "", time.monotonic())

    def _wait(self) -> list[Event]:
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=self._patience())
        if not ready and not any(call.key for call in self._calls.values()):
            warnings.warn(
                f"no worker has started within {PATIENCE_S:g} s; does the cluster have {self._threads} CPUs and "
                f"{self._gpus:g} GPUs free for one?",
                RuntimeWarning,
                stacklevel=3,
            )
        return [self._settle(ref) for ref in ready] + self._overdue()

    def _patience(self) -> float:
        since = [call.since for call in self._calls.values() if call.key]
        if self._deadline_s is None or not since:
            return PATIENCE_S
        return min(PATIENCE_S, max(0.0, min(since) + self._deadline_s - time.monotonic()))

    def _settle(self, ref: Any) -> Event:
        call = self._calls.pop(ref)
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._drop(call.worker)
            reason = first_line(error)
            return WorkerLost(call.worker, reason) if call.key else StartFailed(reason, lost=True)
        except Exception as error:
            reason = first_line(getattr(error, "cause", None) or error)
            return Failed(call.worker, call.key, reason) if call.key else self._unusable(call.worker, reason)
        if isinstance(result, Outcome):
            return _event(result, call.worker)
        return self._unusable(call.worker, result) if result else WorkerJoined(call.worker)

    def _unusable(self, worker: str, reason: str) -> StartFailed:
        self._drop(worker)
        return StartFailed(reason)

    def _overdue(self) -> list[Event]:
        if self._deadline_s is None:
            return []
        now, events = time.monotonic(), list[Event]()
        for ref, call in tuple(self._calls.items()):
            if call.key and now - call.since >= self._deadline_s:
                del self._calls[ref]
                self._drop(call.worker)
                reason = f"no result within the deadline of {self._deadline_s:g} s"
                events.append(TimedOut(call.worker, call.key, reason, now - call.since))
        return events

    def _abandon(self) -> None:
        """Kill the actors that still evaluate for somebody who no longer listens."""
        for ref, call in tuple(self._calls.items()):
            if call.key:
                del self._calls[ref]
                self._drop(call.worker)

    def _drop(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)


def _event(outcome: Outcome, worker: str) -> Event:
    if outcome.status.value == "completed":
        return Finished(worker, outcome.key, outcome.measures, outcome.seconds)
    return Failed(worker, outcome.key, outcome.reason, outcome.seconds)
