"""Evaluations in this very process: no Ray needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cluster.worker import answer, build, first_line, torch_threads
from evaluators.protocol import Evaluator, EvaluatorFactory
from evo.candidates import Outcome, Request
from evo.failures import WorkerStartError
from evo.loop.shared_weights import Trainer
from search_spaces.genome import Genome


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


class LocalTrainer:
    """Trains with `threads` threads where evaluations would go on beside it, and with `alone` (default: as many) where not. In
    one process they take turns all the same."""

    def __init__(self, trainer: Trainer, threads: int = 1, alone: int | None = None) -> None:
        self._trainer, self._threads, self._alone = trainer, threads, alone or threads

    def train(self, version: int, population: Sequence[Genome]) -> None:
        self._train(self._alone, version, population)

    def start(self, version: int, population: Sequence[Genome]) -> Callable[[], None]:
        return partial(self._train, self._threads, version, population)

    def close(self) -> None:
        self._trainer.close()

    def _train(self, threads: int, version: int, population: Sequence[Genome]) -> None:
        with torch_threads(threads):
            self._trainer.train(version, population)
