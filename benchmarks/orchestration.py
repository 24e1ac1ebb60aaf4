"""What orchestration costs: evaluations that do nothing, one second each, and the driver's own work, side by side in one run.

    python -m benchmarks.orchestration [--only noop overhead driver resume memory]

Rates are taken in turns, round after round, so that a busy machine disturbs all alike; the ratios are medians over the
rounds. Driver figures are CPU seconds of the process, which other programs do not change. `noop` evaluations go through
a whole search with its journal and commits, on two Ray actors; raw calls send the same requests to two bare actors and
wait for them in groups of 1,000; Ray Tune runs the function API with reused actors, two at a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.noop import CodeSpace, Instant, Sleeper, begin, measures, problem, requests
from cluster.ray_backend import RayBackend
from cluster.ray_session import connect, worker_environment
from evo.algorithms.nsga import NSGA2
from evo.algorithms.random_search import RandomSearch
from evo.candidates import Backend, Evaluation, Request
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import Standing
from evo.views.display import NoDisplay
from evo.views.progress import SearchInfo
from evo.views.reporting import View, reports

WORKERS = 2
ROUNDS = 3
TUNE_TRIALS, TUNE_S = 12, 120.0  # enough: the ratio to be shown is a hundred
POPULATION = 10_000
SPACE = CodeSpace()
PROBLEM = problem(SPACE)
PARTS = ("noop", "overhead", "driver", "resume", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    chosen = parser.parse_args().only
    logging.disable(logging.WARNING)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            found = globals()[part](Path(folder))
            print(part, found, flush=True)
            figures |= found
    print(record.write("orchestration", figures, [7], {"machine_load": os.getloadavg()}))


# --- Evaluations that do nothing -------------------------------------------------------------------------------------


def noop(folder: Path) -> dict[str, float]:
    ray, _ = connect(None, 3 * WORKERS)  # ours and the bare actors stay while Ray Tune wants slots for its own
    rates: dict[str, list[float]] = {"ours": [], "raw": [], "tune": [], "optuna": []}
    backend = RayBackend(Sleeper, WORKERS)
    actors = [ray.remote(Bare).options(runtime_env=worker_environment(1)).remote() for _ in range(WORKERS)]
    our_noops(folder / "warm", backend, 200), raw_calls(ray, actors, 200)
    for number in range(ROUNDS):
        rates["raw"].append(raw_calls(ray, actors, 4000))
        rates["ours"].append(our_noops(folder / f"noop{number}", backend, 4000))
        rates["tune"].append(tune_trials(folder / f"tune{number}", TUNE_TRIALS))
        rates["optuna"].append(optuna_trials(2000))
    backend.close()
    ray.shutdown()
    shares = {
        f"noop_vs_{label}": statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))
        for name, label in (("raw", "raw_actor"), ("tune", "ray_tune"), ("optuna", "optuna"))
    }
    return {**shares, **{f"{name}_per_s": statistics.median(values) for name, values in rates.items()}}


class Bare:
    def evaluate(self, request: Request) -> dict[str, float]:
        return measures(request.seed)


def raw_calls(ray: Any, actors: Sequence[Any], count: int) -> float:
    work = requests(SPACE, count)
    began = time.perf_counter()
    for start in range(0, count, 1000):
        group = work[start : start + 1000]
        ray.get([actors[i % len(actors)].evaluate.remote(request) for i, request in enumerate(group)])
    return count / (time.perf_counter() - began)


def our_noops(folder: Path, backend: Backend, count: int) -> float:
    """Evaluations per second of a random search in generations of 1,000, from its first request to its last commit."""
    algorithm = RandomSearch(PROBLEM, population=min(count, 1000))
    began = time.perf_counter()
    archive = run_search(PROBLEM, algorithm, backend, {}, begin(folder, PROBLEM), 7, Budget(evaluations=count))
    return len(archive) / (time.perf_counter() - began)


def trial(config: dict[str, Any]) -> dict[str, float]:
    return measures(int(config["seed"] * 10**6))


def tune_trials(folder: Path, count: int) -> float:
    from ray import tune

    settings = tune.TuneConfig(
        num_samples=count, max_concurrent_trials=WORKERS, reuse_actors=True, time_budget_s=TUNE_S
    )
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"seed": tune.uniform(0, 1)},
        tune_config=settings,
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    done = sum(result.metrics is not None and "first" in result.metrics for result in tuner.fit())
    return max(done, 1) / (time.perf_counter() - began)  # where none ended in time, one is counted in its favour


def optuna_trials(count: int) -> float:
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    began = time.perf_counter()
    study.optimize(lambda t: measures(t.suggest_int("seed", 0, 10**6))["first"], n_trials=count, n_jobs=WORKERS)
    return count / (time.perf_counter() - began)


# --- Evaluations of one second ---------------------------------------------------------------------------------------


def overhead(folder: Path) -> dict[str, float]:
    """Time over the ideal of a search of 3 x 20 evaluations of one second on two workers that are already there."""
    backend = RayBackend(partial(Sleeper, 1.0), WORKERS)
    list(backend.evaluate(requests(SPACE, WORKERS)))
    algorithm = RandomSearch(PROBLEM, population=20)
    began = time.perf_counter()
    archive = run_search(PROBLEM, algorithm, backend, {}, begin(folder / "overhead", PROBLEM), 7, Budget(3))
    spent = time.perf_counter() - began
    backend.close()
    return {"overhead_1s": spent / (len(archive) / WORKERS) - 1}


# --- The driver's own work -------------------------------------------------------------------------------------------


@dataclass
class Costs:
    """CPU seconds of each round."""

    seconds: list[float] = field(default_factory=list)
    _last: float = 0.0

    def on_start(self, standing: Standing) -> None:
        self._last = time.process_time()

    def on_evaluation(self, evaluation: Evaluation) -> None: ...

    def on_round(self, standing: Standing) -> None:
        self.seconds.append(time.process_time() - self._last)
        gc.collect()
        self._last = time.process_time()

    def on_end(self, standing: Standing, status: str) -> None: ...


def driven(folder: Path, population: int, generations: int) -> Costs:
    """A search by NSGA-II with progress reports, as the command line runs it, on a backend that takes no time."""
    costs = Costs()
    listeners = reports(View(PROBLEM), SearchInfo("benchmark", str(folder)), [NoDisplay()])
    algorithm = NSGA2(PROBLEM, population=population)
    run_search(PROBLEM, algorithm, Instant(), {}, begin(folder, PROBLEM), 7, Budget(generations), (*listeners, costs))
    return costs


def driver(folder: Path) -> dict[str, float]:
    costs = driven(folder / "driver", POPULATION, 3)
    return {"driver_10k_s": statistics.median(costs.seconds)}


def memory(folder: Path, evaluations: int = 100_000) -> dict[str, float]:
    """Growth of the driver per evaluation, from a fifth of them on: of its resident memory and of what its allocators hold."""
    own, held = (_held(evaluations, *options) for options in ((), ("--traced",)))
    growth = own["bytes_per_evaluation"] * evaluations * 4 / 5
    return {
        "driver_bytes_per_evaluation": own["bytes_per_evaluation"],
        "driver_growth_mib_100k": growth / 2**20,
        "driver_mib_100k": own["mib"],
        "driver_held_bytes_per_evaluation": held["bytes_per_evaluation"],
    }


def _held(evaluations: int, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.driver_memory", "--evaluations", str(evaluations), *options]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def resume(folder: Path) -> dict[str, float]:
    """From an archive of 100,000 rows on disk to the first request of the next generation."""
    run = folder / "resume"
    driven(run, POPULATION, 10)
    seconds = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        evaluations = run_search(
            PROBLEM, NSGA2(PROBLEM, population=POPULATION), Instant(), {}, begin(run, PROBLEM), 7, Budget(10)
        )
        seconds.append(time.process_time() - began)
    return {"resume_100k_s": statistics.median(seconds), "resume_rows": float(len(evaluations))}


if __name__ == "__main__":
    main()
