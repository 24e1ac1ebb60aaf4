"""TAS and MetaPruning at half of the multiplications against uniform width scaling, everything trained alike.

    python -m benchmarks.half_macs --weights cifar10_resnet20.safetensors --data DIR --work DIR
    python -m benchmarks.half_macs --work DIR                      # a small network on handwritten digits: minutes

Both searches run in WORK/tas and WORK/metapruning, or go on there; on CIFAR-10 for `--search-epochs`, on digits as configured.
Then their best networks, and two scaled ones, are trained from scratch with one recipe: `--epochs`, distillation from the
uncompressed network (lambda 0.9, T 4), `--seeds` times, and the test split is measured after the last epoch.

uniform        the network made with fewer channels everywhere, as many as fit into half of the multiplications
uniform_inner  the same for the groups alone that the searches may cut (in a ResNet of this kind those inside the blocks)

On CIFAR-10 all of them see the same `--images` training images; with the defaults that takes some 40 minutes on one core. What
was finished lies in WORK and is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor, nn

from benchmarks import record
from benchmarks.supernets import Work
from evaluators import count
from evaluators.compose import compose, recalibrate
from evaluators.distillation import TeacherAnswers
from evaluators.fresh import reinitialise
from evaluators.recovery import Budget, classify, tune
from evaluators.supernets.sorting import refused_groups
from evo.archive import kendall_tau
from evo.candidates import STEP2
from evo.config.schema import Config, parse
from evo.randomness import derived_seed
from evo.registry import MODELS, resolve
from evo.result import Result
from evo.studies.classifier import Study
from search_spaces.plan import CompressionPlan, Width

CONFIGS = Path(__file__).parents[1] / "configs"
LIMIT = 0.5
ALONE = "alone"
GENERATIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", help="of a ResNet-20 on CIFAR-10; without them a small network on handwritten digits"
    )
    parser.add_argument("--data", help="the folder of CIFAR-10")
    parser.add_argument("--work", required=True)
    parser.add_argument("--images", type=int, default=12000, help="training images, of which 2,000 are held out")
    parser.add_argument("--search-epochs", type=float, default=10)
    parser.add_argument("--epochs", type=float, default=12, help="of every network trained from scratch")
    parser.add_argument(
        "--batch", type=int, help="images a step, of every network trained from scratch (128; digits 64)"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.batch = given.batch or (128 if given.weights else 64)
    work = Work(Path(given.work), (), given.threads)
    for name in ("tas", "metapruning"):
        work.search(name, config(name, given))
    study = work.study("tas")
    networks, answered = contenders(study, work), dict[int, Tensor]()
    rows = {
        name: [
            work.once(
                f"{name}-{given.epochs:g}-{given.batch}-{seed}",
                lambda m=module, s=seed: trained(study, m, given, derived_seed(s, "half of the macs"), answered),
            )
            for seed in range(given.seeds)
        ]
        for name, module in networks.items()
    }
    whole = work.once("whole", lambda: tested(study, study.teacher))
    figures = {"top1_whole": whole["top1"]}
    for name, found in rows.items():
        figures[f"top1_{name}"] = float(np.mean([row["top1"] for row in found]))
        figures[f"macs_{name}"] = found[0]["macs"] / whole["macs"]
    for name in ("tas", "metapruning"):
        figures |= {f"{figure}_{name}": value for figure, value in inherited(work.result(name)).items()}
    named = ("epochs", "batch", "threads", *(("images", "search_epochs") if given.weights else ()))
    more: dict[str, Any] = {
        "settings": {name: getattr(given, name) for name in named},
        "top1": {name: [row["top1"] for row in found] for name, found in rows.items()},
        "convolutions": {name: made_by(module) for name, module in networks.items()},
    }
    name = "half_macs" if given.weights else "half_macs_digits"
    print(record.write(name, figures, list(range(given.seeds)), more, module="half_macs"))


def inherited(result: Result) -> dict[str, float]:
    """The best accuracy with shared weights of everything that a search measured, and Kendall's tau between that and MACs."""
    rows = [e.measures for e in result.evaluations if e.candidate.step == STEP2 and e.completed]
    macs, errors = (np.array([row[name] for row in rows]) for name in ("macs", "top1_error"))
    tau = kendall_tau(macs, -errors)
    found = {"tau_macs_inherited": tau.tau, "tau_macs_inherited_low": tau.low, "tau_macs_inherited_high": tau.high}
    return {"top1_inherited": float(1 - errors.min()), **found}


