"""Front quality and exactness of artefacts on ResNet-20 / CIFAR-10: runs configs/resnet20_cifar10.yaml, then checks every point.

    python -m benchmarks.resnet20_front --weights cifar10_resnet20.safetensors --data DIR [--run-dir DIR]

With a run directory of a finished search only the checks run. Every front member is exported, loaded in a fresh process that
cannot import this project, and its parameters, MACs, bytes and search-validation error are compared with the reported ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.artefacts import check_artefacts
from evo.candidates import STEP2
from evo.result import Result, load

CONFIG = "configs/resnet20_cifar10.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--run-dir", default="runs/resnet20-front")
    parser.add_argument("--skip-artefacts", action="store_true", help="only the figures of the search and its picks")
    arguments = parser.parse_args()
    run = Path(arguments.run_dir)
    if not (run / "run.json").is_file():
        sets = [f"--set=model.weights={arguments.weights}", f"--set=data.kwargs.root={arguments.data}"]
        subprocess.run([sys.executable, "-m", "evo.cli", "search", CONFIG, "--run-dir", str(run), *sets], check=True)
    result = load(str(run))
    exact = {} if arguments.skip_artefacts else check_artefacts(result)
    figures = {**quality(result), **exact}
    print(record.write("resnet20_front", figures, [result.seed], {"points": points(result), "budget": budget(result)}))


def quality(result: Result) -> dict[str, float]:
    """Best test accuracy among the final picks within the two limits, and how well the steps agree."""
    base = result.baseline
    finals = list(result.finals.values())

    def best(size: float, macs: float) -> float:
        within = [
            m for m in finals if m["size_bytes"] <= size * base["size_bytes"] and m["macs"] <= macs * base["macs"]
        ]
        return max((1 - m["test_top1_error"] for m in within), default=0.0)

    agreement = result.agreement()
    return {
        "top1_at_0_25_bytes_0_75_macs": best(0.25, 0.75),
        "top1_at_0_12_bytes_0_55_macs": best(0.12, 0.55),
        "tau_step1_step2": agreement.tau,
        "tau_low": agreement.low,
        "tau_high": agreement.high,
        "front_points": float(len(result.front)),
        "step2_evaluations": float(sum(e.candidate.step == STEP2 for e in result.evaluations)),
    }


def points(result: Result) -> list[dict[str, Any]]:
    base = result.baseline
    return [
        {
            "candidate_id": candidate,
            "test_top1": 1 - m["test_top1_error"],
            "macs": m["macs"] / base["macs"],
            "size_bytes": m["size_bytes"] / base["size_bytes"],
            "epochs": m["epochs"],
            "distillation": True,
            "macs_counter": "convolutions and linear layers",
        }
        for candidate, m in sorted(result.finals.items())
    ]


def budget(result: Result) -> dict[str, Any]:
    return {"search": result.config.budget.model_dump(), "final_epochs": result.config.evaluation.final.tune.epochs}


if __name__ == "__main__":
    main()
