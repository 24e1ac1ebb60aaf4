"""Evaluations in this very process: no Ray needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.worker import answer, build, first_line
from evaluators.protocol import Evaluator, EvaluatorFactory
from evo.candidates import Outcome, Request
from evo.failures import WorkerStartError


class LocalBackend:
    """One evaluator, built with the first request.

    A plan that kills the process takes the search with it, to be resumed; use RayBackend where that matters.
    """

    def __init__(self, make_evaluator: EvaluatorFactory, threads: int = 1) -> None:
        self._make_evaluator, self._threads = make_evaluator, threads
        self._evaluator: Evaluator | None = None

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        evaluator = self._ready()
        for request in requests:
            yield answer(evaluator, request, self._threads, "local-0")

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        while requests := more(1):
            yield from self.evaluate(requests)

    def close(self) -> None:
        self._evaluator = None

    def _ready(self) -> Evaluator:
        if self._evaluator is None:
            try:
                self._evaluator = build(self._make_evaluator, self._threads)
            except Exception as error:
                raise WorkerStartError.because(first_line(error)) from error
        return self._evaluator
