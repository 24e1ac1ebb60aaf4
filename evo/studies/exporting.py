"""A member of a front as files that need none of this project."""

from __future__ import annotations

from pathlib import Path

from evaluators.export import FORMATS, FORMATS_BY_ENDING, require_free
from evo.candidates import FINAL, STEP2
from evo.front import FrontPoint
from evo.loop.final import evaluation_of_point
from evo.result import Result
from evo.storage.run_directory import RunDirectory
from evo.studies.inputs import Given, require_given
from evo.studies.opening import open_subject
from evo.studies.subject import Exported


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
    subject = open_subject(result.config, run.local, given, run.folder)
    step = FINAL if point.candidate_id in result.finals else STEP2
    evaluation = evaluation_of_point(result, point, step)
    module = subject.realised(evaluation, result.evaluations)
    measures = dict(evaluation.measures)
    tuning = result.config.evaluation.final if step == FINAL else result.config.evaluation.step2
    facts = {
        "candidate_id": point.candidate_id,
        "step": step,
        "measures": measures,
        "tuning": tuning.model_dump(),
    }
    return subject.export(Exported(module, point.plan, step, facts, measures), out, kind, check_data)
