"""Measured speed of compressed networks in ONNX Runtime on one CPU thread, each in turns with its float32 original.

    python -m benchmarks.latency [--parts resnet18 ranking mixed front] [--weights FILE --data DIR] [--run-dir DIR]

resnet18: ResNet-18 at 224 x 224, batch 1, all layers in 8 bits, widths searched on predicted latency; random weights, since only
time is measured. ranking: predicted against measured latency of random plans of ResNet-20 (widths, ranks, depth, all in 8-bit
kernels), batch 32. mixed: the same where layers may also stay in float32, which makes a runtime convert between them.
front: configs/resnet20_cifar10_latency.yaml searched with latency as an objective (or a finished run of it), and its final picks
exported: test accuracy of the ONNX file, and its time. Parts that are not asked for keep their figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks import record
from evaluators.channels import Trace
from evaluators.compose import compose
from evaluators.describe import trace
from evaluators.export.onnx_file import run_onnx
from evaluators.latency import Latency, Target
from evaluators.latency.building import build_table
from evaluators.latency.measure import alone_on_this_machine, interleaved, runtime_of
from evaluators.latency.runtime import Session
from evaluators.latency.table import LatencyTable
from evaluators.models.cifar_resnet import resnet20
from evaluators.saliency import Ranking, l1, rank
from evo.algorithms.nsga import NSGA2
from evo.api import export_point
from evo.candidates import Evaluation, Status
from evo.problem import Objective, Problem
from evo.result import Result, load
from evo.studies.inputs import load_splits
from search_spaces.costs import costs
from search_spaces.options import SpaceOptions, build_space
from search_spaces.space import CompressionSpace

CONFIG = "configs/resnet20_cifar10_latency.yaml"
SEED = 0
PLANS, ROUNDS = 64, 10
LEVELS = (0.5, 0.35, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--weights", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--run-dir", default="runs/resnet20-latency")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures, tables = known()
    for part in arguments.parts:
        found, rows = PARTS[part](arguments)
        figures, tables = {**figures, **found}, {**tables, part: rows}
        print(part, found, flush=True)
        print(record.write("latency", figures, [SEED], tables))


def known() -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and tables of earlier parts."""
    file = record.RESULTS / "latency.json"
    content = json.loads(file.read_text()) if file.is_file() else {}
    return content.get("figures", {}), {part: content[part] for part in PARTS if part in content}


class Network:
    """A network as a search sees it, with the table of its layers' times."""

    def __init__(self, model: nn.Module, example: torch.Tensor, options: SpaceOptions, target: Target) -> None:
        self.model, self.target = model.eval(), target
        self.images = example.repeat(target.batch, 1, 1, 1)
        self.trace: Trace = trace(self.model, example)
        self.ranking: Ranking = rank(self.trace, self.model, {}, {"l1": l1})
        self.space: CompressionSpace = build_space(self.trace.network, options)
        layers = [layer.name for layer in self.trace.network.layers]
        self.table: LatencyTable = build_table(self.model, layers, self.images, target)
        self.runtime = runtime_of(target)
        self.baseline = self.runtime.session(self.model, self.images, target.threads)
        baseline = interleaved(self.baseline, self.baseline, target.repeats)
        self.table = self.table.scaled_to(self.trace.network, baseline.milliseconds)

    def predicted(self, genomes: np.ndarray) -> np.ndarray:
        return self.table.predict(self.trace.network, self.space.phenotypes(genomes))

    def macs(self, genomes: np.ndarray) -> np.ndarray:
        """Relative to the uncompressed network, whose genome is the first anchor."""
        full = costs(self.trace.network, self.space.phenotypes(np.array([self.space.anchors()[0]])))["macs"][0]
        return costs(self.trace.network, self.space.phenotypes(genomes))["macs"] / full

    def session(self, genome: tuple[int, ...]) -> Session:
        module = compose(self.model, self.trace, self.ranking, self.space.decode(genome)).eval()
        return self.runtime.session(module, self.images, self.target.threads)

    def measured(self, genome: tuple[int, ...]) -> Latency:
        return interleaved(self.session(genome), self.baseline, self.target.repeats)


