"""Which stored evaluations belong to the search space: files outside a commit have no checksum to vouch for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from evo.candidates import Evaluation
from evo.storage.columns import Archive
from search_spaces.genome import SearchSpace


def legal(space: SearchSpace, evaluations: Iterable[Evaluation]) -> Archive:
    """Those whose genomes are legal in the space. Warns of the others, which are evaluated again where they are needed."""
    archive = Archive.of(evaluations)
    wrong = [e.candidate.id for part in archive.parts() for e in _strangers(space, part)]
    if not wrong:
        return archive
    warnings.warn(
        f"every stored genome must be legal in the run's search space, but got {len(wrong)} that are not, first that of "
        f"candidate {wrong[0]}; they are left out, and what is missing is evaluated again",
        RuntimeWarning,
        stacklevel=2,
    )
    return Archive.of(e for part in archive.parts() for e, fits in zip(part, _fit(space, part), strict=True) if fits)


def _strangers(space: SearchSpace, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    return [e for e, fits in zip(evaluations, _fit(space, evaluations), strict=True) if not fits]


def _fit(space: SearchSpace, evaluations: Sequence[Evaluation]) -> np.ndarray:
    limits = np.array(space.cardinalities)
    fits = np.array([len(e.candidate.genome) == len(limits) for e in evaluations], dtype=bool)
    codes = np.array([e.candidate.genome for e, fit in zip(evaluations, fits, strict=True) if fit], dtype=np.int64)
    if len(codes):
        fits[fits] = ((codes >= 0) & (codes < limits)).all(axis=1)
    return fits