def config(name: str, given: argparse.Namespace) -> Config:
    """That of the method on digits; on CIFAR-10 with the model, data and steps of the other configuration."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}_digits.yaml").read_text())
    values["constraints"] = [{"measure": "macs", "upper": f"{LIMIT}x"}]
    values["evaluation"]["final"]["picks"] = []
    if given.weights:
        other = yaml.safe_load((CONFIGS / "tas_resnet20_cifar10.yaml").read_text())
        values["model"] = {"factory": "resnet20", "weights": given.weights}
        values["data"] = {**other["data"], "kwargs": {"root": given.data, "download": False}}
        values["data"] |= {"validation": 2000, "train_limit": given.images}
        supernet, validation, generations = schedule(name, given.search_epochs)
        values["evaluation"]["step2"] = {"recalibration": 1024, "validation": validation}
        values["supernet"] |= supernet
        values["budget"] = {"generations": generations}
    return parse(yaml.safe_dump(values))


def schedule(name: str, epochs: float) -> tuple[dict[str, Any], int, int]:
    """Settings of the shared weights, images that networks are measured on, and generations. A pass of TAS is one of the weights'
    half of the images and one of the logits' half; PruningNet needs a rate and batch of its own (docs/supernets.md)."""
    if name == "metapruning":
        return {"warm_up": epochs, "horizon": epochs, "batch": 64, "lr": 0.02}, 2000, 8
    return {"epochs": epochs / GENERATIONS, "horizon": epochs, "batch": 128, "lr": 0.05}, 1000, GENERATIONS


def contenders(study: Study, work: Work) -> dict[str, nn.Module]:
    """Networks of which only the structure counts."""
    groups = [group.name for group in study.trace.network.groups if group.name not in refused_groups(study.trace)]
    limit = LIMIT * macs(study, study.teacher)
    shares = [percent / 100 for percent in range(100, 0, -1)]
    inner = (cut(study, narrowed(study, groups, share)) for share in shares)
    scaled = (resolve(MODELS, study.config.model.factory)(width=width) for width in widths(study, shares))
    return {
        "tas": cut(study, work.result("tas").pick("knee").point.plan),
        "metapruning": cut(study, work.result("metapruning").pick("knee").point.plan),
        "uniform": next(module for module in scaled if macs(study, module) <= limit),
        "uniform_inner": next(module for module in inner if macs(study, module) <= limit),
    }


def widths(study: Study, shares: list[float]) -> list[Any]:
    """The argument `width` of the factory: channels of the small network, a multiplier of a ResNet."""
    return list(range(24, 0, -1)) if study.config.model.factory == "digits_cnn" else list(shares)


def narrowed(study: Study, groups: list[str], share: float) -> CompressionPlan:
    sizes = {name: study.trace.network.group(name).size for name in groups}
    return CompressionPlan(tuple(Width(name, max(1, round(share * size))) for name, size in sizes.items()))


def cut(study: Study, plan: CompressionPlan) -> nn.Module:
    kept = tuple(Width(w.group, w.kept, study.config.space.criteria[0]) for w in plan.widths)
    return compose(study.teacher, study.trace, study.ranking, CompressionPlan(kept, skips=plan.skips))


def made_by(module: nn.Module) -> dict[str, int]:
    """Output channels of every convolution."""
    return {name: part.out_channels for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}


def macs(study: Study, module: nn.Module) -> float:
    return float(count.macs(module.eval(), study.example))


def trained(
    study: Study, module: nn.Module, given: argparse.Namespace, seed: int, answered: dict[int, Tensor]
) -> Mapping[str, float]:
    device, splits = study.evaluator.device, study.splits
    reinitialise(module.to(device), seed)
    budget = Budget(given.epochs, given.batch, 0.1, alpha=0.9, temperature=4.0, ways=4)
    answers = TeacherAnswers(study.teacher, splits, device, answered)
    tune(module, study.teacher, splits, budget, seed, device, answers=answers)
    recalibrate(module, splits.calibration_batches(2048, 128, device), ranges=False)
    return tested(study, module)


def tested(study: Study, module: nn.Module) -> dict[str, float]:
    error, _ = classify(module, study.splits, study.splits.test, study.evaluator.device)
    return {"top1": 1 - error, "macs": macs(study, module)}


if __name__ == "__main__":
    main()
