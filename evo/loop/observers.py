"""What the search loop reports while it runs, and the isolation of those who listen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from evo.candidates import Evaluation
from evo.storage.columns import EMPTY, Archive


@dataclass(frozen=True)
class Standing:
    """Where a search stands: `evaluations` are all so far, `latest` those of the last round among them, none at the start.

    Who adds something up over all evaluations reads only those `since` the last time.
    `round` counts the finished batches; `seconds` is the time over all sessions; `done` the used share of the budget in
    [0, 1], NaN where the budget has no limit.
    """

    round: int
    generation: int
    seconds: float
    evaluations: Archive = EMPTY
    latest: tuple[Evaluation, ...] = ()
    done: float = math.nan

    def since(self, count: int) -> Iterator[tuple[Evaluation, ...]]:
        """The evaluations after the first `count`, some thousands at a time."""
        missing = len(self.evaluations) - count
        return iter((self.latest,)) if 0 < missing == len(self.latest) else self.evaluations.parts(count)


class SearchObserver(Protocol):
    """Listens to a search. An observer that raises is dropped with a warning; it never stops the search."""

    def on_start(self, standing: Standing) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None:
        """A candidate of the round under way was answered, by a worker, by a scorer or from memory."""

    def on_round(self, standing: Standing) -> None:
        """A round was committed."""

    def on_end(self, standing: Standing, status: str) -> None:
        """`status` is "finished", "interrupted" or "failed"; the last two can be resumed."""


class EveryRound:
    """An observer that does one thing, after every committed round and at the end."""

    def on_start(self, standing: Standing) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_round(self, standing: Standing) -> None:
        self.act(standing)

    def on_end(self, standing: Standing, status: str) -> None:
        self.act(standing)

    def act(self, standing: Standing) -> None: ...


class Audience:
    """Observers, each isolated from the search and from the others."""

    def __init__(self, observers: Sequence[SearchObserver]) -> None:
        self._observers = list(observers)

    def on_start(self, standing: Standing) -> None:
        self._tell(lambda observer: observer.on_start(standing))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._tell(lambda observer: observer.on_evaluation(evaluation))

    def on_round(self, standing: Standing) -> None:
        self._tell(lambda observer: observer.on_round(standing))

    def on_end(self, standing: Standing, status: str) -> None:
        self._tell(lambda observer: observer.on_end(standing, status))

    def _tell(self, call: Callable[[SearchObserver], None]) -> None:
        for observer in tuple(self._observers):
            try:
                call(observer)
            except Exception as error:
                self._observers.remove(observer)
                warnings.warn(
                    f"the observer {type(observer).__name__} failed ({type(error).__name__}: {error}) and is dropped; "
                    "the search goes on without it",
                    RuntimeWarning,
                    stacklevel=4,
                )
