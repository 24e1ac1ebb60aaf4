"""Shared weights in a search: who trains them, which algorithms ask for that, and which version an evaluation was made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from evo.candidates import STEP2, Batch
from evo.loop.observers import EveryRound, Standing
from evo.loop.running import RunningFront
from evo.problem import Problem
from search_spaces.genome import Genome

KEPT_VERSIONS = 4  # the newest ones, for as many commits as a resumed search may have to fall back, and the one before


class Trainer(Protocol):
    """Publishes versions 1, 2, ... of shared weights. Version v is a function of the run's seed, version v - 1 and the
    population alone; asked for one that is published already, it does nothing."""

    def train(self, version: int, population: Sequence[Genome]) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class TrainsBeside(Protocol):
    """A trainer that can work while evaluations go on."""

    def start(self, version: int, population: Sequence[Genome]) -> Callable[[], None]:
        """Begin what `train` does and return at once; what is returned waits for its end, and raises what went wrong."""


@runtime_checkable
class TrainsWeights(Protocol):
    """An algorithm whose batches say on which genomes shared weights are trained before they are evaluated."""

    def trained_on(self, state: Any) -> tuple[Genome, ...]: ...


class Versions(Protocol):
    """Where versions of weights are kept."""

    def versions(self) -> list[int]: ...
    def delete(self, version: int) -> None: ...


def weights_for(
    trainer: Trainer | None, batch: Batch, latest: int, overlap: bool = False
) -> tuple[int, Callable[[], None]]:
    """The version with which a batch is evaluated (0 without shared weights), and what must be called after that, before the
    batch is told. `latest` is the newest version of the archive.

    In turns, a batch that asks for training is evaluated with the version that was trained on its population just now. With
    `overlap` it is evaluated with the version before, which came from the population before, while the next one is trained on
    this population: version v + 1 belongs to the batch evaluated with v. Both are functions of the committed rounds alone.
    """
    if trainer is None:
        if batch.train_on:
            raise ValueError(
                f"a batch that trains shared weights needs a supernet, but got {len(batch.train_on)} genomes in train_on "
                "and none; write a section supernet, or use an algorithm without shared weights"
            )
        return 0, _nothing
    if latest and not batch.train_on:
        return latest, _nothing
    version = latest + 1
    if not (overlap and batch.train_on):
        trainer.train(version, batch.train_on)
        return version, _nothing
    trainer.train(version, batch.train_on if version == 1 else ())  # a later one came with the batch before
    if isinstance(trainer, TrainsBeside):
        return version, trainer.start(version + 1, batch.train_on)
    return version, partial(trainer.train, version + 1, batch.train_on)


def _nothing() -> None: ...


class KeepVersions(EveryRound):
    """Deletes weights that neither a member of the front nor a resumed search can need."""

    def __init__(self, problem: Problem, store: Versions) -> None:
        self._front, self._store = RunningFront(problem, STEP2), store

    def act(self, standing: Standing) -> None:
        present = sorted(self._store.versions())
        needed = {*present[-KEPT_VERSIONS:], *(e.weights_version for e in self._front.update(standing))}
        for version in present:
            if version not in needed:
                self._store.delete(version)
