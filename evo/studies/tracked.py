"""The tracker of a search, with what it may ask for once the search is over: networks, pages, pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from evo.candidates import STEP2
from evo.loop.keeping import tracked_run
from evo.registry import TRACKERS, resolve
from evo.result import Result, load
from evo.storage.run_directory import RunDirectory
from evo.studies.opening import AnySubject
from evo.views.summary import trust


def tracker_of(run: RunDirectory, subject: AnySubject, note: Callable[[str], None]) -> Any:
    section, sheet = subject.study.config.tracking, subject.sheet
    if section.tracker == "none":
        return resolve(TRACKERS, "none")()

    @cache
    def finished() -> Result:  # asked for only when the search is over
        return load(run.uri)

    def model_of(candidate_id: str) -> tuple[nn.Module, Any]:
        evaluation = finished().evaluation(candidate_id, STEP2)
        if evaluation is None:
            raise ValueError(
                f"a model must belong to a measured candidate, but got {candidate_id}; take one of the front"
            )
        return subject.loadable(evaluation, finished().evaluations)

    def texts() -> dict[str, str]:
        return {**subject.pages(finished()), "trust.txt": trust(finished())}

    return resolve(TRACKERS, section.tracker)(
        uri=os.path.expandvars(section.uri),
        experiment=section.experiment,
        run_id=tracked_run(run),
        load_model=model_of,
        texts=texts,
        draw=None if sheet is None else lambda file: sheet(load(run.uri), file),
        note=note,
    )
