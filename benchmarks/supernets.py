"""What shared weights are worth on ResNet-20 / CIFAR-10: do inherited accuracies rank networks, and what does it cost?

    python -m benchmarks.supernets --weights cifar10_resnet20.safetensors --data DIR --work DIR [--parts search ranking ...]

search   runs configs/cars_prune_resnet20_cifar10.yaml in WORK/cars, or goes on with it.
ranking  `--subnets` random networks of the space: test accuracy with inherited weights (batch-norm recalibrated, nothing tuned)
         against that of the same network cut from the original and tuned alone for `--epochs`. Kendall's tau between both.
speed    how busy trainer and evaluators were (`BUSY`), and evaluations a second with inherited weights, against building every
         network and tuning it for 8 steps as configs/resnet20_cifar10.yaml does.
fronts   a two-step search over the same space for the same time in WORK/two_step; both fronts measured on the test split.

Everything that was finished lies in WORK and is not done again; the test split is used by this benchmark alone, and by no search.
With its defaults all of it takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import record
from cluster.worker import torch_threads
from evaluators.compression import CompressionEvaluator, StepOptions
from evaluators.recovery import Budget
from evaluators.supernets.weights import Kept
from evo import api
from evo.archive import kendall_tau
from evo.candidates import STEP2
from evo.config.schema import Config, parse
from evo.pareto import hypervolume
from evo.randomness import evaluation_seed, stream
from evo.result import Result, load
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import Study, build_study
from evo.studies.inputs import Given
from evo.studies.supernets import with_shared
from search_spaces.genome import Genome, genome_digest
from search_spaces.plan import CompressionPlan

CONFIG = Path(__file__).parents[1] / "configs/cars_prune_resnet20_cifar10.yaml"
PARTS = ("search", "ranking", "speed", "fronts")
ALONE = "alone"
TIMED = 12  # networks timed in both ways
BUSY = (
    "(seconds in which the trainer trains x its threads + seconds in which workers evaluate x theirs) / (the search's wall time, "
    "start of Ray and workers included, x the most threads that trainer and workers may have at a time)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--subnets", type=int, default=16)
    parser.add_argument("--epochs", type=float, default=0.5, help="of every network tuned alone")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of what is measured after the searches"
    )
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the configuration")
    arguments = parser.parse_args()
    work = Work(
        Path(arguments.work),
        (f"model.weights={arguments.weights}", f"data.kwargs.root={arguments.data}", *arguments.set),
        arguments.threads,
    )
    figures: dict[str, float] = {}
    more: dict[str, Any] = {"epochs_alone": arguments.epochs, "set": arguments.set, "busy_share": BUSY}
    if "search" in arguments.parts:
        work.search("cars", work.config())
    if "ranking" in arguments.parts:
        found, more["subnets"] = ranking(work, arguments.subnets, arguments.epochs)
        figures.update(found)
    if "speed" in arguments.parts:
        figures.update(speed(work))
    if "fronts" in arguments.parts:
        found, more["fronts"] = fronts(work)
        figures.update(found)
    print(record.write("supernets", figures, [work.config().seed], more))


@dataclass(frozen=True)
class Work:
    """A folder of runs and finished measurements."""

    folder: Path
    sets: Sequence[str]
    threads: int

    def config(self, *sets: str) -> Config:
        own = ("tracking.tracker=none", "evaluation.final.picks=[]", *self.sets, *sets)
        return parse(CONFIG.read_text(), own, str(CONFIG))

    def search(self, name: str, config: Config) -> Result:
        run = self.folder / name
        if (run / "run.json").is_file():
            return api.resume(run, config=config)
        return api.run_config(config, str(run))

    def result(self, name: str) -> Result:
        return load(self.folder / name)

    def study(self, name: str) -> Study:
        run = RunDirectory.open(str(self.folder / name))
        study = build_study(parse(run.config), run.local, Given())
        return with_shared(study, run.folder)

    def once(self, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The measures kept under this key, else measured now and kept."""

        def told() -> dict[str, float]:
            with torch_threads(self.threads):
                found = measure()
            print(key, found, flush=True)
            return found

        return record.kept(self.folder / "measured" / f"{key}.json", told)


