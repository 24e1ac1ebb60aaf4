"""From a configuration to the subject of its search."""

from __future__ import annotations

from pathlib import Path

from evo.config.schema import Config
from evo.storage.folder import Folder
from evo.studies.cells import build_cells
from evo.studies.classifier import build_study
from evo.studies.inputs import Given
from evo.studies.of_cells import Cells
from evo.studies.of_classifier import Classifier
from evo.studies.of_generators import Generators
from evo.studies.supernets import with_shared
from evo.studies.translation import build_translation

AnySubject = Classifier | Generators | Cells


def open_subject(config: Config, folder: Path | None, given: Given, shared: Folder | None = None) -> AnySubject:
    """Load, trace and measure what is searched; see `build_study`. With `shared`, the run's folder, networks are also taken from
    the shared weights that lie there. Raises ValueError for parameters out of range, before anything is written."""
    subject = _opened(config, folder, given, shared)
    subject.algorithm()
    return subject


def _opened(config: Config, folder: Path | None, given: Given, shared: Folder | None) -> AnySubject:
    if config.cells is not None:
        return Cells(build_cells(config, folder, given, shared))
    if config.gan is not None:
        return Generators(build_translation(config, folder, given))
    study = build_study(config, folder, given)
    return Classifier(study if shared is None else with_shared(study, shared))
