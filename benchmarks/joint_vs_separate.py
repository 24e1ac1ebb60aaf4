"""One search over everything against the same search over one thing at a time: ResNet-20 / CIFAR-10, equal CPU time.

    python -m benchmarks.joint_vs_separate --weights cifar10_resnet20.safetensors --data DIR --minutes 10 --seeds 0 1 2

`joint` searches the space of configs/joint_resnet20_cifar10.yaml (float kept as a choice); `prune`, `quantise` and `decompose`
search its widths and depth, its bits, its ranks alone; `prune_then_quantise` prunes for half of the time, then searches the bits
of `--picks` networks spread over that front, each built and taken as the network to compress, as with one tool after the other.
Evaluator, algorithm and CPU time are the same, and loading and statistics count. Compared is the hypervolume of all that was
measured, in error, bit operations and bytes, below the baseline's error + 0.2: of the shares, and of their halvings (log2).
What --work holds is not searched again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks import record
from evaluators.quantise import bake
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Status
from evo.config.schema import Config, ObjectiveConfig, load
from evo.pareto import front_indices, hypervolume
from evo.randomness import derived_seed, evaluation_seed
from evo.studies.classifier import Study, build_algorithm, build_study
from evo.studies.inputs import Given
from search_spaces.plan import CompressionPlan

CONFIG = "configs/joint_resnet20_cifar10.yaml"
FLOAT_TOO = ("space.weight_bits=[2, 3, 4, 5, 6, 8, 32]", "space.activation_bits=[4, 8, 32]", "space.keep=[]")
MEASURES = ("top1_error", "bops", "size_bytes")
MARGIN = 0.2  # error above the baseline's that is still of use
NO_WIDTHS = {"widths": [], "skip_blocks": False}
NO_BITS: dict[str, object] = {"weight_bits": [], "activation_bits": []}
NO_RANKS: dict[str, object] = {"factors": []}
WITHOUT: Mapping[str, Mapping[str, object]] = {
    "joint": {},
    "prune": NO_BITS | NO_RANKS,
    "quantise": NO_WIDTHS | NO_RANKS,
    "decompose": NO_WIDTHS | NO_BITS,
}
VARIANTS = (*WITHOUT, "prune_then_quantise")


class Point(NamedTuple):
    """A measured network: CPU seconds since the start, and the measures."""

    seconds: float
    error: float
    bops: float
    size_bytes: float


@dataclass
class Curve:
    """What a search of `seconds` CPU seconds measured, in order, and from which plan and study."""

    seconds: float
    clock: Callable[[], float] = time.process_time
    points: list[Point] = field(default_factory=list)
    networks: list[tuple[Study, CompressionPlan, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def spent(self) -> float:
        return self.clock() - self._began

    def add(self, study: Study, plan: CompressionPlan, seed: int, measures: Mapping[str, float]) -> None:
        self.points.append(Point(self.spent, *(measures[name] for name in MEASURES)))
        self.networks.append((study, plan, seed))


def run(
    config: Config, variant: str, seed: int, seconds: float, picks: int, clock: Callable[[], float] = time.process_time
) -> Curve:
    """One variant with one seed, from loading to the last network within `seconds` of CPU time."""
    torch.set_num_threads(1)
    curve = Curve(seconds, clock)
    config = config.model_copy(update={"seed": seed})
    if variant in WITHOUT:
        search(study_of(config, WITHOUT[variant]), seed, seconds, curve)
    else:
        one_after_the_other(config, seed, curve, picks)
    return curve


def study_of(
    config: Config, without: Mapping[str, object], model: nn.Module | None = None, reference: Sequence[float] = ()
) -> Study:
    """The study of a part of the space; of another network than the configuration's where one is given."""
    space = config.space.model_copy(update=dict(without))
    bounds = [*reference] or [None] * len(MEASURES)
    objectives = [ObjectiveConfig(measure=m, reference=bound) for m, bound in zip(MEASURES, bounds, strict=True)]
    return build_study(config.model_copy(update={"space": space, "objectives": objectives}), None, Given(model=model))


def search(study: Study, seed: int, until: float, curve: Curve) -> None:
    """Go on until the curve has spent `until` CPU seconds; the round under way is cut short."""
    algorithm = build_algorithm(study.config.algorithm, study.problem, study.tables, study.baseline)
    state = algorithm.init(seed)
    while curve.spent < until:
        batch, asked = algorithm.ask(state)
        if not batch.candidates:
            return
        told = list(scored(study, [c for c in batch.candidates if c.step == STEP1]))
        for candidate in (c for c in batch.candidates if c.step == STEP2):
            if curve.spent >= until:
                return
            told.append(measured(study, candidate, seed, curve))
        state = algorithm.tell(asked, told)


