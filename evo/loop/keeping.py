"""Observers that keep the run directory tidy: which tracked run it belongs to, and tuned weights of the front alone."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Protocol

from evo.candidates import RUNG, STEP2
from evo.loop.observers import EveryRound, Standing
from evo.loop.running import RunningFront
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
    """Deletes tuned weights but those of the front and those from which the next round may go on: of the last candidate at
    step 2, and of the rung climbed last. What is needed again is made again, equally."""

    def __init__(self, problem: Problem, folder: Path | None) -> None:
        self._space, self._folder, self._front = problem.space, folder, RunningFront(problem, STEP2)

    def act(self, standing: Standing) -> None:
        if self._folder is None:
            return
        measured = (e for e in reversed(standing.evaluations) if e.candidate.step == STEP2 and e.completed)
        front = [*self._front.update(standing), *islice(measured, 1)]
        digests = {self._space.decode(self._space.repair(e.candidate.genome)).digest for e in front}
        climbed = {e.candidate.step for e in standing.latest}
        for file in (self._folder / "models").glob("*-*-*.safetensors"):
            digest, step, *_ = file.name.split("-")
            outdated = digest not in digests if step == STEP2 else step.startswith(RUNG) and step not in climbed
            if outdated:
                file.unlink(missing_ok=True)
