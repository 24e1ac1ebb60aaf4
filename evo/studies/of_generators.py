"""Two generators of an image translation as the subject of a search."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from evaluators.gan.networks import DIRECTIONS, StackedPair
from evaluators.quantise import bake
from evo.algorithm import AnyAlgorithm
from evo.candidates import Evaluation, StreamingBackend
from evo.config.schema import Config
from evo.problem import Problem
from evo.result import Result
from evo.storage.columns import EMPTY, Archive
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import build_algorithm
from evo.studies.explain import explanation_page
from evo.studies.inputs import Given
from evo.studies.pair_outputs import export_pair, write_sheet
from evo.studies.subject import Exported, Sheet, Subject
from evo.studies.translation import (
    TranslationStudy,
    keep_translation,
    make_translator,
    translation_kit,
)
from evo.studies.translation_limits import limits_of_parts
from evo.studies.workers import backend_with
from search_spaces.space import CompressionSpace


def pair_algorithm(
    config: Config, problem: Problem, space: CompressionSpace, baseline: Mapping[str, float]
) -> AnyAlgorithm:
    """That of a search of generators: co-evolution has a population for each of them."""
    algorithm = config.algorithm
    if algorithm.name == "coevolution":
        own: dict[str, Any] = {"parts": {direction: f"*:{direction}.*" for direction in DIRECTIONS}}
        if config.gan is not None and config.gan.fit_limits:
            own["within"] = limits_of_parts(problem, space, config.gan.fill_limits)
        algorithm = algorithm.model_copy(update={"params": {**own, **algorithm.params}})
    return build_algorithm(algorithm, problem, None, baseline)


class Generators(Subject[TranslationStudy]):
    def kept(self, run: RunDirectory) -> Generators:
        return Generators(keep_translation(self.study, run))

    def algorithm(self) -> AnyAlgorithm:
        study = self.study
        return pair_algorithm(study.config, study.problem, study.space, study.baseline)

    def backend(self, given: Given, address: str | None) -> StreamingBackend:
        return backend_with(self.study.config, partial(make_translator, translation_kit(self.study)), address)

    def loadable(self, evaluation: Evaluation, archive: Archive = EMPTY) -> tuple[nn.Module, Any]:
        example = np.stack([part.cpu().numpy() for part in self.study.example], axis=1)
        return StackedPair(bake(self.realised(evaluation, archive))), example

    def measured_baseline(self, step: str) -> dict[str, float]:
        return self.study.evaluator.baseline(step)

    def export(self, exported: Exported, out: Path, kind: str, check_data: bool) -> Path:
        return export_pair(self.study, exported.module, out, kind, exported.facts, exported.plan)

    def pages(self, result: Result) -> dict[str, str]:
        return {"explanation.html": explanation_page(result)}

    @property
    def sheet(self) -> Sheet:
        return partial(write_sheet, self.study)
