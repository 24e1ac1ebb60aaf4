"""The top floor: turn a configuration into the objects of a search."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts import save_tensors
from evaluators.calibration import TermCalibration
from evaluators.compression import MEASURES, CompressionEvaluator, StepOptions, frozen_teacher
from evaluators.data import ImageData, Splits, limited, split
from evaluators.datasets import from_factory
from evaluators.describe import trace
from evaluators.load import build_model, call, load_weights
from evaluators.recovery import Budget as TuneBudget
from evaluators.recovery import classify, tune
from evaluators.saliency import Ranking, rank
from evaluators.statistics import collect
from evaluators.step1 import LossTables, build_tables
from evaluators.step1_file import read_step1, write_step1
from evaluators.trace import Trace
from evo.algorithm import AnyAlgorithm
from evo.candidates import FINAL, STEP1, STEP2, Backend
from evo.checks import algorithm_class, check
from evo.config import AlgorithmConfig, Config, Step, Tune, parse
from evo.problem import Constraint, Problem
from evo.problem_config import problem_of
from evo.randomness import derived_seed
from evo.reachable import smallest
from evo.registry import BACKENDS, CRITERIA, DATASETS, MODELS, resolve
from evo.space_file import SPACE_FILE, space_to_json
from evo.storage import RunDirectory
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space
from search_spaces.space import CompressionSpace

logger = logging.getLogger(__name__)

SURROGATE = "predicted_loss_increase"
LEARNED = ("top1_error", "cross_entropy")  # measures that only a real network can give
BASELINE_FILE = "models/baseline.safetensors"
STEP1_FILE = "models/step1.safetensors"
SHOWN_LAYERS = 12


@dataclass(frozen=True)
class Given:
    """Objects handed over in Python instead of being named in the configuration; `data` as in `evo.search`."""

    model: nn.Module | None = None
    data: ImageData | tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Study:
    """Everything about one network and data set that a search needs on the driver."""

    config: Config
    teacher: nn.Module
    trace: Trace
    splits: Splits
    example: Tensor
    ranking: Ranking
    space: CompressionSpace
    tables: LossTables
    problem: Problem
    baseline: Mapping[str, float]
    evaluator: CompressionEvaluator


def check_names(config: Config) -> None:
    """Refuse unknown names and impossible combinations; needs no torch work and comes before all of it."""
    check(config, MEASURES)
    device_of(config)


def build_algorithm(config: AlgorithmConfig, problem: Problem, tables: LossTables) -> AnyAlgorithm:
    """The algorithm with its parameters; a wrapper without `inner` wraps NSGA-II, and calibrates every term of step 1."""
    made = algorithm_class(config)
    params = dict(config.params)
    if "inner" in inspect.signature(made).parameters:
        params["inner"] = build_algorithm(config.inner or AlgorithmConfig(name="nsga2"), problem, tables)
        learned = {o.measure: SURROGATE for o in problem.objectives if o.measure in LEARNED}
        params.setdefault("surrogates", learned)
        params.setdefault("calibration", TermCalibration(tables))
    try:
        algorithm: AnyAlgorithm = made(problem=problem, **params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"algorithm.params must suit {config.name}, but got {config.params!r}: {error}") from error
    return algorithm


def device_of(config: Config) -> torch.device:
    wanted = config.execution.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("execution.device=cuda needs a CUDA device, but got none; set it to auto or cpu")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def load_splits(config: Config, given: ImageData | tuple[Any, Any] | None) -> Splits:
    section = config.data
    made = from_factory(
        call(resolve(DATASETS, section.factory), section.factory, "data", section.kwargs) if given is None else given
    )
    return split(limited(made, section.train_limit, section.test_limit), section.validation, section.split_seed)


def new_model(config: Config) -> nn.Module:
    torch.manual_seed(config.seed)
    return build_model(resolve(MODELS, config.model.factory), config.model.factory, config.model.kwargs)


def load_model(
    config: Config, splits: Splits, device: torch.device, baseline: Path | None, given: nn.Module | None
) -> nn.Module:
    """The trained network: from the run's own copy, handed over, from the user's weights, or trained here."""
    model = new_model(config) if given is None else copy.deepcopy(given)
    if baseline is not None and baseline.is_file():
        load_weights(model, str(baseline), "the weights kept with the run")
    elif given is not None:
        return model
    elif config.model.weights is not None:
        load_weights(model, config.model.weights)
    elif config.model.pretrain is not None:
        logger.info("training %s for %g epochs", config.model.factory, config.model.pretrain.epochs)
        model = model.to(device).to(memory_format=torch.channels_last)
        tune(model, None, splits, tune_budget(config.model.pretrain), config.seed, device)
    return model


def tune_budget(section: Tune) -> TuneBudget:
    fields = {field.name for field in dataclasses.fields(TuneBudget)}
    return TuneBudget(**section.model_dump(include=fields))


def step_options(config: Config) -> dict[str, StepOptions]:
    def options(section: Step, last: bool) -> StepOptions:
        return StepOptions(section.recalibration, section.validation, tune_budget(section.tune), test=last, save=True)

    return {STEP2: options(config.evaluation.step2, False), FINAL: options(config.evaluation.final, True)}


def build_study(config: Config, folder: Path | None, given: Given) -> Study:
    """Load, trace and measure the user's network; writes nothing. `folder` is the run directory: what `keep_study` kept
    there is used instead of being computed again."""
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    baseline_file = folder / BASELINE_FILE if folder else None
    if config.model.weights is not None and not (baseline_file and baseline_file.is_file()):
        load_weights(new_model(config), config.model.weights)  # a wrong file is told before the data are read
    splits = load_splits(config, given.data)
    example = splits.prepare(splits.train.images[:1], device)
    model = load_model(config, splits, device, baseline_file, given.model)
    teacher = frozen_teacher(model, device)
    described = trace(teacher, example)
    _check_kept(config, [layer.name for layer in described.network.layers])
    space = space_of(config, described.network)
    ranking, tables = _step1(config, teacher, described, splits, space, folder / STEP1_FILE if folder else None)
    evaluator = CompressionEvaluator(
        teacher, described, ranking, splits, step_options(config), device, folder / "models" if folder else None
    )
    _check_outputs(teacher, example, splits)
    baseline = evaluator.baseline(STEP2)
    problem = build_problem(config, space, tables, baseline)
    build_algorithm(config.algorithm, problem, tables)  # parameters out of range are told before anything is written
    return Study(config, teacher, described, splits, example, ranking, space, tables, problem, baseline, evaluator)


def space_of(config: Config, network: Network) -> CompressionSpace:
    """The joint space of a network under the configuration's options."""
    values = config.space.model_dump().items()
    options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
    return build_space(network, SpaceOptions(**options))


