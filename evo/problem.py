"""What is minimised, within which limits, over which space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo.candidates import Evaluation
from search_spaces.genome import SearchSpace


@dataclass(frozen=True)
class Objective:
    """A measure to minimise, or to maximise with direction "max"."""

    measure: str
    direction: str = "min"

    @property
    def sign(self) -> float:
        return -1.0 if self.direction == "max" else 1.0


@dataclass(frozen=True)
class Constraint:
    """Feasible where measure <= upper (in the measure's own unit)."""

    measure: str
    upper: float


@dataclass(frozen=True)
class Problem:
    """Space, objectives and constraints, and the hypervolume reference point (minimised values, one per objective)."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    reference: tuple[float, ...] = ()

    def values(self, evaluation: Evaluation) -> np.ndarray:
        """Minimised objective values, shape (objectives,); +inf everywhere for a failed or incomplete evaluation."""
        if not evaluation.completed:
            return np.full(len(self.objectives), np.inf)
        values = np.array([o.sign * evaluation.measures.get(o.measure, np.nan) for o in self.objectives])
        return values if np.isfinite(values).all() else np.full(len(self.objectives), np.inf)

    def matrix(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """`values` of many evaluations, float64 (N, objectives)."""
        names, unknown = [o.measure for o in self.objectives], [np.nan] * len(self.objectives)
        rows = [[e.measures.get(n, np.nan) for n in names] if e.completed else unknown for e in evaluations]
        values = np.array(rows, dtype=float).reshape(len(rows), len(names)) * [o.sign for o in self.objectives]
        values[~np.isfinite(values).all(axis=1)] = np.inf
        return values

    def excess(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """`violation` of many evaluations, float64 (N,)."""
        if self.constraints:
            return np.array([self.violation(e) for e in evaluations], dtype=float)
        return np.where([e.completed for e in evaluations], 0.0, np.inf)

    def violation(self, evaluation: Evaluation) -> float:
        """Sum of relative excesses over the constraints' limits: 0 where feasible, +inf for a failed evaluation."""
        if not evaluation.completed:
            return np.inf
        excess = [
            (evaluation.measures.get(c.measure, np.inf) - c.upper) / max(abs(c.upper), 1e-12) for c in self.constraints
        ]
        return float(sum(max(0.0, e) for e in excess))
