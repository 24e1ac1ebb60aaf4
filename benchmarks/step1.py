"""Step 1 on CIFAR ResNets: how many genomes a second it scores, and how well it ranks what step 2 measures.

    python -m benchmarks.step1 --data DIR --weights20 cifar10_resnet20.safetensors [--weights56 ...] [--evaluations FOLDER]

Ranking: random genomes of each space, step 1 against the error of the built, recalibrated network on search-validation images
that calibrate nothing. With `--final 24 --final-epochs 4`, so many of the useful ones, spread evenly over their errors, are
also tuned as a search tunes them at step 2 (8 steps) and at its last step, on the test split. Evaluations are kept in FOLDER
by plan, so that a second call only computes what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from evaluators.channels import Trace
from evaluators.compression import CompressionEvaluator, StepOptions, frozen_teacher
from evaluators.data import Splits, split
from evaluators.datasets import cifar10
from evaluators.describe import trace
from evaluators.gradients import collect_gradients
from evaluators.load import load_weights
from evaluators.loss_tables import LossTables
from evaluators.models.cifar_resnet import resnet20, resnet56
from evaluators.recovery import Budget
from evaluators.saliency import fisher, rank
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from evo.archive import Agreement, kendall_tau
from evo.candidates import FINAL, STEP2
from search_spaces.genome import Genome
from search_spaces.options import SpaceOptions, build_space
from search_spaces.space import CompressionSpace

BRIEF = "brief"  # step 2 as the configurations have it
CPU = torch.device("cpu")
SEED, IMAGES = 7, 256
USEFUL = 0.3  # error below which a genome is of use to anybody
JOINT = SpaceOptions(
    multiple=2,
    weight_bits=(2, 3, 4, 5, 6, 8),
    activation_bits=(8,),
    factor_shares=(0.4, 0.55, 0.7),
    skip_blocks=False,
    keep=("conv1", "linear"),
)
RANKS = replace(JOINT, widths=(), weight_bits=(), activation_bits=())
CODES = replace(JOINT, channel_codes=True, weight_bits=(), activation_bits=(), factors=())
NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56}


@dataclass(frozen=True)
class Bench:
    """A trained network and what step 1 and step 2 need of it."""

    network: Trace
    splits: Splits
    teacher: torch.nn.Module
    evaluator: CompressionEvaluator
    tables: Callable[[SpaceOptions], LossTables]


def prepare(model: torch.nn.Module, splits: Splits, final_epochs: float = 0) -> Bench:
    teacher = frozen_teacher(model, CPU)
    traced = trace(teacher, splits.prepare(splits.train.images[:1], CPU))
    images = torch.cat(list(splits.calibration_batches(IMAGES, 128, CPU)))
    statistics = collect(teacher, [layer.name for layer in traced.network.layers], images, seed=0)
    gradients = collect_gradients(teacher, traced.network, statistics, images, seed=1)
    ranking = rank(traced, teacher, statistics, {"fisher": fisher})

    def tables(options: SpaceOptions) -> LossTables:
        return build_tables(build_space(traced.network, options), teacher, traced, statistics, gradients, ranking)

    tuned = Budget(final_epochs, 128, 0.02, warmup=0.1, ways=min(8, math.ceil(final_epochs)))
    steps = {
        STEP2: StepOptions(recalibration=512, validation=2048),
        BRIEF: StepOptions(recalibration=512, validation=1024, tune=Budget(0.012, 64, 0.01)),
        FINAL: StepOptions(recalibration=4096, validation=0, tune=tuned, test=True),
    }
    return Bench(traced, splits, teacher, CompressionEvaluator(teacher, traced, ranking, splits, steps, CPU), tables)


def per_second(score: Callable[[np.ndarray], object], codes: np.ndarray, repeats: int = 5) -> float:
    """Genomes a second, the best of some repeats, after a first call that builds the tables."""
    score(codes[:2])
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        score(codes)
        seconds.append(time.perf_counter() - began)
    return len(codes) / min(seconds)


def random_genomes(space: CompressionSpace, count: int) -> tuple[Genome, ...]:
    """Distinct random genomes; fewer where the space has fewer."""
    rng = np.random.default_rng(SEED)
    return tuple(dict.fromkeys(space.sample(rng) for _ in range(count)))


def errors(
    bench: Bench, space: CompressionSpace, genomes: Sequence[Genome], kept: Path | None, step: str = STEP2
) -> np.ndarray:
    """The error of each genome at a step (N,), remembered by plan; at the last step that on the test split."""
    measure = "test_top1_error" if step == FINAL else "top1_error"
    known: dict[str, float] = json.loads(kept.read_text()) if kept is not None and kept.is_file() else {}
    for number, genome in enumerate(genomes):
        plan = space.decode(genome)
        if plan.digest not in known:
            known[plan.digest] = bench.evaluator.evaluate(plan, step, 0)[measure]
        if kept is not None and (step == FINAL or number % 10 == 9 or genome == genomes[-1]):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known))
    return np.array([known[space.decode(genome).digest] for genome in genomes])


def agreement(predicted: np.ndarray, error: np.ndarray) -> dict[str, Agreement]:
    """Kendall's tau over all genomes, and over the useful ones."""
    useful = error < USEFUL
    return {"": kendall_tau(predicted, error), "_top": kendall_tau(predicted[useful], error[useful])}


