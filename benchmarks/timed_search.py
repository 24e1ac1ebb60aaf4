"""Run one search and note, for every evaluation, the processor time and the wall time at which it was known.

    python -m benchmarks.timed_search CONFIG OUT.json --seconds 600 [--set KEY=VALUE ...]

The clock is the processor time of the search and its workers from the start of the process: imports, loading, tracing and
statistics included. With one worker of one thread it equals the wall time of a quiet machine, and it does not move when other
work shares the processor. The search is interrupted when the clock reaches `--seconds`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import record
from evo.api import Listeners, run_config
from evo.candidates import STEP2, Evaluation
from evo.config.schema import load
from evo.pareto import hypervolume
from evo.result import Result
from evo.result import load as load_result
from evo.views.progress import Progress, SearchInfo

ALONE = ["execution.backend=local", "execution.workers=1", "execution.threads=1", "tracking.tracker=none"]
NO_FINAL = ["evaluation.final.picks=[]", "budget.generations=null", "budget.minutes=600"]


@dataclass(frozen=True)
class Known:
    """A step-2 evaluation, its `seconds` of processor time and of wall time since the start, and its objectives."""

    key: str
    seconds: float
    wall: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Trajectory:
    """A search up to its budget: objectives (all minimised) with the reference point, evaluations in order of time."""

    config: str
    commit: str
    sets: Sequence[str]
    seed: int
    objectives: Sequence[str]
    reference: Sequence[float]
    evaluations: Sequence[Known]
    seconds: float
    wall: float

    def curve(self) -> list[tuple[float, float]]:
        """(seconds, hypervolume as a share of the box below the reference) at every improvement."""
        reference = np.array(self.reference)
        front = np.zeros((0, len(reference)))
        curve: list[tuple[float, float]] = []
        for known in sorted(self.evaluations, key=lambda k: k.seconds):
            value = np.array([[known.measures[o] for o in self.objectives]]) / reference
            front = np.concatenate([front, value])
            reached = hypervolume(front, np.ones(len(reference)))
            if not curve or reached > curve[-1][1]:
                curve.append((known.seconds, reached))
        return curve


def read(file: Path) -> Trajectory:
    content = json.loads(file.read_text())
    return Trajectory(**{**content, "evaluations": [Known(**known) for known in content["evaluations"]]})


@dataclass
class Clock:
    """Listens to a search and interrupts it when its processor time is used up."""

    budget: float
    known: list[Known] = field(default_factory=list)
    started: float = field(default_factory=lambda: psutil.Process().create_time())

    def on_start(self, info: SearchInfo) -> None: ...

    def on_evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.candidate.step != STEP2:
            return
        seconds = processor_seconds()
        if evaluation.completed and seconds <= self.budget:
            wall = time.time() - self.started
            self.known.append(Known(evaluation.candidate.key, seconds, wall, dict(evaluation.measures)))
        if seconds > self.budget:
            os.kill(os.getpid(), signal.SIGINT)

    def on_round(self, progress: Progress) -> None: ...
    def on_end(self, progress: Progress, status: str) -> None: ...


def processor_seconds() -> float:
    """User and system time of this process and all its descendants."""
    mine = psutil.Process()
    spent = mine.cpu_times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for child in mine.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def run(config: str, sets: Sequence[str], seconds: float) -> Trajectory:
    settings = load(config, [*ALONE, *NO_FINAL, *sets])
    clock = Clock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        directory = str(Path(folder) / "run")
        with contextlib.suppress(KeyboardInterrupt):
            run_config(settings, directory, listeners=Listeners(clock))
        result: Result = load_result(directory)
    objectives = [o.measure for o in result.problem.objectives]
    return Trajectory(
        config,
        record.commit(),
        [s for s in sets if "/" not in s],
        settings.seed,
        objectives,
        [float(bound) for bound in result.problem.reference],
        [replace(k, measures={o: k.measures[o] for o in objectives}) for k in clock.known],
        processor_seconds(),
        time.time() - clock.started,
    )


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    found: dict[str, Any] = asdict(run(arguments.config, arguments.set, arguments.seconds))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.out.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(arguments.out)


if __name__ == "__main__":
    main()
