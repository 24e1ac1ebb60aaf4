"""Train shared weights from one version to the next: interrupted anywhere, the versions are those of the uninterrupted run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from evaluators.data import Splits
from evaluators.supernets.protocol import Supernet
from evaluators.supernets.schedule import Schedule
from evaluators.supernets.weights import Kept, WeightStore
from search_spaces.genome import Genome, SearchSpace
from search_spaces.plan import CompressionPlan

PAUSE_S = 60.0  # of training that a crash may lose


class Steps(Protocol):
    """What a step of training does, where it is not to train plans on a batch; a function of its arguments and of what was
    trained before."""

    def take(self, step: int, population: Sequence[Genome]) -> None: ...


@dataclass(frozen=True)
class SupernetTrainer:
    """Batches, subnets and learning rates are functions of the seed and the step, so a state is weights, momentum and step.
    splits: epochs are passes over its training images."""

    supernet: Supernet[CompressionPlan]
    space: SearchSpace
    splits: Splits
    schedule: Schedule
    store: WeightStore
    seed: int
    device: torch.device
    pause_s: float = PAUSE_S
    steps: Steps | None = None

    def train(self, version: int, population: Sequence[Genome]) -> None:
        """Make a version of the weights from the one before and publish it; nothing to do where it is published already."""
        if version in self.store.versions():
            return
        if version > 1 and not population:
            raise ValueError(
                f"version {version} of the shared weights must be in the run directory when a batch is measured with it, but got "
                "none; restore it from a copy, or start a new search in another run directory"
            )
        begun, images = self._begin(version), len(self.splits.train)
        last = self.schedule.last_step(version, images)
        start = kept = time.monotonic()
        for step in range(begun.step, last):
            self._step(step, population)
            now = time.monotonic()
            if now - kept >= self.pause_s:
                self.store.write(version, self._kept(step + 1, begun, now - start), finished=False)
                kept = now
        self.store.write(version, self._kept(last, begun, time.monotonic() - start), finished=True)

    def _kept(self, step: int, begun: Kept, seconds: float) -> Kept:
        busy = begun.thread_seconds + seconds * torch.get_num_threads()
        return Kept(self.supernet.state(), step, begun.seconds + seconds, busy)

    def close(self) -> None: ...

    def _begin(self, version: int) -> Kept:
        """What this version starts from, loaded."""
        found = self.store.read(version, finished=False) or (self.store.read(version - 1) if version > 1 else None)
        if found is None and version > 1:
            raise ValueError(
                f"version {version} of the shared weights must follow version {version - 1}, but got a run directory without it; "
                "restore it from a copy, or start a new search in another run directory"
            )
        if found is None:
            return Kept({})
        self.supernet.load(found.state)
        return found

    def _step(self, step: int, population: Sequence[Genome]) -> None:
        if self.steps is not None:
            self.steps.take(step, population)
            return
        images = len(self.splits.train)
        drawn_from = () if self.schedule.warming(step, images) else population
        plans = self.schedule.plans(self.space, drawn_from, self.seed, step)
        batch = self.splits.training_batch(self.schedule.batch, self.seed, step, self.device)
        self.supernet.train_step(plans, batch.images, batch.labels, self.schedule.rate(step, images))
