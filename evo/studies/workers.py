"""What a worker is sent, how it builds its evaluator from that, and which backend runs them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.local import LocalTrainer
from cluster.pools import Pools
from cluster.ray_session import connect
from cluster.ray_trainer import RayTrainer
from evaluators.compression import CompressionEvaluator, frozen_teacher
from evaluators.describe import trace
from evaluators.prepare import prepared
from evaluators.protocol import EvaluatorFactory
from evaluators.saliency import Ranking
from evaluators.supernets.sorting import refused_groups
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.weights import SharedWeights, WeightStore
from evo.candidates import StreamingBackend
from evo.config.schema import Config, Execution, Supernet, parse
from evo.loop.shared_weights import Trainer
from evo.registry import BACKENDS, resolve
from evo.studies.classifier import Study
from evo.studies.inputs import Given, device_of, load_splits, network_of, space_of, step_options
from evo.studies.supernets import supernet_of, trainer_of
from evo.studies.timing import Timing, probe_of
from search_spaces.elastic import without_widths

DEFAULT = "all other steps"


@dataclass(frozen=True)
class WorkerKit:
    """What a worker needs to build its evaluator, sent once: weights and rankings. It makes model and data by their factories,
    unless they were handed over as objects."""

    config: str
    weights: Mapping[str, np.ndarray]
    order: Mapping[tuple[str, str], tuple[int, ...]]
    artifacts: str | None
    timing: str | None
    given: Given
    store: WeightStore | None = None


def worker_kit(study: Study, given: Given) -> WorkerKit:
    state = {name: value.detach().cpu().numpy() for name, value in study.teacher.state_dict().items()}
    artifacts = study.evaluator.artifacts
    return WorkerKit(
        study.config.to_yaml(),
        state,
        study.ranking.order,
        str(artifacts.resolve()) if artifacts else None,
        study.timing.to_json() if study.timing is not None else None,
        given,
        None if study.evaluator.shared is None else study.evaluator.shared.store,
    )


def make_evaluator(kit: WorkerKit) -> CompressionEvaluator:
    """Build the evaluator inside a worker."""
    config = parse(kit.config)
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    splits = load_splits(config, kit.given.data)
    model = network_of(config, kit.given.model, splits)
    model = prepared(model, splits.prepare(splits.train.images[:1], torch.device("cpu")))
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in kit.weights.items()})
    teacher = frozen_teacher(model, device)
    example = splits.prepare(splits.train.images[:1], device)
    described = trace(teacher, example)
    artifacts = Path(kit.artifacts) if kit.artifacts else None
    timing = None if kit.timing is None else Timing.from_json(kit.timing)
    probe = probe_of(config, timing, described.network, teacher, example, artifacts)
    ranking, options = Ranking(kit.order), step_options(config)
    evaluator = CompressionEvaluator(teacher, described, ranking, splits, options, device, artifacts, probe)
    if kit.store is None:
        return evaluator
    supernet = supernet_of(config, teacher, described, ranking, space_of(config, described.network, teacher))
    return replace(evaluator, shared=SharedWeights(supernet, kit.store))


def make_trainer(kit: WorkerKit) -> SupernetTrainer:
    """Build the trainer of shared weights inside a worker."""
    config, evaluator = parse(kit.config), make_evaluator(kit)
    space = space_of(config, evaluator.trace.network, evaluator.teacher)
    return trainer_of(config, evaluator, without_widths(space, refused_groups(evaluator.trace)))


def build_trainer(study: Study, kit: WorkerKit, address: str | None) -> Trainer | None:
    """Who trains shared weights; None where there are none."""
    if study.config.supernet is None:
        return None
    here = partial(trainer_of, study.config, study.evaluator, study.space)
    return trainer_with(study.config.execution, here, partial(make_trainer, kit), address, study.config.supernet)


def trainer_with(
    execution: Execution,
    here: Callable[[], Trainer],
    there: Callable[[], Trainer],
    address: str | None,
    section: Supernet | None = None,
) -> Trainer:
    """This process or an actor, as for evaluations."""
    alone = section.threads if section is not None else None
    if execution.backend == "local" and address is None:
        return LocalTrainer(here(), execution.threads, alone)
    held = execution.threads if section is not None and section.overlap else 0
    room = _room(execution) + held
    return RayTrainer(there, execution.threads, address, execution.gpus, room, alone=alone, cpus=held)


def reach(execution: Execution, address: str | None) -> None:
    """Check what workers are to hold, and connect to a running cluster where one is to be used: whoever is not let in hears
    of it at once."""
    check_resources(execution, address or (os.environ.get("RAY_ADDRESS") if execution.backend == "ray" else None))
    if address is not None:
        connect(address, 0)


def check_resources(execution: Execution, address: str | None) -> None:
    """Raise ValueError for workers that no machine, or not this one, can hold."""
    for step, held in _held(execution).items():
        for name, amount in (("cpus", held.cpus), ("gpus", held.gpus), *held.custom.items()):
            if amount < 0 or (amount > 1 and amount != int(amount)):
                raise ValueError(
                    f"execution.resources must be shares of one or whole numbers, but got {name}={amount:g} for {step}; "
                    "round it"
                )
        if address is not None:
            continue
        if held.gpus > torch.cuda.device_count():
            raise ValueError(
                f"execution must ask for what this machine has, but got gpus={held.gpus:g} for {step} and "
                f"{torch.cuda.device_count()} GPUs here; lower it, or name a cluster with --address"
            )
        if held.custom:
            raise ValueError(
                f"custom resources must be offered by nodes of a cluster, but got {', '.join(held.custom)} for {step} on "
                "this machine; remove them, or name the cluster with --address"
            )


@dataclass(frozen=True)
class Held:
    """What the workers of one step hold each."""

    workers: int
    cpus: float
    gpus: float
    custom: Mapping[str, float]


def _held(execution: Execution) -> dict[str, Held]:
    """By fidelity step; under `DEFAULT` for those that no resources are named for."""
    default = Held(execution.workers, float(execution.threads), execution.gpus, {})
    named = {
        str(step): Held(
            asked.workers or default.workers,
            default.cpus if asked.cpus is None else asked.cpus,
            default.gpus if asked.gpus is None else asked.gpus,
            asked.custom,
        )
        for step, asked in execution.resources.items()
    }
    return {DEFAULT: default, **named}


def _room(execution: Execution) -> int:
    """CPU slots for the workers of one step at a time."""
    return max(math.ceil(held.workers * held.cpus) for held in _held(execution).values())


def workers_at(execution: Execution, step: str) -> int:
    held = _held(execution)
    return held.get(step, held[DEFAULT]).workers if execution.backend == "ray" else 1


def backend_with(config: Config, factory: EvaluatorFactory, address: str | None) -> StreamingBackend:
    """The backend of a configuration, whose workers build their evaluators by `factory`; an address means a running cluster and
    so Ray."""
    execution = config.execution
    if execution.backend == "local" and address is None:
        local: StreamingBackend = resolve(BACKENDS, "local")(factory, threads=execution.threads)
        return local
    pools: dict[str, Any] = {
        step: resolve(BACKENDS, "ray")(
            factory,
            workers=held.workers,
            threads=execution.threads,
            address=address,
            deadline_s=execution.deadline_s,
            gpus=held.gpus,
            cpus=held.cpus,
            custom=held.custom,
            cluster_cpus=_room(execution),
        )
        for step, held in _held(execution).items()
    }
    default = pools.pop(DEFAULT)
    ray: StreamingBackend = Pools(default, pools) if pools else default
    return ray