def _check_kept(config: Config, layers: Sequence[str]) -> None:
    for pattern in config.space.keep:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise ValueError(
                f"every pattern of space.keep must match a layer, but got {pattern!r}, which matches none of "
                f"{', '.join(layers[:SHOWN_LAYERS])}{', ...' if len(layers) > SHOWN_LAYERS else ''}; "
                "evo doctor lists all of them"
            )


def _check_outputs(teacher: nn.Module, example: Tensor, splits: Splits) -> None:
    with torch.no_grad():
        logits = teacher(example)
    classes = int(max(splits.train.labels.max(), splits.test.labels.max())) + 1
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < classes:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model must give (N, classes) logits for {classes} classes, but got {shape}; check model.kwargs"
        )


def _step1(
    config: Config, teacher: nn.Module, described: Trace, splits: Splits, space: CompressionSpace, file: Path | None
) -> tuple[Ranking, LossTables]:
    """Rankings and tables, kept with the run so that a resumed search scores exactly as before."""
    wanted = [*(o.measure for o in config.objectives), *(c.measure for c in config.constraints)]
    peak = "peak_activation_bytes" in wanted
    if file is not None and file.is_file():
        return read_step1(file, space, peak)
    device = next(teacher.parameters()).device
    images = splits.prepare(splits.train.images[: config.evaluation.step1.images], device)
    layers = [layer.name for layer in described.network.layers]
    statistics = collect(teacher, layers, images, derived_seed(config.seed, "statistics"))
    criteria = {name: resolve(CRITERIA, name) for name in config.space.criteria}
    ranking = rank(described, teacher, statistics, criteria)
    tables = build_tables(space, teacher, described, statistics, ranking, peak)
    return ranking, tables


