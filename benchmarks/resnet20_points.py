"""Published MACs of ResNet-20 / CIFAR-10 reached with weights of at most 8 bits: a search, then a full tune at each limit.

    python -m benchmarks.resnet20_points --weights cifar10_resnet20.safetensors --data DIR --epochs 40 [--run-dir DIR]

At every limit the `--nominees` best networks of the search are tuned for `--trial-epochs`; the one with the lowest error on
search-validation images is tuned for `--epochs` (one number, or one per limit), its last epoch measured on the test split. With a
finished run directory no search is made, and what `--work` holds is not tuned again: `--limits 0.15` finishes one point alone,
in a process of its own, and a last call without it collects all of them. `--plans benchmarks/results/resnet20_points.json`
makes no search either: the networks of an earlier result are tuned anew at the limits named, its other points stay.
Other networks: `--name resnet56_points --set model.factory=resnet56 --limits 0.47`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import record
from evaluators.compression import StepOptions
from evaluators.recovery import Budget
from evo.candidates import FINAL, STEP2, Evaluation
from evo.config.schema import load as load_config
from evo.randomness import derived_seed
from evo.result import Result, load
from evo.studies.classifier import Study, build_study
from evo.studies.inputs import Given
from search_spaces.network import Network
from search_spaces.plan import CompressionPlan

NAME = "resnet20_points"
CONFIG = "configs/resnet20_cifar10_macs.yaml"
LIMITS = (0.74, 0.46, 0.15)  # Vega's PruneEA: 91.22, 90.90 and 87.61 %, in float32 after 400 epochs
MOST_BITS = 8


@dataclass(frozen=True)
class Recipe:
    """How a point is tuned. The rate rises with what was cut: `lr` at the full MACs, `lr_small` where none are left."""

    epochs: float
    lr: float = 0.03
    lr_small: float = 0.1
    batch: int = 128
    alpha: float = 0.9
    temperature: float = 4.0
    ways: int = 8
    bfloat16: float = 0.0

    def budget(self, macs: float) -> Budget:
        """For a network of this share of the original's MACs."""
        lr = self.lr_small + (self.lr - self.lr_small) * macs
        return Budget(
            epochs=self.epochs,
            batch=self.batch,
            lr=lr,
            alpha=self.alpha,
            temperature=self.temperature,
            warmup=min(0.1, 1 / max(self.epochs, 1)),
            ways=self.ways,
            bfloat16=self.bfloat16,
        )


@dataclass(frozen=True)
class Kept:
    """Measures of every tune that was finished, by what it was; one JSON file each."""

    folder: Path

    def measured(self, key: str, measure: Callable[[], Mapping[str, float]]) -> dict[str, Any]:
        began = time.perf_counter()

        def timed() -> dict[str, Any]:
            return {**measure(), "seconds": time.perf_counter() - began, "commit": record.commit()}

        return record.kept(self.folder / f"{key}.json", timed)


@dataclass(frozen=True)
class Nominee:
    """A network that may be tuned: the candidate it was in its search, its plan, and its share of the original's MACs."""

    id: str
    plan: CompressionPlan
    macs: float


def nominees(result: Result, network: Network, limit: float, count: int) -> tuple[Nominee, ...]:
    """The most accurate measured networks within the limit, all of whose weights have at most 8 bits."""
    within = sorted(_within(result, network, limit), key=lambda e: (e.measures["top1_error"], e.candidate.id))
    base = result.baseline["macs"]
    return tuple(Nominee(e.candidate.id, plan_of(result, e), e.measures["macs"] / base) for e in within[:count])


def _within(result: Result, network: Network, limit: float) -> Iterable[Evaluation]:
    most = limit * result.baseline["macs"]
    measured = (e for e in result.evaluations if e.candidate.step == STEP2 and e.completed)
    within = [e for e in measured if e.measures["macs"] <= most and low_bits(network, plan_of(result, e))]
    return {e.candidate.genome: e for e in reversed(within)}.values()


def plan_of(result: Result, evaluation: Evaluation) -> CompressionPlan:
    space = result.problem.space
    return space.decode(space.repair(evaluation.candidate.genome))


def low_bits(network: Network, plan: CompressionPlan) -> bool:
    """Whether every layer that is left stores its weights in at most 8 bits."""
    gone = {layer for skip in plan.skips for layer in network.block(skip.block).layers}
    bits = {b.layer: b.weight for b in plan.bits}
    return all(bits.get(layer.name, 32) <= MOST_BITS for layer in network.layers if layer.name not in gone)


def tuned(study: Study, nominee: Nominee, recipe: Recipe, test: bool) -> Mapping[str, float]:
    """Measures of one network after the recipe, errors on search-validation images and, with `test`, on the test split."""
    options = StepOptions(study.config.evaluation.final.recalibration, 0, recipe.budget(nominee.macs), test=test)
    evaluator = replace(study.evaluator, steps={FINAL: options}, artifacts=None, progress=_Progress(nominee.id))
    seed = derived_seed(study.config.seed, "points", int(nominee.plan.digest, 16))
    return evaluator.evaluate(nominee.plan, FINAL, seed)


@dataclass
class _Progress:
    name: str
    told: float = 0.0

    def __call__(self, share: float) -> None:
        if share >= self.told + 0.05:
            self.told = share
            print(f"{self.name}: {share:.0%}", flush=True)


