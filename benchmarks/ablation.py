"""What each mechanism of the two-step search is worth: the same search with one of them switched off, for equal processor time.

    python -m benchmarks.ablation --weights FILE --data DIR --work DIR [--seconds 180] [--seeds 0 1 2]

Clock, configuration and hypervolume are those of `benchmarks.search_efficiency`: everything from the start of the process counts.
Finished trajectories are kept in --work, and a repeated command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.timed_search import Trajectory, read
from evo.pareto import hypervolume

CONFIG = "configs/resnet20_cifar10.yaml"
EARLY = 20  # step-2 evaluations after which hypervolume is compared as well
PARAMS: Mapping[str, Mapping[str, object]] = {
    "all": {},
    "no_seeds": {"seeds": 0},
    "no_local_search": {"neighbours": 0},
    "no_calibration": {"calibration": "isotonic"},
    "none_of_these": {"seeds": 0, "neighbours": 0, "calibration": "isotonic"},
}
ONE_STEP = "no_two_step"


def algorithms() -> dict[str, str]:
    """Every variant as a setting of the configuration's section algorithm."""
    inner = {"name": "nsga2", "params": {"population": 60}}
    wrapped = {
        name: {"name": "two_step", "params": {"promote": 8, **params}, "inner": inner}
        for name, params in PARAMS.items()
    }
    alone = {"name": "nsga2", "params": {"population": 30}}
    return {name: json.dumps(section) for name, section in {**wrapped, ONE_STEP: alone}.items()}


def main() -> None:
    arguments = _arguments()
    sets = [
        "evaluation.step2.tune.epochs=0",
        f"model.weights={arguments.weights}",
        f"data.kwargs.root={arguments.data}",
    ]
    known: dict[tuple[str, int], Trajectory] = {}
    for seed in arguments.seeds:
        for name, algorithm in algorithms().items():
            file = arguments.work / f"ablation-{name}-{seed}.json"
            if not file.is_file():
                _search(file, arguments.seconds, [*sets, f"seed={seed}", f"algorithm={algorithm}"])
            known[name, seed] = read(file)
    more = {"processor_seconds": arguments.seconds, "runs": {f"{n}/{s}": _summary(t) for (n, s), t in known.items()}}
    print(record.write("ablation", figures(known), arguments.seeds, more))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for finished trajectories")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def _search(file: Path, seconds: float, sets: Sequence[str]) -> None:
    options = [f"--set={s}" for s in sets]
    command = [sys.executable, "-m", "benchmarks.timed_search", CONFIG, str(file), f"--seconds={seconds}", *options]
    print(file.stem, flush=True)
    subprocess.run(command, check=True)


def after(trajectory: Trajectory, evaluations: int | None = None) -> float:
    """Hypervolume, as a share of the box below the reference, of the first evaluations or of all."""
    reference = np.array(trajectory.reference)
    rows = [[known.measures[o] for o in trajectory.objectives] for known in trajectory.evaluations[:evaluations]]
    return hypervolume(np.array(rows).reshape(-1, len(reference)) / reference, np.ones(len(reference)))


def figures(known: Mapping[tuple[str, int], Trajectory]) -> dict[str, float]:
    """Medians over seeds: hypervolume at the end and after the first EARLY evaluations, per variant and relative to all of it."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for name, _ in known):
        mine = [trajectory for (variant, _), trajectory in known.items() if variant == name]
        found[f"hypervolume_{name}"] = median(after(t) for t in mine)
        found[f"hypervolume_early_{name}"] = median(after(t, EARLY) for t in mine)
        found[f"share_{name}"] = found[f"hypervolume_{name}"] / found["hypervolume_all"]
    return found


def _summary(trajectory: Trajectory) -> dict[str, Any]:
    curve = [(round(seconds, 1), round(value, 5)) for seconds, value in trajectory.curve()]
    return {"evaluations": len(trajectory.evaluations), "wall": round(trajectory.wall, 1), "curve": curve}


if __name__ == "__main__":
    main()
