"""Correct the closed-form score while a search runs: a weight for every term, learned from what step 2 measured.

Terms of one kind (widths, weight bits, ranks ...) are first scaled together, then singly; both are ridge regressions with
non-negative weights that shrink to the coarser level, so that a few measurements help and many are used fully.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluators.loss_tables import LossTables
from evo.calibration import isotonic_estimate

ENOUGH = 8  # measurements below which only the isotonic map is fitted
CHANCE = 0.9  # error of a network that learned nothing, where the loss has no upper bound
SHRINK_KINDS, SHRINK_TERMS = 3.0, 60.0  # chosen by hand on ResNet-20, in units of the terms' mean square


@dataclass(frozen=True)
class TermCalibration:
    """A `Calibration` for errors in 0..1: terms reweighted towards -log(1 - error / chance), then an isotonic map to errors."""

    tables: LossTables

    def __call__(
        self, codes: np.ndarray, surrogate: np.ndarray, value: np.ndarray, query_codes: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        if len(value) < ENOUGH:
            return isotonic_estimate(codes, surrogate, value, query_codes, query)
        known, asked = self._terms(codes), self._terms(query_codes)
        weights = term_weights(known, value, [term.kind for term in self.tables.terms])
        return isotonic_estimate(codes, known @ weights, value, query_codes, asked @ weights)

    def _terms(self, codes: np.ndarray) -> np.ndarray:
        return self.tables.contributions(codes)


def term_weights(terms: np.ndarray, error: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Weights (T,) for the terms (K, T) of K measured genomes with errors (K,); kinds names the kind of every term."""
    loss = -np.log1p(-np.minimum(error, CHANCE - 0.02) / CHANCE)
    trust = np.exp(-loss)  # what is broken anyway need not be predicted well
    names = sorted(set(kinds))
    member = np.array([[kind == name for name in names] for kind in kinds], dtype=float)
    rows = terms * trust[:, None]
    overall = float(rows.sum(1) @ (loss * trust)) / max(float(rows.sum(1) @ rows.sum(1)), 1e-12)
    by_kind = _shrunk(rows @ member, trust, loss, np.full(len(names), overall), SHRINK_KINDS)
    return _shrunk(rows, trust, loss, member @ by_kind, SHRINK_TERMS)


def _shrunk(rows: np.ndarray, trust: np.ndarray, loss: np.ndarray, prior: np.ndarray, shrink: float) -> np.ndarray:
    """Non-negative ridge regression towards `prior` with a free intercept."""
    penalty = shrink * float((rows**2).mean()) + 1e-12
    design = np.hstack([rows, trust[:, None]])
    normal = design.T @ design + np.diag([*np.full(len(prior), penalty), 1e-9])
    target = design.T @ (loss * trust) + np.append(penalty * prior, 0.0)
    return non_negative(normal, target, np.append(prior, 0.0))[:-1]


def non_negative(normal: np.ndarray, target: np.ndarray, start: np.ndarray, sweeps: int = 200) -> np.ndarray:
    """argmin over x >= 0 of 1/2 x'Nx - t'x for a positive definite N, by cyclic coordinate descent."""
    x = np.maximum(start, 0.0)
    diagonal = np.maximum(np.diag(normal), 1e-12)
    for _ in range(sweeps):
        before = x.copy()
        for i in range(len(x)):
            x[i] = max(0.0, x[i] + (target[i] - normal[i] @ x) / diagonal[i])
        if np.abs(x - before).max() <= 1e-7 * (1.0 + np.abs(x).max()):
            break
    return x
