"""Observers that keep the run directory tidy: which tracked run it belongs to, and tuned weights of the front alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from evo.archive import pareto_front
from evo.candidates import STEP2
from evo.loop.observers import EveryRound, Standing
from evo.problem import Problem
from evo.storage.run_directory import RunDirectory

TRACKING_FILE = "tracking.json"


class Tracked(Protocol):
    run_id: str


def tracked_run(run: RunDirectory) -> str:
    """The tracked run that this directory continues, or an empty string."""
    if TRACKING_FILE not in run.folder.names():
        return ""
    return str(json.loads(run.folder.read(TRACKING_FILE))["run_id"])


class KeepTracking(EveryRound):
    """Writes the tracker's run id into the run directory as soon as there is one."""

    def __init__(self, run: RunDirectory, tracker: Tracked) -> None:
        self._run, self._tracker, self._written = run, tracker, tracked_run(run)

    def on_start(self, standing: Standing) -> None:
        self.act(standing)

    def act(self, standing: Standing) -> None:
        if self._tracker.run_id != self._written:
            self._written = self._tracker.run_id
            self._run.write(TRACKING_FILE, json.dumps({"run_id": self._written}).encode())


class KeepFront(EveryRound):
    """Deletes the step-2 weights of candidates that are not on the front; what is needed again is made again, equally."""

    def __init__(self, problem: Problem, folder: Path | None) -> None:
        self._problem, self._folder = problem, folder

    def act(self, standing: Standing) -> None:
        if self._folder is None:
            return
        space = self._problem.space
        front = pareto_front(self._problem, standing.evaluations, STEP2)
        digests = {space.decode(space.repair(e.candidate.genome)).digest for e in front}
        for file in (self._folder / "models").glob(f"*-{STEP2}-*.safetensors"):
            if file.name.partition("-")[0] not in digests:
                file.unlink(missing_ok=True)