def scored(study: Study, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
    if not candidates:
        return
    scores = study.tables.score(np.array([study.space.repair(c.genome) for c in candidates]))
    for row, candidate in enumerate(candidates):
        yield Evaluation(candidate, Status.COMPLETED, {name: float(column[row]) for name, column in scores.items()})


def measured(study: Study, candidate: Candidate, seed: int, curve: Curve) -> Evaluation:
    genome = study.space.repair(candidate.genome)
    plan, own = study.space.decode(genome), evaluation_seed(seed, genome, STEP2)
    try:
        measures = study.evaluator.evaluate(plan, STEP2, own)
    except (RuntimeError, ValueError, FloatingPointError) as error:
        return Evaluation(candidate, Status.FAILED, reason=str(error))
    curve.add(study, plan, own, measures)
    return Evaluation(candidate, Status.COMPLETED, measures)


def one_after_the_other(config: Config, seed: int, curve: Curve, picks: int) -> None:
    """Prune for half of the time; then the bits of `picks` of these networks, in equal shares of the rest."""
    whole = study_of(config, WITHOUT["prune"])
    search(whole, seed, curve.seconds / 2, curve)
    limits = reference(whole.baseline)
    chosen = spread(curve.points, limits, picks)
    for number, at in enumerate(chosen):
        study, plan, own = curve.networks[at]
        pruned = bake(study.evaluator.realise(plan, STEP2, own))
        share = curve.seconds / 2 * (1 + (number + 1) / len(chosen))
        part = study_of(config, WITHOUT["quantise"], pruned, limits)
        search(part, derived_seed(seed, "pick", number), share, curve)


def spread(points: Sequence[Point], limits: Sequence[float], picks: int) -> list[int]:
    """Indices of the useful front at even steps of its bit operations, from the most to the least."""
    values = np.array([point[1:] for point in points]).reshape(len(points), len(MEASURES))
    useful = np.flatnonzero(values[:, 0] < limits[0])
    front = useful[front_indices(values[useful])] if len(useful) else useful
    front = front[np.argsort(-values[front, 1], kind="stable")]
    return (
        [int(front[i]) for i in np.unique(np.linspace(0, len(front) - 1, picks).round().astype(int))]
        if len(front)
        else []
    )


def reference(baseline: Mapping[str, float]) -> tuple[float, ...]:
    return (baseline["top1_error"] + MARGIN, baseline["bops"], baseline["size_bytes"])


def volumes(points: Sequence[Sequence[float]], baseline: Mapping[str, float]) -> dict[str, float]:
    """Hypervolume of measured networks: of error x shares of the baseline's costs, and of error x halvings of both."""
    if not points:
        return {"share": 0.0, "halvings": 0.0}
    values = np.array(points)[:, 1:] / [1.0, baseline["bops"], baseline["size_bytes"]]
    most = baseline["top1_error"] + MARGIN
    halved = np.column_stack([values[:, 0], np.log2(values[:, 1:])])
    return {
        "share": hypervolume(values, np.array([most, 1.0, 1.0])),
        "halvings": hypervolume(halved, np.array([most, 0.0, 0.0])),
    }


Curves = Mapping[str, Mapping[int, Sequence[Sequence[float]]]]


def figures(curves: Curves, baseline: Mapping[str, float]) -> dict[str, float]:
    """Means over seeds; the joint one's relative to each other variant, the mean and the smallest of any seed."""
    found: dict[str, float] = {}
    by = {v: {s: volumes(rows, baseline) for s, rows in seeds.items()} for v, seeds in curves.items()}
    joint = by.get("joint", {})
    for kind in ("share", "halvings"):
        for variant, seeds in by.items():
            found[f"hypervolume_{kind}_{variant}"] = float(np.mean([v[kind] for v in seeds.values()]))
            ratios = [joint[s][kind] / max(seeds[s][kind], 1e-12) for s in seeds if s in joint]
            if variant != "joint" and ratios:
                found[f"joint_over_{variant}_{kind}"] = float(np.mean(ratios))
                found[f"joint_over_{variant}_{kind}_smallest"] = float(min(ratios))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of every search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--picks", type=int, default=3, help="pruned networks whose bits are searched")
    parser.add_argument("--work", default="runs/joint-vs-separate")
    parser.add_argument("--set", action="append", default=[], help="override the configuration")
    arguments = parser.parse_args()
    paths = [f"model.weights={arguments.weights}", f"data.kwargs.root={arguments.data}"]
    config = load(CONFIG, [*paths, *FLOAT_TOO, *arguments.set])
    baseline = study_of(config, {}).baseline
    curves: dict[str, dict[int, list[list[float]]]] = {}
    for seed in arguments.seeds:
        for variant in arguments.variants:
            file = Path(arguments.work) / f"{variant}-{seed}-{arguments.minutes:g}.json"
            if not file.is_file():
                found = run(config, variant, seed, 60 * arguments.minutes, arguments.picks)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(found.points))
            curves.setdefault(variant, {})[seed] = json.loads(file.read_text())
            points = curves[variant][seed]
            print(f"{variant} seed {seed}: {len(points)} networks, {volumes(points, baseline)}", flush=True)
            more = {"minutes": arguments.minutes, "baseline": dict(baseline), "curves": curves}
            path = record.write("joint_vs_separate", figures(curves, baseline), arguments.seeds, more)
    print(path)


if __name__ == "__main__":
    main()
