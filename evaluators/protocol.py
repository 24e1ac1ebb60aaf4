"""What a worker holds: something that turns a plan into measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from evo.candidates import Predecessor
from search_spaces.plan import CompressionPlan


class Evaluator(Protocol):
    """Built once per worker, where it loads the network, data and statistics; then asked many times.

    Equal arguments give equal measures, whatever was evaluated before. An exception means that this plan cannot be
    evaluated: it is recorded as a failed evaluation and not retried.
    """

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]: ...


@runtime_checkable
class Versioned(Evaluator, Protocol):
    """An evaluator that can also take networks from shared weights."""

    def at(self, version: int) -> Evaluator:
        """As an evaluator of networks from this version of the weights; 0 means none."""


@runtime_checkable
class Continuing(Evaluator, Protocol):
    """An evaluator that can also go on from the tuned weights of earlier work."""

    def after(self, lineage: Sequence[Predecessor]) -> Evaluator:
        """As an evaluator of plans that go on from the last of `lineage`, each of which went on from the one before it."""


EvaluatorFactory = Callable[[], Evaluator]
