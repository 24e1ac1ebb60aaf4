"""Shared weights in a search: who trains them, which algorithms ask for that, and which version an evaluation was made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from evo.archive import pareto_front
from evo.candidates import STEP2, Batch, Evaluation
from evo.loop.observers import EveryRound, Standing
from evo.problem import Problem
from search_spaces.genome import Genome

KEPT_VERSIONS = 4  # the newest ones, for as many commits as a resumed search may have to fall back, and the one before


class Trainer(Protocol):
    """Publishes versions 1, 2, ... of shared weights. Version v is a function of the run's seed, version v - 1 and the
    population alone; asked for one that is published already, it does nothing."""

    def train(self, version: int, population: Sequence[Genome]) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class TrainsWeights(Protocol):
    """An algorithm whose batches say on which genomes shared weights are trained before they are evaluated."""

    def trained_on(self, state: Any) -> tuple[Genome, ...]: ...


class Versions(Protocol):
    """Where versions of weights are kept."""

    def versions(self) -> list[int]: ...
    def delete(self, version: int) -> None: ...


def version_for(trainer: Trainer | None, batch: Batch, archive: Sequence[Evaluation]) -> int:
    """The version with which a batch is evaluated, trained now where the batch asks for that or there is none yet; 0 without
    shared weights."""
    if trainer is None:
        if batch.train_on:
            raise ValueError(
                f"a batch that trains shared weights needs a supernet, but got {len(batch.train_on)} genomes in train_on "
                "and none; write a section supernet, or use an algorithm without shared weights"
            )
        return 0
    latest = max((e.weights_version for e in archive), default=0)
    if batch.train_on or latest == 0:
        latest += 1
    trainer.train(latest, batch.train_on)
    return latest


class KeepVersions(EveryRound):
    """Deletes weights that neither a member of the front nor a resumed search can need."""

    def __init__(self, problem: Problem, store: Versions) -> None:
        self._problem, self._store = problem, store

    def act(self, standing: Standing) -> None:
        present = sorted(self._store.versions())
        front = pareto_front(self._problem, standing.evaluations, STEP2)
        needed = {*present[-KEPT_VERSIONS:], *(e.weights_version for e in front)}
        for version in present:
            if version not in needed:
                self._store.delete(version)
