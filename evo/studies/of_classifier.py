"""A classifier as the subject of a search."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.compression import CompressionEvaluator
from evaluators.export import export
from evaluators.export.accuracy import accuracy_by_split, accuracy_of_file
from evaluators.quantise import bake
from evo.algorithm import AnyAlgorithm
from evo.candidates import STEP1, Evaluation, Request, Scorer, StreamingBackend
from evo.result import Result
from evo.storage.columns import EMPTY, Archive
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import Study, build_algorithm, climbing, keep_study
from evo.studies.explain import explanation_page
from evo.studies.inputs import Given
from evo.studies.subject import Exported, Note, Subject, Training
from evo.studies.supernets import keepers, preferring, with_shared
from evo.studies.timing import latency_of_file
from evo.studies.tuned_tables import TunedTables
from evo.studies.workers import backend_with, build_trainer, make_evaluator, worker_kit

EXPORT_IMAGES, EXPORT_BATCH = 128, 16  # training images for ranges that only an export needs


class Classifier(Subject[Study]):
    def kept(self, run: RunDirectory) -> Classifier:
        return Classifier(with_shared(keep_study(self.study, run), run.folder))

    def algorithm(self) -> AnyAlgorithm:
        study = self.study
        return build_algorithm(climbing(study.config), study.problem, study.tables, study.baseline)

    def backend(self, given: Given, address: str | None) -> StreamingBackend:
        return backend_with(self.study.config, partial(make_evaluator, worker_kit(self.study, given)), address)

    def scorers(self, note: Note) -> dict[str, Scorer]:
        return {STEP1: TunedTables(self.study, note)}

    def training(self, given: Given, address: str | None) -> Training:
        trainer = build_trainer(self.study, worker_kit(self.study, given), address)
        trainer = trainer and preferring(self.study, trainer)
        return trainer, keepers(self.study, trainer)

    def evaluator_of(self, request: Request) -> CompressionEvaluator:
        return self.study.evaluator.at(request.weights_version).after(request.lineage)

    def loadable(self, evaluation: Evaluation, archive: Archive = EMPTY) -> tuple[nn.Module, Any]:
        return bake(self.realised(evaluation, archive)), self.study.example.cpu().numpy()

    def measured_baseline(self, step: str) -> dict[str, float]:
        return self.study.evaluator.baseline(step)

    def export(self, exported: Exported, out: Path, kind: str, check_data: bool) -> Path:
        study, step = self.study, exported.step
        facts = {
            **exported.facts,
            "preprocessing": study.splits.preprocessing(),
            "accuracy": accuracy_by_split(study.evaluator, step, exported.measures),
        }
        calibration = list(study.splits.calibration_batches(EXPORT_IMAGES, EXPORT_BATCH, torch.device("cpu")))
        time = partial(latency_of_file, study.config, study.teacher, study.example, kind)
        check = partial(accuracy_of_file, study.evaluator, step) if check_data else None
        return export(exported.module, study.example, out, kind, facts, exported.plan, calibration, time, check)

    def pages(self, result: Result) -> dict[str, str]:
        return {"explanation.html": explanation_page(result)}
