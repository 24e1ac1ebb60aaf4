"""What two fidelity steps say about the same candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from evo.candidates import Evaluation

Array = np.ndarray


def both_measured(
    measured: Iterable[Evaluation], measure: str, surrogate: str
) -> tuple[list[Evaluation], Array, Array]:
    """Completed evaluations that have both, finite, with the surrogate (K,) and the measure (K,)."""
    both = [e for e in measured if e.completed and measure in e.measures and surrogate in e.measures]
    both = [e for e in both if np.isfinite([e.measures[measure], e.measures[surrogate]]).all()]
    return both, np.array([e.measures[surrogate] for e in both]), np.array([e.measures[measure] for e in both])


def joined(lower: Iterable[Evaluation], upper: Iterable[Evaluation], measure: str) -> tuple[Array, Array]:
    """A measure at two steps, (K,) each, of the candidates that have it at both, joined by id."""
    above = {e.candidate.id: e.measures[measure] for e in upper if e.completed and measure in e.measures}
    rows = [
        (e.measures[measure], above[e.candidate.id])
        for e in lower
        if e.completed and measure in e.measures and e.candidate.id in above
    ]
    pairs = np.array(rows, dtype=float).reshape(len(rows), 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


def with_lower(upper: Sequence[Evaluation], lower: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Upper-step evaluations with the lower-step measures they do not have themselves, joined by id."""
    before = {e.candidate.id: e.measures for e in lower}
    return tuple(
        replace(e, measures={**before.get(e.candidate.id, {}), **e.measures}) if e.completed else e for e in upper
    )


def codes_of(evaluations: Sequence[Evaluation]) -> Array:
    return np.array([e.candidate.genome for e in evaluations], dtype=np.int64)
