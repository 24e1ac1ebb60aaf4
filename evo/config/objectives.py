"""Objectives, constraints and the hypervolume reference of a configuration, relative to a measured baseline."""

from __future__ import annotations

from collections.abc import Mapping

from evo.config.schema import Config
from evo.problem import Constraint, Objective, Problem
from search_spaces.genome import SearchSpace

# Hypervolume counts errors up to this much above the baseline's, by part of the measure's name.
MARGINS = {"top1_error": 0.2, "cross_entropy": 1.0, "discriminator_distance": 1.0, "cycle": 0.5}


def problem_of(config: Config, space: SearchSpace, baseline: Mapping[str, float]) -> Problem:
    """Constraints in absolute units; reference point: the baseline's costs, and its error with a margin."""
    constraints = tuple(Constraint(c.measure, _absolute(c.measure, c.upper, baseline)) for c in config.constraints)
    objectives = tuple(Objective(o.measure, o.direction) for o in config.objectives)
    reference = tuple(
        o.sign * (c.reference if c.reference is not None else _reference(c.measure, baseline))
        for o, c in zip(objectives, config.objectives, strict=True)
    )
    return Problem(space, objectives, constraints, reference)


def _reference(measure: str, baseline: Mapping[str, float]) -> float:
    return baseline[measure] + next((margin for kind, margin in MARGINS.items() if kind in measure), 0.0)


def _absolute(measure: str, upper: float | str, baseline: Mapping[str, float]) -> float:
    if not isinstance(upper, str):
        return upper
    try:
        return float(upper.removesuffix("x")) * (baseline[measure] if upper.endswith("x") else 1.0)
    except ValueError as error:
        raise ValueError(
            f'a constraint must be a number or relative like "0.5x", but got upper={upper!r} for {measure}; correct it'
        ) from error
