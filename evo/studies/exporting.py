"""A member of a front as files that need none of this project."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evaluators.export import FORMATS, FORMATS_BY_ENDING, export, require_free
from evaluators.export.accuracy import accuracy_by_split, accuracy_of_file
from evo.candidates import FINAL, STEP2
from evo.front import FrontPoint
from evo.loop.final import evaluation_of_point
from evo.result import Result
from evo.storage.run_directory import RunDirectory
from evo.studies.cells import CellStudy
from evo.studies.inputs import Given, require_given
from evo.studies.kinds import open_study, realised
from evo.studies.pair_outputs import export_pair
from evo.studies.timing import latency_of_file
from evo.studies.translation import TranslationStudy

EXPORT_IMAGES, EXPORT_BATCH = 128, 16  # training images for ranges that only an export needs


def export_point(
    result: Result, point: FrontPoint, out: Path, format: str | None = None, check_data: bool = False
) -> Path:
    """Write a front member as a model that needs none of this project; at the final step where it was finished there.

    check_data: the files also answer the images that the network was measured on, for the card.
    """
    kind = format or FORMATS_BY_ENDING.get(out.suffix, "pytorch")
    if kind not in FORMATS:
        raise ValueError(f"an export format must be one of {', '.join(FORMATS)}, but got {kind!r}; choose one of these")
    if FORMATS_BY_ENDING.get(out.suffix, kind) != kind:
        raise ValueError(f"the ending of the file must suit its format, but got {out} for {kind}; change one of them")
    run = RunDirectory.open(result.run_dir)
    given = result.given or Given()
    require_given(result.config, given, result.run_dir, "evo.load")
    require_free(out, kind)
    study = open_study(result.config, run.local, given, run.folder)
    step = FINAL if point.candidate_id in result.finals else STEP2
    evaluation = evaluation_of_point(result, point, step)
    module = realised(study, evaluation, result.evaluations)
    measures = dict(evaluation.measures)
    tuning = result.config.evaluation.final if step == FINAL else result.config.evaluation.step2
    facts = {
        "candidate_id": point.candidate_id,
        "step": step,
        "measures": measures,
        "tuning": tuning.model_dump(),
    }
    if isinstance(study, TranslationStudy):
        return export_pair(study, module, out, kind, facts, point.plan)
    calibration = list(study.splits.calibration_batches(EXPORT_IMAGES, EXPORT_BATCH, torch.device("cpu")))
    if isinstance(study, CellStudy):
        facts["preprocessing"] = study.splits.preprocessing()
        return export(module, study.example, out, kind, facts, point.plan, calibration)
    return export(
        module,
        study.example,
        out,
        kind,
        {
            **facts,
            "preprocessing": study.splits.preprocessing(),
            "accuracy": accuracy_by_split(study.evaluator, step, measures),
        },
        point.plan,
        calibration,
        partial(latency_of_file, result.config, study.teacher, study.example, kind),
        partial(accuracy_of_file, study.evaluator, step) if check_data else None,
    )
