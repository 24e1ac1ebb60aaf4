"""A network of cells, searched from scratch, as the subject of a search."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.export import export
from evo.algorithm import AnyAlgorithm
from evo.candidates import Evaluation, StreamingBackend
from evo.loop.shared_weights import KeepVersions
from evo.storage.columns import EMPTY, Archive
from evo.storage.run_directory import RunDirectory
from evo.studies.cells import CellStudy, cell_kit, keep_cells, make_cell_evaluator, make_cell_trainer
from evo.studies.classifier import build_algorithm
from evo.studies.inputs import Given
from evo.studies.of_classifier import EXPORT_BATCH, EXPORT_IMAGES
from evo.studies.subject import Exported, Subject, Training
from evo.studies.workers import backend_with, trainer_with


class Cells(Subject[CellStudy]):
    def kept(self, run: RunDirectory) -> Cells:
        return Cells(keep_cells(self.study, run))

    def algorithm(self) -> AnyAlgorithm:
        study = self.study
        return build_algorithm(study.config.algorithm, study.problem, None, study.baseline)

    def backend(self, given: Given, address: str | None) -> StreamingBackend:
        return backend_with(self.study.config, partial(make_cell_evaluator, cell_kit(self.study, given)), address)

    def training(self, given: Given, address: str | None) -> Training:
        make = partial(make_cell_trainer, cell_kit(self.study, given))
        keeper = KeepVersions(self.study.problem, self.study.evaluator.shared.store)
        config = self.study.config
        return trainer_with(config.execution, make, make, address, config.supernet), (keeper,)

    def loadable(self, evaluation: Evaluation, archive: Archive = EMPTY) -> tuple[nn.Module, Any]:
        return self.realised(evaluation, archive), self.study.example.cpu().numpy()

    def measured_baseline(self, step: str) -> None:
        return None

    def export(self, exported: Exported, out: Path, kind: str, check_data: bool) -> Path:
        study = self.study
        facts = {**exported.facts, "preprocessing": study.splits.preprocessing()}
        calibration = list(study.splits.calibration_batches(EXPORT_IMAGES, EXPORT_BATCH, torch.device("cpu")))
        return export(exported.module, study.example, out, kind, facts, exported.plan, calibration)
