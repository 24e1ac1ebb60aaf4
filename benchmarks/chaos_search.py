"""One search of the chaos suite, begun or continued: a toy whose evaluations write down when they begin and end.

    python -m benchmarks.chaos_search RUN_DIR --address HOST:PORT --folder DIR

The folder holds the log of all evaluations, and what the evaluations are to suffer: a file `no_memory` takes the memory of
whoever finds it first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.noop import CodeSpace, measures, problem
from cluster.ray_backend import RayBackend
from evo.algorithms.nsga import NSGA2
from evo.candidates import Backend, Outcome, Request, Status
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.keeping import KeepTracking, tracked_run
from evo.loop.observers import SearchObserver
from evo.storage.columns import Archive
from evo.storage.folder import Folder
from evo.storage.lease import Lease
from evo.storage.manifest import RunInfo
from evo.storage.run_directory import RunDirectory
from evo.tracking.tracker import MlflowTracker
from evo.views.display import NoDisplay
from evo.views.progress import SearchInfo
from evo.views.reporting import View, reports
from search_spaces.plan import CompressionPlan

SPACE = CodeSpace(genes=12, alleles=4)
PROBLEM = problem(SPACE)
POPULATION, GENERATIONS = 12, 4
EVALUATIONS = POPULATION * GENERATIONS
WORKERS = 2
DEADLINE_S = 40.0
DELAY_S = 0.15
LOG, NO_MEMORY = "evaluations.log", "no_memory"


@dataclass(frozen=True)
class Restless:
    """Three measures of the seed after `delay_s`; hangs for one plan and takes the interpreter down for another."""

    folder: str
    hangs: str = ""
    crashes: str = ""
    delay_s: float = DELAY_S

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        self._note("begin", seed)
        if plan.digest == self.hangs:
            time.sleep(3600)
        if plan.digest == self.crashes:
            os.abort()
        self._run_out_of_memory()
        time.sleep(self.delay_s)
        self._note("end", seed)
        return measures(seed)

    def _note(self, what: str, seed: int) -> None:
        """One line, appended in one write; an evaluation is known by its seed, which no other has."""
        with open(Path(self.folder, LOG), "a") as log:
            log.write(json.dumps([what, seed, os.getpid(), time.time()]) + "\n")

    def _run_out_of_memory(self) -> None:
        try:
            Path(self.folder, NO_MEMORY).unlink()
        except FileNotFoundError:
            return
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
        bytearray(2**30)


@dataclass(frozen=True)
class Undisturbed:
    """The same measures in this process at once, and of the two bad plans what becomes of them."""

    hangs: str = ""
    crashes: str = ""

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        reasons = {
            self.hangs: f"no result within the deadline of {DEADLINE_S:g} s",
            self.crashes: "its worker was lost 3 times",
        }
        for request in requests:
            reason = reasons.get(request.plan.digest)
            if reason is None:
                yield Outcome(request.key, Status.COMPLETED, measures(request.seed))
            else:
                yield Outcome(request.key, Status.FAILED, reason=reason)

    def close(self) -> None: ...


def opened(uri: str, lease: Lease) -> RunDirectory:
    """The run in a folder, created where it is none yet."""
    if "run.json" in Folder.at(uri).names():
        return RunDirectory.open(uri, lease.require)
    return RunDirectory.create(uri, "chaos: true\n", RunInfo(SPACE.digest, ("min first",), 7), lease.require)


def search(uri: str, backend: Backend, seed: int, mlflow: str = "") -> Archive:
    with Lease(Folder.at(uri), uri) as lease:
        run = opened(uri, lease)
        algorithm = NSGA2(PROBLEM, population=POPULATION)
        with tracked(run, mlflow) as observers:
            return run_search(PROBLEM, algorithm, backend, {}, run, seed, Budget(GENERATIONS), observers)


@contextmanager
def tracked(run: RunDirectory, uri: str) -> Iterator[tuple[SearchObserver, ...]]:
    if not uri:
        yield ()
        return
    tracker = MlflowTracker(uri, "chaos", tracked_run(run), start_patience=30.0, end_patience=60.0)
    yield (*reports(View(PROBLEM), SearchInfo("chaos", run.uri), [NoDisplay(), tracker]), KeepTracking(run, tracker))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--address", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hangs", default="")
    parser.add_argument("--crashes", default="")
    parser.add_argument("--delay", type=float, default=DELAY_S)
    parser.add_argument("--mlflow", default="")
    options = parser.parse_args()
    factory = partial(Restless, options.folder, options.hangs, options.crashes, options.delay)
    deadline_s = DEADLINE_S if options.hangs else None
    backend = RayBackend(factory, WORKERS, address=options.address, deadline_s=deadline_s)
    try:
        search(options.run_dir, backend, options.seed, options.mlflow)
    finally:
        backend.close()


if __name__ == "__main__":
    main()