def point(
    study: Study, chosen: Sequence[Nominee], limit: float, recipe: Recipe, trial: Recipe, kept: Kept
) -> dict[str, Any]:
    """One row of the results: the nominee that short tunes choose, and its measures after the full one."""
    best, tried = chosen[0], {}
    if len(chosen) > 1:
        tried = {n.id: _tried(study, n, limit, trial, kept) for n in chosen}
        best = min(chosen, key=lambda n: tried[n.id])
    found = kept.measured(_key(limit, best, recipe), lambda: tuned(study, best, recipe, True))
    base = study.baseline
    return {
        "limit": limit,
        "candidate_id": best.id,
        "test_top1": 1 - found["test_top1_error"],
        "macs": found["macs"] / base["macs"],
        "size_bytes": found["size_bytes"] / base["size_bytes"],
        "epochs": recipe.epochs,
        "recipe": asdict(recipe),
        "validation_error_of_trials": tried,
        "seconds": found["seconds"],
        "commit": found["commit"],
        "plan": json.loads(best.plan.to_json()),
    }


def _tried(study: Study, nominee: Nominee, limit: float, trial: Recipe, kept: Kept) -> float:
    """The error on search-validation images after a short tune."""
    error: float = kept.measured(_key(limit, nominee, trial), lambda: tuned(study, nominee, trial, False))["top1_error"]
    return error


def again(rows: Mapping[float, Mapping[str, Any]], limit: float) -> Nominee:
    """The network that an earlier result has at this limit."""
    if limit not in rows:
        raise ValueError(f"--limits must be among those of --plans, {list(rows)}, but got {limit}; name one of them")
    row = rows[limit]
    return Nominee(row["candidate_id"], CompressionPlan.from_json(json.dumps(row["plan"])), row["macs"])


def require_nominees(result: Result, network: Network, limits: Iterable[float]) -> None:
    """Raise ValueError unless the search measured a network within every limit."""
    for limit in limits:
        if not nominees(result, network, limit, 1):
            raise ValueError(
                f"the search must have measured a network within macs<={limit}x and {MOST_BITS}-bit weights, but got none; "
                "search longer or raise the limit"
            )


def _key(limit: float, nominee: Nominee, recipe: Recipe) -> str:
    settings = "-".join(f"{value:g}" for value in asdict(recipe).values())
    return f"{limit:g}x-{nominee.id}-{settings}"


def figures(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for row in rows:
        name = f"{row['limit']:g}".replace(".", "_")
        found |= {
            f"top1_at_{name}": row["test_top1"],
            f"macs_at_{name}": row["macs"],
            f"epochs_at_{name}": row["epochs"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--run-dir", default="runs/resnet20-points")
    parser.add_argument("--name", default=NAME, help="of the file of results")
    parser.add_argument("--plans", type=Path, help="an earlier result: tune its networks, without a search")
    parser.add_argument("--work", default="runs/resnet20-points-tuned")
    parser.add_argument("--epochs", type=float, nargs="+", default=[40], help="of all limits, or one for each")
    parser.add_argument("--trial-epochs", type=float, default=1)
    parser.add_argument("--nominees", type=int, default=3)
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS)
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--lr-small", type=float, default=Recipe.lr_small)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--ways", type=int, default=Recipe.ways)
    parser.add_argument("--bfloat16", type=float, default=Recipe.bfloat16, help="share of the steps in mixed precision")
    parser.add_argument("--set", action="append", default=[], help="override the search's configuration")
    arguments = parser.parse_args()
    recipe = Recipe(
        0, arguments.lr, arguments.lr_small, arguments.batch, ways=arguments.ways, bfloat16=arguments.bfloat16
    )
    trial, kept = replace(recipe, epochs=arguments.trial_epochs), Kept(Path(arguments.work))
    recipes = [replace(recipe, epochs=epochs) for epochs in per_limit(arguments.epochs, arguments.limits)]
    rows: dict[float, dict[str, Any]] = {}
    if arguments.plans:
        earlier = json.loads(arguments.plans.read_text())
        rows = {row["limit"]: {"commit": earlier["commit"], **row} for row in earlier["points"]}
        chosen = {limit: (again(rows, limit),) for limit in arguments.limits}
        study, search = build_study(load_config(CONFIG, overrides(arguments)), None, Given()), earlier["search"]
    else:
        result = searched(Path(arguments.run_dir), arguments)
        study, search = build_study(result.config, Path(arguments.run_dir), Given()), result.config.budget.model_dump()
        require_nominees(result, study.trace.network, arguments.limits)
        chosen = {n: nominees(result, study.trace.network, n, arguments.nominees) for n in arguments.limits}
    for limit, full in zip(arguments.limits, recipes, strict=True):
        rows[limit] = point(study, chosen[limit], limit, full, trial, kept)
        print(json.dumps({name: rows[limit][name] for name in ("candidate_id", "test_top1", "macs", "epochs")}))
        points = list(rows.values())
        more = {"points": points, "search": search, "macs_counter": "convolutions and linear layers"}
        print(record.write(arguments.name, figures(points), [study.config.seed], more, NAME))


def per_limit(epochs: Sequence[float], limits: Sequence[float]) -> Sequence[float]:
    if len(epochs) not in (1, len(limits)):
        raise ValueError(
            f"--epochs must be one number or one for each of {len(limits)} limits, but got {len(epochs)}; name as many"
        )
    return epochs if len(epochs) == len(limits) else list(epochs) * len(limits)


def overrides(arguments: argparse.Namespace) -> list[str]:
    return [f"model.weights={arguments.weights}", f"data.kwargs.root={arguments.data}", *arguments.set]


def searched(run: Path, arguments: argparse.Namespace) -> Result:
    if not (run / "run.json").is_file():
        sets = [f"--set={override}" for override in overrides(arguments)]
        subprocess.run([sys.executable, "-m", "evo.cli", "search", CONFIG, "--run-dir", str(run), *sets], check=True)
    return load(str(run))


if __name__ == "__main__":
    main()
