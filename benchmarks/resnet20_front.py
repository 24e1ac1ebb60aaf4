"""Front quality and exactness of artefacts on ResNet-20 / CIFAR-10: runs configs/resnet20_cifar10.yaml, then checks every point.

    python -m benchmarks.resnet20_front --weights cifar10_resnet20.safetensors --data DIR [--run-dir DIR]

With a run directory of a finished search only the checks run. Every front member is exported, loaded in a fresh process that
cannot import this project, and its parameters, MACs, bytes and search-validation error are compared with the reported ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import record
from evaluators.export import export
from evo.build import build_study
from evo.candidates import FINAL, STEP2
from evo.final import evaluation_seed, genome_of
from evo.inputs import Given
from evo.result import Result, load
from evo.storage import RunDirectory

CONFIG = "configs/resnet20_cifar10.yaml"

# Runs with -I: neither this folder nor the environment's PYTHONPATH is on the path.
CHECK = """
import json, sys, torch
from torch.utils.flop_counter import FlopCounterMode
from safetensors import safe_open
folder, images, threads = sys.argv[1:4]
torch.set_num_threads(int(threads))
sys.path.insert(0, folder)
from load import load
assert not any(m.split(".")[0] in ("evo", "evaluators", "search_spaces", "cluster") for m in sys.modules)
model = load(folder)
with safe_open(images, "pt") as f:
    x, y = f.get_tensor("images").contiguous(memory_format=torch.channels_last), f.get_tensor("labels")
with torch.no_grad():
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    wrong = sum(int((model(x[i:i+256]).argmax(1) != y[i:i+256]).sum()) for i in range(0, len(x), 256))
with safe_open(folder + "/weights.safetensors", "pt") as f:
    size = sum(f.get_tensor(k).numel() * f.get_tensor(k).element_size() for k in f.keys())
print(json.dumps({"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2,
                  "size_bytes": size, "top1_error": wrong / len(x)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run-dir", default="runs/resnet20-front")
    arguments = parser.parse_args()
    run = Path(arguments.run_dir)
    if not (run / "run.json").is_file():
        sets = [f"--set=model.weights={arguments.weights}", f"--set=data.kwargs.root={arguments.data}"]
        subprocess.run([sys.executable, "-m", "evo.cli", "search", CONFIG, "--run-dir", str(run), *sets], check=True)
    result = load(str(run))
    exact = check_artefacts(result)
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


def check_artefacts(result: Result) -> dict[str, float]:
    """Export every front member (and every final pick), load it elsewhere, compare."""
    study = build_study(result.config, RunDirectory.open(result.run_dir).local, Given())
    jobs = [(p, STEP2) for p in result.front] + [(p, FINAL) for p in result.front if p.candidate_id in result.finals]
    equal = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (point, step) in enumerate(jobs):
            options = study.evaluator.steps[step]
            images = Path(temporary) / f"{step}.safetensors"
            if not images.is_file():
                split = study.evaluator.validation(options)
                prepared = study.splits.prepare(split.images, torch.device("cpu")).contiguous()
                save_file({"images": prepared, "labels": split.labels}, images)
            seed = evaluation_seed(result.config.seed, genome_of(result, point, study.space), step)
            folder = Path(temporary) / f"{number}"
            export(study.evaluator.realise(point.plan, step, seed), study.example, folder, "pytorch", {}, point.plan)
            got = fresh_process(folder, images, result.config.execution.threads)
            evaluation = result.evaluation(point.candidate_id, step)
            wanted = evaluation.measures if evaluation is not None else {}
            differing = {name: (value, wanted.get(name)) for name, value in got.items() if value != wanted.get(name)}
            equal += not differing
            print(f"{point.candidate_id}@{step}: {differing or 'equal'}", flush=True)
    return {"artefacts_checked": float(len(jobs)), "artefacts_equal": float(equal)}


def fresh_process(folder: Path, images: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-I", "-c", CHECK, str(folder), str(images), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise RuntimeError(
            f"an exported model must load in a fresh process, but got: {done.stderr.strip().splitlines()[-1]}"
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