def resnet18(arguments: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    torch.manual_seed(SEED)
    options = SpaceOptions(
        multiple=16, criteria=("l1",), weight_bits=(8,), activation_bits=(8,), factors=(), skip_blocks=False
    )
    net = Network(torchvision.models.resnet18(), torch.randn(1, 3, 224, 224), options, Target(repeats=30))
    genomes = evolved(net)
    chosen = [net.space.anchors()[0], *(fastest(net, genomes, level) for level in LEVELS)]
    rows = [row(net, genome) for genome in chosen]
    return {"speedup_resnet18": rows[1]["speedup"], "speedup_resnet18_int8_alone": rows[0]["speedup"]}, rows


def evolved(net: Network, generations: int = 40) -> np.ndarray:
    """All genomes that NSGA-II visits when it keeps as many MACs as possible within as little predicted time as possible."""
    problem = Problem(net.space, (Objective("predicted_latency_ms"), Objective("macs", "max")))
    algorithm = NSGA2(problem=problem, population=100)
    state, seen = algorithm.init(SEED), dict[tuple[int, ...], None]()
    for _ in range(generations):
        batch, state = algorithm.ask(state)
        genomes = [net.space.repair(c.genome) for c in batch.candidates]
        seen.update(dict.fromkeys(genomes))
        times, macs = net.predicted(np.array(genomes)), net.macs(np.array(genomes))
        rows = zip(batch.candidates, times.tolist(), macs.tolist(), strict=True)
        measures = [(c, {"predicted_latency_ms": t, "macs": m}) for c, t, m in rows]
        state = algorithm.tell(state, [Evaluation(c, Status.COMPLETED, found) for c, found in measures])
    seen.update(dict.fromkeys(net.space.anchors()))
    return np.array(list(seen))


def fastest(net: Network, genomes: np.ndarray, level: float) -> tuple[int, ...]:
    """The genome of least predicted time among those of between 90 % and 100 % of so many MACs."""
    macs = net.macs(genomes)
    rows = np.flatnonzero((macs <= level + 1e-9) & (macs >= 0.9 * level))
    best = rows[net.predicted(genomes[rows]).argmin()]
    return tuple(int(code) for code in genomes[best])


def row(net: Network, genome: tuple[int, ...]) -> dict[str, Any]:
    found, one = net.measured(genome), np.array([genome])
    return {
        "macs": float(net.macs(one)[0]),
        "speedup": 1 / found.ratio,
        "speedup_low": 1 / found.high,
        "speedup_high": 1 / found.low,
        "predicted_ms": float(net.predicted(one)[0]),
        **asdict(found),
    }


def ranking(arguments: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    return ranked("step1", SpaceOptions(multiple=4, criteria=("l1",), weight_bits=(4, 8), activation_bits=(8,)))


def mixed(arguments: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    options = SpaceOptions(multiple=4, criteria=("l1",), weight_bits=(4, 8, 32), activation_bits=(8, 32))
    return ranked("mixed", options)


def ranked(name: str, options: SpaceOptions) -> tuple[dict[str, float], list[dict[str, Any]]]:
    torch.manual_seed(SEED)
    net = Network(resnet20(), torch.randn(1, 3, 32, 32), options, Target(batch=32, repeats=9))
    rng = np.random.default_rng(SEED)
    genomes = list(dict.fromkeys(net.space.sample(rng) for _ in range(PLANS)))
    times = in_rounds([net.session(genome) for genome in genomes], net.baseline)
    predicted, macs = net.predicted(np.array(genomes)), net.macs(np.array(genomes))
    rows = [
        {"predicted_ms": float(p), "macs": float(m), "milliseconds": 1e3 * t[0], "ratio": t[0] / t[1]}
        for p, m, t in zip(predicted, macs, times, strict=True)
    ]
    columns = {name: np.array([r[name] for r in rows]) for name in ("predicted_ms", "ratio", "macs")}
    return {
        f"spearman_{name}": spearman(columns["predicted_ms"], columns["ratio"]),
        f"spearman_{name}_by_macs_alone": spearman(columns["macs"], columns["ratio"]),
        f"plans_{name}": float(len(rows)),
    }, rows


def in_rounds(sessions: list[Session], baseline: Session) -> list[tuple[float, float]]:
    """(seconds, the baseline's seconds) of each session, the least over rounds through all of them.

    On a shared machine a slow spell can outlast the measurement of one plan, and does not slow all kernels alike: it made the
    median ratio of the same plan 30 % larger. Rounds spread every plan over the whole time, and load only ever adds.
    """
    least = [(np.inf, np.inf)] * len(sessions)
    with alone_on_this_machine():
        for _ in range(ROUNDS):
            for at, session in enumerate(sessions):
                pairs = [(session(), baseline()) for _ in range(2)]
                least[at] = tuple(float(v) for v in np.min([*pairs, least[at]], axis=0))
    return least


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def front(arguments: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    run = Path(arguments.run_dir)
    if not (run / "run.json").is_file():
        sets = [f"--set=model.weights={arguments.weights}", f"--set=data.kwargs.root={arguments.data}"]
        subprocess.run([sys.executable, "-m", "evo.cli", "search", CONFIG, "--run-dir", str(run), *sets], check=True)
    result = load(str(run))
    base = result.baseline["latency_ms"]
    faster = [point.measures["latency_ms_high"] < base for point in result.front]
    rows = [finished(result, candidate, measures) for candidate, measures in sorted(result.finals.items())]
    original = 1 - result.final_baseline["test_top1_error"] if result.final_baseline else 0.0
    near = [r for r in rows if r["onnx_test_top1"] >= original - 0.01]
    best = {"speedup_resnet20": max(r["speedup"] for r in near)} if near else {}
    return {"front_faster_share": float(np.mean(faster)), "front_points": float(len(faster)), **best}, rows


def finished(result: Result, candidate: str, measures: Mapping[str, float]) -> dict[str, Any]:
    """A final pick as its ONNX file: accuracy on the whole test split, and time as measured in the search."""
    splits = load_splits(result.config, None)
    with tempfile.TemporaryDirectory() as folder:
        file = export_point(result, result.pick(candidate).point, Path(folder) / "model.onnx")
        right = 0
        for images, labels in splits.batches(splits.test, 500, torch.device("cpu")):
            right += int((run_onnx(file, images.contiguous()).argmax(1) == labels).sum())
    return {
        "candidate_id": candidate,
        "onnx_test_top1": right / len(splits.test),
        "test_top1": 1 - measures["test_top1_error"],
        "baseline_test_top1": 1 - result.final_baseline["test_top1_error"] if result.final_baseline else None,
        "epochs": measures["epochs"],
        "distillation": True,
        "macs": measures["macs"] / result.baseline["macs"],
        "speedup": result.baseline["latency_ms"] / measures["latency_ms"],
        "speedup_low": result.baseline["latency_ms"] / measures["latency_ms_high"],
    }


Part = Callable[[argparse.Namespace], tuple[dict[str, float], list[dict[str, Any]]]]
PARTS: dict[str, Part] = {"resnet18": resnet18, "ranking": ranking, "mixed": mixed, "front": front}

if __name__ == "__main__":
    main()
