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
from evo.studies.cells import CellStudy
from evo.studies.explain import explanation_page
from evo.studies.kinds import AnyStudy, loadable
from evo.studies.pair_outputs import write_sheet
from evo.studies.translation import TranslationStudy
from evo.views.summary import trust


def tracker_of(run: RunDirectory, study: AnyStudy, note: Callable[[str], None]) -> Any:
    section = study.config.tracking
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
        return loadable(study, evaluation, finished().evaluations)

    def texts() -> dict[str, str]:
        explained = {} if isinstance(study, CellStudy) else {"explanation.html": explanation_page(finished())}
        return {**explained, "trust.txt": trust(finished())}

    return resolve(TRACKERS, section.tracker)(
        uri=os.path.expandvars(section.uri),
        experiment=section.experiment,
        run_id=tracked_run(run),
        load_model=model_of,
        texts=texts,
        draw=(lambda file: write_sheet(study, finished(), file)) if isinstance(study, TranslationStudy) else None,
        note=note,
    )
