"""Which stored evaluations belong to the search space: files outside a commit have no checksum to vouch for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from evo.candidates import Evaluation
from search_spaces.genome import SearchSpace


def legal(space: SearchSpace, evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """Those whose genomes are legal in the space. Warns of the others, which are evaluated again where they are needed."""
    fits = _fits(space, evaluations)
    wrong = [e.candidate.id for e, fit in zip(evaluations, fits, strict=True) if not fit]
    if wrong:
        warnings.warn(
            f"every stored genome must be legal in the run's search space, but got {len(wrong)} that are not, first that of "
            f"candidate {wrong[0]}; they are left out, and what is missing is evaluated again",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(e for e, fit in zip(evaluations, fits, strict=True) if fit)


def _fits(space: SearchSpace, evaluations: Sequence[Evaluation]) -> np.ndarray:
    limits = np.array(space.cardinalities)
    fits = np.array([len(e.candidate.genome) == len(limits) for e in evaluations], dtype=bool)
    codes = np.array([e.candidate.genome for e, fit in zip(evaluations, fits, strict=True) if fit], dtype=np.int64)
    if len(codes):
        fits[fits] = ((codes >= 0) & (codes < limits)).all(axis=1)
    return fits
