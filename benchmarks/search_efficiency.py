"""How much sooner the two-step search reaches the hypervolume with which other searches end their budget.

    python -m benchmarks.search_efficiency --network resnet20 --weights FILE --data DIR [--seeds 0 1 2]

Every search (ours and each peer, once per seed) has the same configuration apart from its algorithm, the same evaluator code, one
worker of one thread, and a clock of processor time that starts with the process (benchmarks/timed_search.py), so our statistics
count as our time. Hypervolume is taken in the useful region: error below the uncompressed network's + 0.2, costs below its own.
A trajectory is kept in --work as soon as it ends, and a repeated command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.timed_search import Trajectory, read

OURS = "two_step"
PEERS: dict[str, str] = {
    "nsga2": "{name: nsga2, params: {population: 30}}",
    "optuna_nsga2": "{name: optuna_nsga2, params: {population: 30}}",
    "optuna_tpe": "{name: optuna_tpe, params: {population: 4}}",
    "random": "{name: random, params: {population: 30}}",
}
COLOURS = {OURS: "#3b528b", "nsga2": "#d95f02", "optuna_nsga2": "#1b9e77", "optuna_tpe": "#e7298a", "random": "#666666"}


@dataclass(frozen=True)
class Setting:
    """What a network is searched with: configuration, further settings, and seconds for the peers and for us."""

    config: str
    peers: float
    ours: float
    sets: tuple[str, ...] = ()


SETTINGS = {
    "resnet20": Setting("configs/resnet20_cifar10.yaml", 600, 300, ("evaluation.step2.tune.epochs=0",)),
    "resnet56": Setting(
        "configs/resnet20_cifar10.yaml", 1200, 600, ("evaluation.step2.tune.epochs=0", "model.factory=resnet56")
    ),
}


def main() -> None:
    arguments = _arguments()
    setting = SETTINGS[arguments.network]
    sets = [*setting.sets, f"model.weights={arguments.weights}", f"data.kwargs.root={arguments.data}"]
    for seed in arguments.seeds:
        for name in arguments.only or [*PEERS, OURS]:
            _ensure(_file(arguments.work, arguments.network, name, seed), setting, name, [*sets, f"seed={seed}"])
    known = {
        (name, seed): read(_file(arguments.work, arguments.network, name, seed))
        for name in (OURS, *PEERS)
        for seed in arguments.seeds
        if _file(arguments.work, arguments.network, name, seed).is_file()
    }
    print(_write(arguments.network, known, setting))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SETTINGS, default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, default=record.RESULTS / "trajectories", help="finished searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=[OURS, *PEERS], help="run these alone; figures use all that is there"
    )
    return parser.parse_args()


def _file(work: Path, network: str, name: str, seed: int) -> Path:
    return work / f"{network}-{name}-{seed}.json"


def _ensure(file: Path, setting: Setting, name: str, sets: Sequence[str]) -> None:
    """Run the search in a process of its own unless its trajectory is there."""
    if file.is_file():
        return
    algorithm = [f"algorithm={PEERS[name]}"] if name in PEERS else []
    seconds = setting.ours if name == OURS else setting.peers
    options = [f"--set={s}" for s in (*sets, *algorithm)]
    command = [sys.executable, "-m", "benchmarks.timed_search", setting.config, str(file), f"--seconds={seconds}"]
    print(file.stem, flush=True)
    subprocess.run([*command, *options], check=True)


def reached(trajectory: Trajectory, level: float) -> float | None:
    """Seconds until the hypervolume was at least `level`; None if it never was."""
    return next((seconds for seconds, value in trajectory.curve() if value >= level), None)


def ratios(known: Mapping[tuple[str, int], Trajectory], budget: float) -> dict[tuple[str, int], float]:
    """For every peer and seed: its budget over our time to its last hypervolume; 0 where we did not reach it."""
    found = {}
    for (name, seed), trajectory in known.items():
        if name == OURS or (OURS, seed) not in known or not trajectory.curve():
            continue
        seconds = reached(known[OURS, seed], trajectory.curve()[-1][1])
        found[name, seed] = budget / seconds if seconds else 0.0
    return found


def _write(network: str, known: Mapping[tuple[str, int], Trajectory], setting: Setting) -> Path:
    """Figures of this network beside those of others that the result file already has."""
    file = record.RESULTS / "search_efficiency.json"
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    found = ratios(known, setting.peers)
    by_peer = {name: [found[key] for key in sorted(found) if key[0] == name] for name in PEERS}
    medians = {name: median(values) for name, values in by_peer.items() if values}
    figures = {
        **{k: v for k, v in before.get("figures", {}).items() if not k.endswith(network)},
        **{f"ratio_{name}_{network}": value for name, value in medians.items()},
    }
    if len(medians) == len(PEERS):  # the smallest of some would promise too much
        figures[f"ratio_min_{network}"] = min(medians.values())
        figures[f"ratio_worst_seed_{network}"] = min(found.values())
    runs = {f"{name}/{seed}": _summary(t) for (name, seed), t in sorted(known.items())}
    more = {
        "setting": "ratio: a peer's budget over our time to its last hypervolume, median over seeds (worst_seed: the smallest)",
        "runs": {**before.get("runs", {}), network: runs},
    }
    draw(known, Path("docs") / f"search_efficiency_{network}.svg")
    return record.write("search_efficiency", figures, sorted({seed for _, seed in known}), more)


def _summary(trajectory: Trajectory) -> dict[str, Any]:
    curve = [(round(seconds, 1), round(value, 5)) for seconds, value in trajectory.curve()]
    return {
        "evaluations": len(trajectory.evaluations),
        "hypervolume": curve[-1][1] if curve else 0.0,
        "seconds": round(trajectory.seconds, 1),
        "wall": round(trajectory.wall, 1),
        "curve": curve,
    }


def draw(known: Mapping[tuple[str, int], Trajectory], file: Path) -> None:
    """Hypervolume over time, one line per search and seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    for (name, _), trajectory in sorted(known.items()):
        curve = [*trajectory.curve(), (trajectory.seconds, trajectory.curve()[-1][1] if trajectory.curve() else 0.0)]
        label = None if name in named else name
        axes.step(*zip(*curve, strict=True), where="post", color=COLOURS[name], label=label, linewidth=1.4)
        named.add(name)
    axes.set(xlabel="processor seconds, everything counted", ylabel="hypervolume")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
