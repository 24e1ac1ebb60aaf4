"""A search of cells: the study of an architecture space, as `evo.studies.classifier.Study` is of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators.data import Splits
from evaluators.supernets.cell_evaluator import CellEvaluator
from evaluators.supernets.cell_networks import KINDS, Macro
from evaluators.supernets.cells import CellSupernet
from evaluators.supernets.optimiser import StepRule
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.weights import SharedWeights, WeightStore
from evo.candidates import STEP2
from evo.config.objectives import problem_of
from evo.config.schema import Cells, Config, Supernet, parse
from evo.config.space_file import SPACE_FILE, cells_to_json
from evo.problem import Problem
from evo.randomness import derived_seed
from evo.registry import CELL_SPACES, resolve
from evo.storage.folder import Folder
from evo.storage.run_directory import RunDirectory
from evo.studies.inputs import Given, device_of, load_splits, step_options
from evo.studies.supernets import schedule_of
from search_spaces.cells import CellSpace


@dataclass(frozen=True)
class CellStudy:
    """Everything that a search of cells needs on the driver. The baseline is the first anchor of the space, untrained."""

    config: Config
    splits: Splits
    example: Tensor
    space: CellSpace
    problem: Problem
    baseline: Mapping[str, float]
    evaluator: CellEvaluator


@dataclass(frozen=True)
class CellKit:
    """What a worker needs to build its evaluator or trainer."""

    config: str
    data: Any
    store: WeightStore
    artifacts: str | None


def sections(config: Config) -> tuple[Cells, Supernet]:
    if config.cells is None or config.supernet is None:
        raise ValueError("a search of cells must have the sections cells and supernet, but got only one; write both")
    return config.cells, config.supernet


def build_cells(config: Config, folder: Path | None, given: Given, shared: Folder | None = None) -> CellStudy:
    """Load the data and make the supernet; writes nothing. Without `shared`, the run's folder, there are no trained weights."""
    torch.set_num_threads(config.execution.threads)
    wanted, _ = sections(config)
    splits = load_splits(config, given.data)
    space = resolve(CELL_SPACES, wanted.space)()
    store = WeightStore(shared or Folder.at(str(folder or ".")))
    evaluator = _evaluator(config, splits, store, folder / "models" if folder else None)
    baseline = evaluator.evaluate(space.decode(space.anchors()[0]), STEP2, 0)
    example = splits.prepare(splits.train.images[:1], evaluator.device)
    return CellStudy(config, splits, example, space, problem_of(config, space, baseline), baseline, evaluator)


def keep_cells(study: CellStudy, run: RunDirectory) -> CellStudy:
    run.write(SPACE_FILE, cells_to_json(study.space, sections(study.config)[0].space).encode())
    artifacts = run.local / "models" if run.local is not None else None
    evaluator = _evaluator(study.config, study.splits, WeightStore(run.folder), artifacts)
    return replace(study, evaluator=evaluator)


def cell_kit(study: CellStudy, given: Given) -> CellKit:
    artifacts = study.evaluator.artifacts
    store = study.evaluator.shared.store
    return CellKit(study.config.to_yaml(), given.data, store, str(artifacts.resolve()) if artifacts else None)


def make_cell_evaluator(kit: CellKit) -> CellEvaluator:
    """Build the evaluator inside a worker."""
    config = parse(kit.config)
    torch.set_num_threads(config.execution.threads)
    return _evaluator(config, load_splits(config, kit.data), kit.store, Path(kit.artifacts) if kit.artifacts else None)


def make_cell_trainer(kit: CellKit) -> SupernetTrainer:
    """Build the trainer of the shared weights, in this process or inside an actor."""
    config = parse(kit.config)
    torch.set_num_threads(config.execution.threads)
    splits, (wanted, section) = load_splits(config, kit.data), sections(config)
    space: CellSpace = resolve(CELL_SPACES, wanted.space)()
    device, schedule = device_of(config), schedule_of(section)
    return SupernetTrainer(_supernet(config, splits, device), space, splits, schedule, kit.store, config.seed, device)


def _evaluator(config: Config, splits: Splits, store: WeightStore, artifacts: Path | None) -> CellEvaluator:
    wanted, _ = sections(config)
    device = device_of(config)
    shared = SharedWeights(_supernet(config, splits, device), store)
    final = _macro(splits, wanted.final_channels, wanted.final_cells, affine=True)
    return CellEvaluator(KINDS[wanted.space], final, splits, step_options(config), device, shared, artifacts)


def _supernet(config: Config, splits: Splits, device: torch.device) -> CellSupernet:
    wanted, section = sections(config)
    torch.manual_seed(derived_seed(config.seed, "cells"))
    rule = StepRule(section.momentum, section.weight_decay)
    macro = _macro(splits, wanted.channels, wanted.cells, affine=False)
    return CellSupernet(KINDS[wanted.space], macro, rule, section.in_place_distillation, device)


def _macro(splits: Splits, channels: int, cells: int, affine: bool) -> Macro:
    classes = int(max(splits.train.labels.max(), splits.test.labels.max())) + 1
    return Macro(channels, cells, classes, splits.train.images.shape[1], affine)