def on_test(study: Study, epochs: float) -> CompressionEvaluator:
    """Measures the test split: with inherited weights at STEP2, tuned alone at ALONE."""
    inherited = StepOptions(2048, 1, Budget(), test=True)
    alone = StepOptions(2048, 1, Budget(epochs, 128, 0.02, warmup=0.1), test=True)
    return replace(study.evaluator, steps={STEP2: inherited, ALONE: alone}, artifacts=None)


def ranking(work: Work, count: int, epochs: float) -> tuple[dict[str, float], list[dict[str, float]]]:
    study = work.study("cars")
    version, evaluator = newest(study)[0], on_test(study, epochs)
    rows = []
    for genome in subnets(study, count):
        plan, name = study.space.decode(genome), genome_digest(genome)
        shared = work.once(f"inherited-{version}-{name}", lambda p=plan: evaluator.at(version).evaluate(p, STEP2, 0))
        alone = work.once(f"alone-{epochs:g}-{name}", lambda p=plan: evaluator.evaluate(p, ALONE, 0))
        rows.append(
            {
                "macs": shared["macs"],
                "inherited": 1 - shared["test_top1_error"],
                "alone": 1 - alone["test_top1_error"],
            }
        )
    whole = work.once(f"inherited-{version}-whole", lambda: evaluator.at(version).evaluate(CompressionPlan(), STEP2, 0))
    teacher = work.once("teacher", lambda: evaluator.baseline(STEP2))
    agreement = kendall_tau(*(np.array([row[name] for row in rows]) for name in ("inherited", "alone")))
    by_macs = kendall_tau(*(np.array([row[name] for row in rows]) for name in ("macs", "alone")))
    figures = {
        "tau_inherited": agreement.tau,
        "tau_low": agreement.low,
        "tau_high": agreement.high,
        "tau_of_macs": by_macs.tau,
        "subnets": float(len(rows)),
        "top1_full_width_inherited": 1 - whole["test_top1_error"],
        "top1_teacher": 1 - teacher["test_top1_error"],
        "epochs_of_the_supernet": epochs_trained(study, version),
    }
    return figures, rows


def subnets(study: Study, count: int) -> list[Genome]:
    """Random networks of the space, without those that leave out more than one block: they are far behind anyway."""
    rng, found = stream(0, "supernet benchmark"), dict[Genome, None]()
    while len(found) < count:
        genome = study.space.sample(rng)
        if len(study.space.decode(genome).skips) <= 1:
            found.setdefault(genome)
    return list(found)


def newest(study: Study) -> tuple[int, Kept]:
    """The last version of the shared weights, and what it took."""
    shared = study.evaluator.shared
    version = max(shared.store.versions(), default=0) if shared is not None else 0
    kept = shared.store.read(version) if shared is not None else None
    if kept is None:
        raise ValueError("the search must have kept its weights, but got none; run the part search first")
    return version, kept


def epochs_trained(study: Study, version: int) -> float:
    section = study.config.supernet
    return section.warm_up + version * section.epochs if section is not None else 0.0


