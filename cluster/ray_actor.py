"""The evaluator in a process of its own, and what its answers and its death mean to a dispatcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.messages import Event, Failed, Finished, WorkerLost
from cluster.worker import answer, build, first_line
from evaluators.protocol import Evaluator, EvaluatorFactory
from evo.candidates import Outcome, Request, Status


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

    def evaluate(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._evaluator is None:
            raise RuntimeError(
                f"an actor must be started before it evaluates, but got {len(requests)} requests; call start"
            )
        return [answer(self._evaluator, request, self._threads, self._name, or_elsewhere=True) for request in requests]


def event_of(outcome: Outcome, worker: str) -> Event:
    if outcome.status is Status.COMPLETED:
        return Finished(worker, outcome.key, outcome.measures, outcome.seconds)
    return Failed(worker, outcome.key, outcome.reason, outcome.seconds)


def fault_events(worker: str, keys: Sequence[str], error: Exception) -> list[Event]:
    """An answer that could not be fetched: the plan's fault, unless memory ran out or it cannot be told which of several
    plans."""
    cause = getattr(error, "cause", None) or error
    reason = first_line(cause)
    of_one = len(keys) == 1 and not isinstance(cause, MemoryError)
    return [Failed(worker, keys[0], reason)] if of_one else [WorkerLost(worker, reason)]


def lost_with_machine(error: Any) -> bool:
    """Whether Ray says that an actor went down with its machine, and not by itself."""
    return (
        bool(getattr(error, "preempted", False)) or "node has died" in str(error) or "node was terminated" in str(error)
    )
