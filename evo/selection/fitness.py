"""Scalar fitness of the genetic algorithms that draw parents in proportion to it: larger is better, never below zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evo.archive import objective_values, violations
from evo.candidates import Evaluation
from evo.pareto import constrained_ranks
from evo.problem import Problem

Array = np.ndarray


class Fitness(Protocol):
    def __call__(self, problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
        """Fitness of each evaluation, float64 (N,), at least 0; 0 for what failed or breaks a constraint."""


@dataclass(frozen=True)
class SavedGenes:
    """f(p) = 1 - E(p) + weight x (1 / N) sum_l (N_l - |B_l|): the share of units that a code removes.

    TEC's form without costs (Wang et al., arXiv 1707.08005). E is the first objective; N counts the bits, so that channels which
    are cut together count once. A gene of more alleles counts by how far it is from its last one.
    """

    weight: float = 1.0

    def __call__(self, problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
        highest = np.maximum(np.array(problem.space.cardinalities) - 1, 1)
        codes = np.array([e.candidate.genome for e in evaluations]).reshape(len(evaluations), len(highest))
        return _useful(problem, evaluations, self.weight * (1 - codes / highest).mean(axis=1))


@dataclass(frozen=True)
class SavedCost:
    """f(p) = 1 - E(p) + weight x (1 - C(p) / C_0): the share of a cost that a code saves.

    TEC's cost-aware form (Wang et al., arXiv 1707.08005), 1 / W sum_l k_l^2 (N_(l-1) N_l - |B_(l-1)| |B_l|), where the cost is
    the number of convolution weights; here it is the second objective, such as params or macs, as measured. E is the first
    objective, C_0 the second one's reference: by default that of the uncompressed network. Without a second one f = 1 - E.
    """

    weight: float = 1.0

    def __call__(self, problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
        if len(problem.objectives) < 2 or len(problem.reference) < 2:
            return _useful(problem, evaluations, np.zeros(len(evaluations)))
        cost = objective_values(problem, evaluations)[:, 1]
        saved = np.where(np.isfinite(cost), 1 - cost / problem.reference[1], 0.0)
        return _useful(problem, evaluations, self.weight * saved)


@dataclass(frozen=True)
class Reciprocal:
    """f = 1 / (E + epsilon), E the first objective: for errors that vary by orders of magnitude and end at 0."""

    epsilon: float = 1e-6

    def __call__(self, problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
        error = _first(problem, evaluations)
        fitness = np.where(np.isfinite(error), 1 / (np.maximum(error, 0) + self.epsilon), 0.0)
        return np.where(_fine(problem, evaluations), fitness, 0.0)


@dataclass(frozen=True)
class Rank:
    """Linear ranking (Baker 1985): the best of N gets N, the worst 1, equals the same; several objectives by Pareto rank."""

    def __call__(self, problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
        ranks = constrained_ranks(objective_values(problem, evaluations), violations(problem, evaluations))
        worse = (ranks[None, :] > ranks[:, None]).sum(axis=1)
        return np.where(np.isfinite(_first(problem, evaluations)), 1.0 + worse, 0.0)


def _useful(problem: Problem, evaluations: Sequence[Evaluation], reward: Array) -> Array:
    """1 - E + reward where that is above 0."""
    error = _first(problem, evaluations)
    fitness = np.maximum(1 - np.where(np.isfinite(error), error, np.inf) + reward, 0.0)
    return np.where(_fine(problem, evaluations), fitness, 0.0)


def _first(problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
    return objective_values(problem, evaluations)[:, 0]


def _fine(problem: Problem, evaluations: Sequence[Evaluation]) -> Array:
    return np.asarray(violations(problem, evaluations) <= 0)
