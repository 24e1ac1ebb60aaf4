"""Shared weights trained by an actor of the cluster, so that the driver needs no accelerator and its death costs no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cluster.ray_session import RaySession, worker_environment
from cluster.worker import first_line, torch_threads
from evo.failures import WorkerStartError
from evo.loop.shared_weights import Trainer
from search_spaces.genome import Genome


class TrainerActor:
    """Lives in a process of its own and builds its trainer with the first version."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    def train(
        self, make_trainer: Callable[[], Trainer], threads: int, version: int, population: Sequence[Genome]
    ) -> None:
        if self._trainer is None:
            self._trainer = make_trainer()
        with torch_threads(threads):
            self._trainer.train(version, population)


class RayTrainer:
    """One actor with `threads` threads, `cpus` CPU slots and a share of a GPU. An actor that dies is replaced and goes on from
    the last weights it kept, at most `max_attempts` times for a version. Where evaluators wait for it, it needs no slot and may
    have more threads (`alone`). Where it has to start a cluster, that one gets `cluster_cpus` slots for all."""

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        threads: int = 1,
        address: str | None = None,
        gpus: float = 0.0,
        cluster_cpus: int = 1,
        max_attempts: int = 3,
        alone: int | None = None,
        cpus: int = 0,
    ) -> None:
        self._threads, self._gpus, self._max_attempts = threads, gpus, max_attempts
        self._alone, self._cpus = alone or threads, cpus
        self._session = RaySession(address, cluster_cpus, make_trainer)
        self._actor: Any = None

    def train(self, version: int, population: Sequence[Genome]) -> None:
        self._begin(self._alone, version, population)()

    def start(self, version: int, population: Sequence[Genome]) -> Callable[[], None]:
        return self._begin(self._threads, version, population)

    def _begin(self, threads: int, version: int, population: Sequence[Genome]) -> Callable[[], None]:
        submit = partial(self._submit, threads, version, tuple(population))
        return partial(self._finish, submit(), submit)

    def _submit(self, threads: int, version: int, population: Sequence[Genome]) -> Any:
        factory = self._session.factory
        return self._ready().train.remote(factory, threads, version, population)

    def _finish(self, begun: Any, again: Callable[[], Any]) -> None:
        ray = self._session.ray
        for attempt in range(1, self._max_attempts + 1):
            try:
                ray.get(begun)
                return
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except ray.exceptions.RayError as error:
                self._drop()
                if attempt == self._max_attempts:
                    raise WorkerStartError.because(
                        f"the trainer of shared weights died: {first_line(error)}"
                    ) from error
                begun = again()

    def close(self) -> None:
        self._drop()
        self._session.close()

    def _ready(self) -> Any:
        if self._actor is None:
            kind = self._session.ray.remote(TrainerActor).options(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env=worker_environment(self._threads),
            )
            self._actor = kind.remote()
        return self._actor

    def _drop(self) -> None:
        if self._actor is not None:
            self._session.ray.kill(self._actor, no_restart=True)
            self._actor = None