def speed(work: Work) -> dict[str, float]:
    study, result = work.study("cars"), work.result("cars")
    (version, kept), execution, section = newest(study), result.config.execution, result.config.supernet
    wall = RunDirectory.open(result.run_dir).latest().seconds
    evaluating = sum(e.seconds for e in result.evaluations) / execution.workers
    beside, alone = (section.overlap, section.threads) if section is not None else (False, None)
    most = max(execution.threads * (execution.workers + beside), alone or execution.threads)
    busy = kept.thread_seconds + evaluating * execution.workers * execution.threads
    inherited = timed(study, lambda e, plan: e.at(version).evaluate(plan, STEP2, 0), 0.0)
    anew = timed(study, lambda e, plan: e.evaluate(plan, STEP2, 0), 0.012)
    return {
        "busy_share": busy / (most * wall),
        "threads": float(most),
        "trainer_share": kept.seconds / wall,
        "evaluators_share": evaluating / wall,
        "wall_minutes": wall / 60,
        "inherited_per_second": 1 / inherited,
        "built_anew_per_second": 1 / anew,
        "inherited_over_anew": anew / inherited,
    }


def timed(study: Study, evaluate: Callable[[CompressionEvaluator, CompressionPlan], Any], epochs: float) -> float:
    """Seconds of one evaluation, the median over networks of the space."""
    step = study.evaluator.steps[STEP2]
    tuned = replace(step, tune=Budget(epochs, 64, 0.01), save=False)
    evaluator = replace(study.evaluator, steps={STEP2: tuned}, artifacts=None)
    seconds = []
    for genome in subnets(study, TIMED):
        plan, began = study.space.decode(genome), time.perf_counter()
        evaluate(evaluator, plan)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def fronts(work: Work) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    cars = work.result("cars")
    minutes = RunDirectory.open(cars.run_dir).latest().seconds / 60
    work.search("two_step", two_step(work, minutes))
    figures, points = {}, {}
    for name in ("cars", "two_step"):
        points[name] = measured_front(work, name)
        figures[f"hypervolume_test_{name}"] = volume(work, points[name])
        figures[f"hypervolume_validation_{name}"] = work.result(name).history[-1][1]
    return {**figures, "minutes_of_each_search": minutes}, points


def two_step(work: Work, minutes: float) -> Config:
    """The two-step search of configs/resnet20_cifar10.yaml in the space and time of continuous evolution."""
    algorithm = {
        "name": "two_step",
        "params": {"promote": 16, "cheap_rounds": 10},
        "inner": {"name": "nsga2", "params": {"population": 160}},
    }
    tune = {"epochs": 0.012, "batch": 64, "lr": 0.01}
    values = yaml.safe_load(work.config(f"budget={{generations: null, minutes: {minutes}}}").to_yaml())
    beside = bool(values["supernet"]["overlap"])  # then the trainer's core is free for a worker
    values["execution"]["workers"] += beside
    values |= {"supernet": None, "algorithm": algorithm}
    values["evaluation"]["step2"]["tune"] = tune
    return parse(yaml.safe_dump(values))


def measured_front(work: Work, name: str) -> list[list[float]]:
    """(test error, MACs) of every member of a front, as the search built it."""
    study, result = work.study(name), work.result(name)
    evaluator = replace(study.evaluator, steps={STEP2: replace(study.evaluator.steps[STEP2], test=True)})
    rows = []
    for point in result.front:
        evaluation = result.evaluation(point.candidate_id, STEP2)
        if evaluation is not None:
            genome, version = study.space.repair(evaluation.candidate.genome), evaluation.weights_version
            seed = evaluation_seed(result.config.seed, genome, STEP2)
            found: Mapping[str, float] = work.once(
                f"{name}-{version}-{genome_digest(genome)}",
                lambda p=point.plan, v=version, s=seed: evaluator.at(v).evaluate(p, STEP2, s),
            )
            rows.append([found["test_top1_error"], found["macs"]])
    return rows


def volume(work: Work, points: Sequence[Sequence[float]]) -> float:
    """Share of the box up to the uncompressed network's test error + 0.2 and its MACs."""
    teacher = work.once("teacher", lambda: on_test(work.study("cars"), 0).baseline(STEP2))
    bounds = np.array([teacher["test_top1_error"] + 0.2, teacher["macs"]])
    return hypervolume(np.array(points) / bounds, np.ones(2))


if __name__ == "__main__":
    main()