def ranking_figures(bench: Bench, options: SpaceOptions, count: int, kept: Path | None, name: str) -> dict[str, float]:
    tables = bench.tables(options)
    genomes = random_genomes(tables.space, count)
    error = errors(bench, tables.space, genomes, kept)
    predicted = tables.score(np.array(genomes))["predicted_loss_increase"]
    return named_figures(name, agreement(predicted, error))


def final_figures(
    bench: Bench, options: SpaceOptions, among: int, count: int, epochs: float, folder: Path
) -> dict[str, float]:
    """Agreement of step 2 with the last step on `count` useful genomes of the `among` random ones."""
    space = bench.tables(options).space
    genomes = random_genomes(space, among)
    chosen = [genomes[i] for i in evenly(errors(bench, space, genomes, folder / "resnet20_joint.json"), count)]
    brief = errors(bench, space, chosen, folder / "resnet20_brief.json", BRIEF)
    final = errors(bench, space, chosen, folder / f"resnet20_final_{epochs:g}.json", FINAL)
    tau = kendall_tau(brief, final)
    return {
        "tau_step2_final": tau.tau,
        "tau_step2_final_low": tau.low,
        "tau_step2_final_high": tau.high,
        "tau_step2_final_genomes": float(tau.pairs),
        "tau_step2_final_epochs": epochs,
    }


def evenly(error: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` useful genomes at even steps of their order by error, from the best to the worst."""
    useful = np.argsort(error, kind="stable")[: int((error < USEFUL).sum())]
    return useful[np.unique(np.linspace(0, len(useful) - 1, min(count, len(useful))).round().astype(int))]


def named_figures(name: str, found: Mapping[str, Agreement]) -> dict[str, float]:
    figures = {}
    for part, tau in found.items():
        key = f"tau_step1_step2{part}{name}"
        figures.update(
            {key: tau.tau, f"{key}_low": tau.low, f"{key}_high": tau.high, f"{key}_genomes": float(tau.pairs)}
        )
    return figures


def speed_figures(bench: Bench, options: SpaceOptions, count: int) -> tuple[float, int]:
    """Genomes a second from codes to costs and predicted loss, and how many genes they have."""
    tables = bench.tables(options)
    cardinalities = tables.space.cardinalities
    codes = np.random.default_rng(SEED).integers(0, cardinalities, (count, len(cardinalities)))
    return per_second(tables.score, codes), len(cardinalities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights20", required=True)
    parser.add_argument("--weights56", default="", help="without them ResNet-56 is only timed, with random weights")
    parser.add_argument("--evaluations", default="runs/step1-evaluations")
    parser.add_argument("--genomes", type=int, default=200)
    parser.add_argument(
        "--more", type=int, default=60, help="genomes of the other spaces and of ResNet-56; 0 leaves them out"
    )
    parser.add_argument("--final", type=int, default=0, help="useful genomes to tune fully; 24 take hours on a CPU")
    parser.add_argument("--final-epochs", type=float, default=4)
    arguments = parser.parse_args()
    splits = split(cifar10(arguments.data), 5000, 0)
    folder = Path(arguments.evaluations)
    small = prepare(_loaded("resnet20", arguments.weights20), splits, arguments.final_epochs)
    large = prepare(_loaded("resnet56", arguments.weights56), splits)
    rate, genes = speed_figures(large, JOINT, 100_000)
    code_rate, bits = speed_figures(large, CODES, 5_000)
    figures = {"genomes_per_s": rate, "genes": float(genes), "codes_per_s": code_rate, "code_bits": float(bits)}
    figures |= ranking_figures(small, JOINT, arguments.genomes, folder / "resnet20_joint.json", "")
    wanted: list[tuple[Bench, str, SpaceOptions, str]] = [
        (small, "resnet20_ranks", RANKS, "_ranks"),
        (small, "resnet20_codes", CODES, "_codes"),
    ]
    if arguments.weights56:
        wanted.append((large, "resnet56_joint", JOINT, "_resnet56"))
    for bench, file, options, name in wanted if arguments.more else []:
        figures |= ranking_figures(bench, options, arguments.more, folder / f"{file}.json", name)
    if arguments.final:
        figures |= final_figures(small, JOINT, arguments.genomes, arguments.final, arguments.final_epochs, folder)
    print(record.write("step1", figures, [SEED], _setting()))


def _loaded(name: str, weights: str) -> torch.nn.Module:
    model = NETWORKS[name]()
    if weights:
        load_weights(model, weights)
    return model


def _setting() -> dict[str, Any]:
    return {"setting": {"statistics_images": IMAGES, "recalibration": 512, "validation": 2048, "useful_error": USEFUL}}


if __name__ == "__main__":
    main()
