"""What a search needs of its study, whichever that is: of a classifier, of generators, or of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from evaluators.compression import CompressionEvaluator
from evaluators.gan.networks import DIRECTIONS, StackedPair
from evaluators.quantise import bake
from evo.algorithm import AnyAlgorithm
from evo.candidates import Evaluation, Scorer, StreamingBackend
from evo.config.schema import Config
from evo.loop.generations import request_for
from evo.loop.observers import SearchObserver
from evo.loop.shared_weights import KeepVersions, Trainer
from evo.problem import Problem
from evo.storage.columns import EMPTY, Archive
from evo.storage.folder import Folder
from evo.storage.run_directory import RunDirectory
from evo.studies.cells import CellStudy, build_cells, cell_kit, keep_cells, make_cell_evaluator, make_cell_trainer
from evo.studies.classifier import Study, build_algorithm, build_study, climbing, keep_study, scorers
from evo.studies.inputs import Given
from evo.studies.supernets import keepers, with_shared
from evo.studies.translation import (
    TranslationStudy,
    build_translation,
    keep_translation,
    make_translator,
    translation_kit,
)
from evo.studies.translation_limits import limits_of_parts
from evo.studies.workers import backend_with, build_trainer, make_evaluator, trainer_with, worker_kit
from search_spaces.space import CompressionSpace

AnyStudy = Study | TranslationStudy | CellStudy


def open_study(config: Config, folder: Path | None, given: Given, shared: Folder | None = None) -> AnyStudy:
    """Load, trace and measure what is searched; see `build_study`. With `shared`, the run's folder, networks are also taken from
    the shared weights that lie there."""
    if config.cells is not None:
        cells = build_cells(config, folder, given, shared)
        algorithm_of(cells)  # parameters out of range are told before anything is written
        return cells
    if config.gan is None:
        study = build_study(config, folder, given)
        return study if shared is None else with_shared(study, shared)
    if given != Given():
        raise ValueError(
            "generators are searched from a configuration that names them, but got an object; "
            'give model and data as names, such as "resnet_generator" and "my_package.images:load"'
        )
    pair = build_translation(config, folder)
    algorithm_of(pair)  # parameters out of range are told before anything is written
    return pair


def kept(study: AnyStudy, run: RunDirectory) -> AnyStudy:
    if isinstance(study, Study):
        return with_shared(keep_study(study, run), run.folder)
    if isinstance(study, CellStudy):
        return keep_cells(study, run)
    return keep_translation(study, run)


def training_of(study: AnyStudy, given: Given, address: str | None) -> tuple[Trainer | None, Sequence[SearchObserver]]:
    """Who trains shared weights between generations, and who keeps their versions; nobody without a supernet."""
    if isinstance(study, CellStudy):
        make = partial(make_cell_trainer, cell_kit(study, given))
        found = trainer_with(study.config.execution, make, make, address, study.config.supernet)
        return found, (KeepVersions(study.problem, study.evaluator.shared.store),)
    if not isinstance(study, Study):
        return None, ()
    trainer = build_trainer(study, worker_kit(study, given), address)
    return trainer, keepers(study, trainer)


def backend_of(study: AnyStudy, given: Given, address: str | None) -> StreamingBackend:
    if isinstance(study, Study):
        return backend_with(study.config, partial(make_evaluator, worker_kit(study, given)), address)
    if isinstance(study, CellStudy):
        return backend_with(study.config, partial(make_cell_evaluator, cell_kit(study, given)), address)
    return backend_with(study.config, partial(make_translator, translation_kit(study)), address)


def algorithm_of(study: AnyStudy) -> AnyAlgorithm:
    """The configured algorithm."""
    if isinstance(study, Study):
        return build_algorithm(climbing(study.config), study.problem, study.tables, study.baseline)
    if isinstance(study, CellStudy):
        return build_algorithm(study.config.algorithm, study.problem, None, study.baseline)
    return pair_algorithm(study.config, study.problem, study.space, study.baseline)


def pair_algorithm(
    config: Config, problem: Problem, space: CompressionSpace, baseline: Mapping[str, float]
) -> AnyAlgorithm:
    """That of a search of generators: co-evolution has a population for each of them."""
    algorithm = config.algorithm
    if algorithm.name == "coevolution":
        own: dict[str, Any] = {"parts": {direction: f"*:{direction}.*" for direction in DIRECTIONS}}
        if config.gan is not None and config.gan.fit_limits:
            own["within"] = limits_of_parts(problem, space)
        algorithm = algorithm.model_copy(update={"params": {**own, **algorithm.params}})
    return build_algorithm(algorithm, problem, None, baseline)


def scorers_of(study: AnyStudy) -> dict[str, Scorer]:
    return scorers(study) if isinstance(study, Study) else {}


def realised(study: AnyStudy, evaluation: Evaluation, archive: Archive = EMPTY) -> nn.Module:
    """The tuned network that was evaluated, from its kept weights where there are any. The archive holds its predecessors."""
    candidate, space, seed = evaluation.candidate, study.space, study.config.seed
    request = request_for(space, seed, candidate, evaluation.weights_version, archive)
    evaluator = study.evaluator.at(request.weights_version)
    if isinstance(evaluator, CompressionEvaluator):
        evaluator = evaluator.after(request.lineage)
    return evaluator.realise(request.plan, request.step, request.seed)


def loadable(study: AnyStudy, evaluation: Evaluation, archive: Archive = EMPTY) -> tuple[nn.Module, Any]:
    """A finished network of one input, as a tracker stores it, and an example of that."""
    module = bake(realised(study, evaluation, archive))
    if not isinstance(study, TranslationStudy):
        return module, study.example.cpu().numpy()
    return StackedPair(module), np.stack([part.cpu().numpy() for part in study.example], axis=1)
