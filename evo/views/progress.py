"""What is told of a search to people and trackers: how it starts, where it stands, how it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from evo.candidates import Evaluation
from evo.front import FrontPoint, within_reference


@dataclass(frozen=True)
class SearchInfo:
    """Known before the first evaluation: `params` is the flattened configuration, `baseline` measures the original,
    `marks` are points to draw beside the front."""

    name: str
    run_dir: str
    params: Mapping[str, str] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """A search after a round. Rates and shares are in [0, 1]; what is not known yet is NaN.

    `round` counts batches, of which a generation may have several. `evaluations` are those at the front's fidelity
    step, `scored` those at other steps, `failed` the failures among both. `tau` is Kendall's between the steps with its
    95 % interval, `budget` what `best_under_budget` had to keep to (such as half_macs), `worker_use` the share of
    worker time spent evaluating, `done` the used share of the search's own budget.
    """

    generation: int
    round: int
    evaluations: int
    failed: int
    seconds: float
    hypervolume: float
    scored: int = 0
    best_under_budget: Mapping[str, float] = field(default_factory=dict)
    budget: str = ""
    tau: float = math.nan
    tau_low: float = math.nan
    tau_high: float = math.nan
    worker_use: float = math.nan
    done: float = math.nan
    front: tuple[FrontPoint, ...] = ()
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def useful(self) -> tuple[FrontPoint, ...]:
        """The front within the hypervolume's `reference` (minimised values by measure)."""
        return within_reference(self.front, self.reference)

    @property
    def seconds_left(self) -> float:
        """Time left if the rest of the budget goes at the pace so far; NaN while unknown."""
        return self.seconds * (1 - self.done) / self.done if self.done > 0 else math.nan

    def metrics(self) -> dict[str, float]:
        """Every number that is known, by name."""
        within = f"_at_{self.budget}" if self.budget else ""
        values = {
            "hypervolume": self.hypervolume,
            "front_size": len(self.front),
            "tau": self.tau,
            "tau_low": self.tau_low,
            "tau_high": self.tau_high,
            "evaluations": self.evaluations,
            "scored": self.scored,
            "failed": self.failed,
            "seconds": self.seconds,
            "worker_use": self.worker_use,
            **{f"best_{name}{within}": value for name, value in self.best_under_budget.items()},
        }
        return {name: float(value) for name, value in values.items() if not math.isnan(value)}


class Listener(Protocol):
    """A display or a tracker. `evo.views.reporting` tells it what a search loop reports."""

    def on_start(self, info: SearchInfo) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Called for every evaluation as it finishes, in any order; must return at once."""

    def on_round(self, progress: Progress) -> None: ...
    def on_end(self, progress: Progress, status: str) -> None:
        """`status` is "finished", "interrupted" or "failed"; the last two can be resumed."""


def completed_generation(previous: Progress | None, current: Progress) -> Progress | None:
    """The last round of the generation before, once a round of another generation has come; else None."""
    return previous if previous is not None and previous.generation != current.generation else None
