"""Exactness of artefacts: every front member is exported, loaded in a process that cannot import this project, and compared.

    python -m benchmarks.artefacts RUN_DIR [RUN_DIR ...]

Parameters, MACs, bytes of the weights and search-validation error must equal the reported ones exactly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import record
from evaluators.export import export
from evo.candidates import FINAL, STEP2
from evo.front import FrontPoint
from evo.loop.final import evaluation_of_point
from evo.result import Result, load
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import Study
from evo.studies.inputs import Given
from evo.studies.opening import open_subject

# Runs with -I: neither this folder nor the environment's PYTHONPATH is on the path.
CHECK = """
import importlib.util, json, sys, torch
from torch.utils.flop_counter import FlopCounterMode
from safetensors import safe_open
torch.set_num_threads(int(sys.argv[1]))
for line in sys.stdin:
    folder, images = line.split()
    spec = importlib.util.spec_from_file_location("load", folder + "/load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    assert not any(m.split(".")[0] in ("evo", "evaluators", "search_spaces", "cluster") for m in sys.modules)
    model = loader.load(folder)
    with safe_open(images, "pt") as f:
        x, y = f.get_tensor("images").contiguous(memory_format=torch.channels_last), f.get_tensor("labels")
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(x[:1])
        wrong = sum(int((model(x[i:i+256]).argmax(1) != y[i:i+256]).sum()) for i in range(0, len(x), 256))
    with safe_open(folder + "/weights.safetensors", "pt") as f:
        size = sum(f.get_tensor(k).numel() * f.get_tensor(k).element_size() for k in f.keys())
    print(json.dumps({"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2,
                      "size_bytes": size, "top1_error": wrong / len(x)}), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="+")
    runs = {run: load(run) for run in parser.parse_args().run_dir}
    found = {result.config.name: check_artefacts(result) for result in runs.values()}
    figures = {f"{run}_{key}": value for run, values in found.items() for key, value in values.items()}
    print(record.write("artefacts", figures, [result.seed for result in runs.values()]))


def check_artefacts(result: Result) -> dict[str, float]:
    """Export every front member (and every final pick), load them all elsewhere, compare."""
    subject = open_subject(result.config, RunDirectory.open(result.run_dir).local, Given())
    study = subject.study
    if not isinstance(study, Study):
        raise ValueError(
            f"artefacts of classifiers can be checked, but got the run {result.run_dir}; name a search of one network"
        )
    jobs = [(p, STEP2) for p in result.front] + [(p, FINAL) for p in result.front if p.candidate_id in result.finals]
    with tempfile.TemporaryDirectory() as temporary:
        lines = []
        for number, (point, step) in enumerate(jobs):
            folder = Path(temporary) / f"{number}"
            module = subject.realised(evaluation_of_point(result, point, step), result.evaluations)
            export(module, study.example, folder, "pytorch", {}, point.plan)
            lines.append(f"{folder} {_images(study, step, Path(temporary))}")
        found = fresh_process(lines, result.config.execution.threads)
    equal = sum(_equal(result, point, step, got) for (point, step), got in zip(jobs, found, strict=True))
    return {"artefacts_checked": float(len(jobs)), "artefacts_equal": float(equal)}


def _images(study: Study, step: str, folder: Path) -> Path:
    """The search-validation images of a step, prepared, in a file."""
    file = folder / f"{step}.safetensors"
    if not file.is_file():
        split = study.evaluator.validation(study.evaluator.steps[step])
        images = study.splits.prepare(split.images, torch.device("cpu")).contiguous()
        save_file({"images": images, "labels": split.labels}, file)
    return file


def _equal(result: Result, point: FrontPoint, step: str, got: dict[str, float]) -> bool:
    evaluation = result.evaluation(point.candidate_id, step)
    wanted = evaluation.measures if evaluation is not None else {}
    differing = {name: (value, wanted.get(name)) for name, value in got.items() if value != wanted.get(name)}
    print(f"{point.candidate_id}@{step}: {differing or 'equal'}", flush=True)
    return not differing


def fresh_process(lines: list[str], threads: int) -> list[dict[str, float]]:
    command = [sys.executable, "-I", "-c", CHECK, str(threads)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise RuntimeError(
            f"exported models must load in a fresh process, but got: {done.stderr.strip().splitlines()[-1]}"
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
