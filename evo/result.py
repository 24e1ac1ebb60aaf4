"""A finished (or running) search as it lies in its run directory: the front, the final evaluations, picking. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo.archive import Agreement, dominated_share, pareto_front, step_agreement
from evo.candidates import FINAL, STEP1, STEP2, Evaluation, rung_steps
from evo.config.objectives import problem_of
from evo.config.schema import Config, parse
from evo.config.space_file import SPACE_FILE, space_from_json
from evo.front import FrontPoint, pick, within_reference
from evo.problem import Problem
from evo.storage.columns import Archive
from evo.storage.legality import legal
from evo.storage.run_directory import RunDirectory
from evo.views.marks import absolute_marks
from evo.views.reporting import front_points

if TYPE_CHECKING:
    from rich.console import Group

    from evo.studies.inputs import Given


BASELINE_FILE = "baseline.json"


@dataclass(frozen=True)
class Result:
    """`front` holds the search-validation front at step 2; `finals` the measures of the picks after the last step, by id."""

    run_dir: str
    config: Config
    problem: Problem
    baseline: Mapping[str, float]
    evaluations: Archive
    seed: int = 0
    final_baseline: Mapping[str, float] = field(default_factory=dict)  # of the uncompressed network at the last step
    given: Given | None = field(default=None, repr=False, compare=False)  # what a search from Python was given

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        return front_points(self.problem, pareto_front(self.problem, self.evaluations, STEP2))

    @property
    def useful(self) -> tuple[FrontPoint, ...]:
        """The front without the points that are worse than the hypervolume's reference in some objective."""
        names = [o.measure for o in self.problem.objectives]
        return within_reference(self.front, dict(zip(names, self.problem.reference, strict=False)))

    @property
    def finals(self) -> dict[str, Mapping[str, float]]:
        return {e.candidate.id: e.measures for e in self.evaluations if e.candidate.step == FINAL and e.completed}

    @property
    def history(self) -> tuple[tuple[int, float], ...]:
        """(step-2 evaluations so far, hypervolume as a share of the box up to the reference), at most 100 of them."""
        measured = [e for e in self.evaluations if e.candidate.step == STEP2]
        counts = sorted({len(measured) * i // 100 for i in range(1, 101)} - {0})
        return tuple(
            (n, dominated_share(self.problem, pareto_front(self.problem, measured[:n], STEP2))) for n in counts
        )

    @property
    def marks(self) -> dict[str, dict[str, float]]:
        """Points of the configuration to compare with, in the measures' own units."""
        return absolute_marks(self.config.tracking.marks, self.baseline)

    def with_marks(self, marks: Mapping[str, Mapping[str, float | str]]) -> Result:
        """The same result with further points to compare with; raises ValueError for one that cannot be read."""
        both = {**self.config.tracking.marks, **{name: dict(values) for name, values in marks.items()}}
        tracking = self.config.tracking.model_copy(update={"marks": both})
        changed = replace(self, config=self.config.model_copy(update={"tracking": tracking}))
        absolute_marks(both, self.baseline)
        return changed

    def pick(self, spec: str) -> Choice:
        """A front member: its id, "knee", or limits such as "macs<=0.5x,top1_error<=0.09"."""
        return Choice(self, pick(self.front, spec, self.baseline))

    def agreement(self, lower: str = STEP1, upper: str = STEP2) -> Agreement:
        """Kendall's tau between two steps: how far the cheaper one can be trusted."""
        measures = dict.fromkeys(self.steps, "top1_error") | {STEP1: "predicted_loss_increase"}
        return step_agreement(self.evaluations, lower, upper, measures[lower], measures[upper])

    @property
    def steps(self) -> tuple[str, ...]:
        """The ladder of this search, cheapest step first."""
        return (STEP1, *rung_steps(len(self.config.evaluation.rungs)), STEP2, FINAL)

    def latency_agreement(self) -> Agreement:
        """Kendall's tau between predicted and measured latency, over everything that was measured."""
        return step_agreement(self.evaluations, STEP2, STEP2, "predicted_latency_ms", "latency_ms")

    def evaluation(self, candidate_id: str, step: str) -> Evaluation | None:
        found = [
            e for e in self.evaluations if e.candidate.id == candidate_id and e.candidate.step == step and e.completed
        ]
        return found[0] if found else None

    def to_json(self) -> list[dict[str, Any]]:
        """The front, one object per point; `final` holds the measures after the last step where there are any."""
        finals = self.finals
        return [
            {**point.to_json(), "final": dict(finals[point.candidate_id]) if point.candidate_id in finals else None}
            for point in self.front
        ]

    def _repr_html_(self) -> str:
        from evo.views.notebook import result_html

        return result_html(self)

    def __rich__(self) -> Group:
        from evo.views.summary import shown_front

        return shown_front(self)


@dataclass(frozen=True)
class Choice:
    """One front member of a result."""

    result: Result
    point: FrontPoint

    def _repr_html_(self) -> str:
        from evo.views.notebook import point_html

        return point_html(self.point, self.result)

    def export(self, out: str | Path, format: str | None = None, check_data: bool = False) -> Path:
        """Write the model: `format` is "pytorch", "torch-export" or "onnx"; by default that of the file's ending. With check_data
        its card also says how accurate the file itself is."""
        from evo.api import export_point

        return export_point(self.result, self.point, Path(out), format, check_data)


def load(run_dir: str | Path, given: Given | None = None) -> Result:
    """Read a run directory; raises ValueError where it is none or damaged.

    `given` are the objects of a search that was started from Python, which only an export needs.
    """
    run = RunDirectory.open(str(run_dir))
    config = parse(run.config, origin=f"{run_dir}/config.yaml")
    space = space_from_json(run.text(SPACE_FILE))
    info = run.info
    problem = problem_of(config, space, info.baseline)
    evaluations = legal(space, run.evaluations())
    final = json.loads(run.folder.read(BASELINE_FILE)) if BASELINE_FILE in run.folder.names() else {}
    return Result(str(run_dir), config, problem, info.baseline, evaluations, info.seed, final, given)