def keep_study(study: Study, run: RunDirectory) -> Study:
    """Keep in the run directory what a resumed search must find equal: the space, the trained weights, rankings and step-1
    tables. Returns the study whose evaluator keeps tuned weights there."""
    run.write(SPACE_FILE, space_to_json(study.space).encode())
    if run.local is None:
        return study
    if not (run.local / STEP1_FILE).is_file():
        save_tensors(run.local / BASELINE_FILE, study.teacher.state_dict())
        write_step1(run.local / STEP1_FILE, study.ranking, study.tables)
    return replace(study, evaluator=replace(study.evaluator, artifacts=run.local / "models"))


def build_problem(
    config: Config, space: CompressionSpace, tables: LossTables, baseline: Mapping[str, float]
) -> Problem:
    """The problem of a configuration; raises ValueError for a limit that no genome meets."""
    problem = problem_of(config, space, baseline)
    for constraint in problem.constraints:
        _check_reachable(constraint, space, tables)
    return problem


def _check_reachable(constraint: Constraint, space: CompressionSpace, tables: LossTables) -> None:
    if constraint.measure in LEARNED:
        return
    least = smallest(space, lambda codes: tables.score(codes)[constraint.measure])
    if least > constraint.upper:
        raise ValueError(
            f"some genome must meet every constraint, but got {constraint.measure}<={constraint.upper:g} where the smallest "
            f"reachable is {least:g}; raise the limit or allow more compression in space"
        )


@dataclass(frozen=True)
class WorkerKit:
    """What a worker needs to build its evaluator, sent once: weights and rankings. It makes model and data by their factories,
    unless they were handed over as objects."""

    config: str
    weights: Mapping[str, np.ndarray]
    order: Mapping[tuple[str, str], tuple[int, ...]]
    artifacts: str | None
    given: Given


def worker_kit(study: Study, given: Given) -> WorkerKit:
    state = {name: value.detach().cpu().numpy() for name, value in study.teacher.state_dict().items()}
    artifacts = study.evaluator.artifacts
    return WorkerKit(
        study.config.to_yaml(), state, study.ranking.order, str(artifacts.resolve()) if artifacts else None, given
    )


def make_evaluator(kit: WorkerKit) -> CompressionEvaluator:
    """Build the evaluator inside a worker."""
    config = parse(kit.config)
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    splits = load_splits(config, kit.given.data)
    model = new_model(config) if kit.given.model is None else copy.deepcopy(kit.given.model)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in kit.weights.items()})
    teacher = frozen_teacher(model, device)
    described = trace(teacher, splits.prepare(splits.train.images[:1], device))
    artifacts = Path(kit.artifacts) if kit.artifacts else None
    return CompressionEvaluator(teacher, described, Ranking(kit.order), splits, step_options(config), device, artifacts)


def build_backend(config: Config, kit: WorkerKit, address: str | None) -> Backend:
    """The backend of a configuration; an address means a running cluster and so Ray."""
    execution = config.execution
    factory = partial(make_evaluator, kit)
    if execution.backend == "local" and address is None:
        local: Backend = resolve(BACKENDS, "local")(factory, threads=execution.threads)
        return local
    ray: Backend = resolve(BACKENDS, "ray")(
        factory,
        workers=execution.workers,
        threads=execution.threads,
        address=address,
        deadline_s=execution.deadline_s,
        gpus=execution.gpus,
    )
    return ray


def baseline_test(study: Study) -> dict[str, float]:
    """The uncompressed network on the test split, for the report."""
    error, entropy = classify(study.teacher, study.splits, study.splits.test, study.evaluator.device)
    return {"test_top1_error": error, "test_cross_entropy": entropy}


def scorers(study: Study) -> dict[str, LossTables]:
    return {STEP1: study.tables}
