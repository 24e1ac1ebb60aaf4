"""Co-evolved generators against uniform widths, L1-norm pruning and generators evolved apart, in equal limits, equally tuned.

    python -m benchmarks.ccg --work DIR                                 # digits, three seeds
    python -m benchmarks.ccg --work DIR --task maps --data DIR          # aerial photos and maps, one seed

Everything goes on where it was stopped when the command is run again with the same --work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, kept, write
from evaluators.gan.networks import DIRECTIONS
from evaluators.saliency import Site, l1
from evo import api
from evo.algorithms.parts import parts_of
from evo.archive import feasible
from evo.candidates import FINAL, STEP2, Evaluation
from evo.config.schema import Config, load
from evo.randomness import derived_seed
from evo.result import Result
from evo.studies.inputs import Given
from evo.studies.translation import TranslationStudy, build_translation, tuning_recipe_of
from evo.studies.translation_limits import limits_of_parts
from search_spaces.genes import MaskGene
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan

CONFIGS = {"digits": "configs/ccg_digits.yaml", "maps": "configs/ccg_maps.yaml"}
SEEDS = {"digits": (0, 1, 2), "maps": (0,)}
# Of fine-tuning, where not the configuration's alone: what suits a pair that is near already is too little for the others.
RATES = {"maps": (0.0004, 0.0001, 0.000025)}
COEVOLVED, ORIGINAL = "coevolved", "original"
# Two populations that never meet: judged by the discriminators alone, for want of a partner; or beside the uncompressed other
# generator, cycle term included.
INDEPENDENT, BESIDE = "independent", "independent_beside_uncompressed"
# Channels chosen without a search: alone, as published, and with layers that make up for lost channels, as in the search.
UNIFORM, L1, MADE_UP = "uniform", "l1", "_compensated"
CHOSEN = (UNIFORM, L1, UNIFORM + MADE_UP, L1 + MADE_UP)
# The ablation, two searches more for every seed, comes last.
PASSES = ((ORIGINAL, COEVOLVED, *CHOSEN), (INDEPENDENT, BESIDE))
HEADLINES = ("ssim_minus_uniform", "ssim_minus_l1")  # those of the maps stand also by these names alone
COMPARED = ("test_ssim", "test_l1", "test_discriminator_distance", "test_cycle_l1")
JOINT = "untuned_test_loss"  # what the paper minimises of a pair, its size aside, on the test split before fine-tuning
ABLATED: dict[str, dict[str, Any]] = {
    INDEPENDENT: {"independent": True, "fitness_measure": "paper_fitness_alone"},
    BESIDE: {"independent": True},
}
PATTERNS = {direction: f"*:{direction}.*" for direction in DIRECTIONS}


@dataclass(frozen=True)
class Bench:
    """One seed of one task: its searches and results live in a folder."""

    config: Config
    work: Path
    tunes: int
    rates: Sequence[float]

    def study(self) -> TranslationStudy:
        return build_translation(self.config, self.work / COEVOLVED, Given())

    def searched(self, name: str) -> Result:
        """The search of this name, begun or continued."""
        run = self.work / name
        params = {**self.config.algorithm.params, **ABLATED.get(name, {})}
        algorithm = self.config.algorithm.model_copy(update={"params": params})
        final = self.config.evaluation.final.model_copy(update={"picks": []})  # chosen and tuned here
        evaluation = self.config.evaluation.model_copy(update={"final": final})
        changes = {"algorithm": algorithm, "evaluation": evaluation, "name": f"ccg-{name}"}
        config = self.config.model_copy(update=changes)
        return api.resume(run, config=config) if api.is_run(str(run)) else api.run_config(config, str(run))

    def measured(self, name: str) -> dict[str, float]:
        """Test measures of one network before and after fine-tuning, means over the tunes; every network has the same seeds."""
        if name == ORIGINAL:
            return kept(self.work / f"{name}.json", lambda: self.study().evaluator.baseline(FINAL))
        untuned = kept(self.work / f"{name}-untuned.json", lambda: self._untuned(name))
        joint = loss(untuned, cycle_of(self.config), "test_")
        each = [self._best(name, tune) for tune in range(self.tunes)]
        return {**{measure: mean(one[measure] for one in each) for measure in each[0]}, JOINT: joint}

    def _best(self, name: str, tune: int) -> dict[str, float]:
        """One fine-tuning at the rate that leaves the least loss on the search-validation split."""
        rated = [kept(self._file(name, tune, rate), partial(self._tuned, name, tune, rate)) for rate in self.rates]
        return min(rated, key=lambda measures: loss(measures, cycle_of(self.config)))

    def _file(self, name: str, tune: int, rate: float) -> Path:
        epochs = self.config.evaluation.final.tune.epochs
        return self.work / f"{name}-{epochs:g}-epochs-{tune}-{rate:g}.json"

    def _untuned(self, name: str) -> dict[str, float]:
        study = self.study()
        return study.evaluator.tested(study.evaluator.realise(plan_of(self, study, name), STEP2, self.config.seed))

    def _tuned(self, name: str, tune: int, rate: float) -> dict[str, float]:
        study = self.study()
        evaluator = replace(study.evaluator, recipe=replace(study.evaluator.recipe, lr=rate))
        seed = derived_seed(self.config.seed, "fine-tuning", tune)
        return {**evaluator.evaluate(plan_of(self, study, name), FINAL, seed), "rate": rate}


def plan_of(bench: Bench, study: TranslationStudy, name: str) -> CompressionPlan:
    plan = study.space.decode(genome_of(bench, study, name))
    return plain(plan) if name in (UNIFORM, L1) else plan


def plain(plan: CompressionPlan) -> CompressionPlan:
    """The same channels, without layers that make up for the others."""
    return replace(plan, masks=tuple(replace(mask, compensate=False) for mask in plan.masks))


def genome_of(bench: Bench, study: TranslationStudy, name: str) -> Genome:
    if name == COEVOLVED:
        return best_pair(bench.searched(name))
    if name in ABLATED:
        return best_halves(bench.searched(name), 0.0 if name == INDEPENDENT else cycle_of(bench.config))
    if name.startswith(L1):
        return scaled(study, lambda gene, _: by_norm(study, gene))
    return scaled(study, lambda _, units: range(units))


def loss(measures: Mapping[str, float], cycle: float, split: str = "", direction: str = "") -> float:
    """The fidelity terms of the paper's objective: of a pair, or of one generator ("_a_to_b") beside what it was scored with."""
    return measures[f"{split}discriminator_distance{direction}"] + cycle * measures[f"{split}cycle_l2{direction}"]


def cycle_of(config: Config) -> float:
    return config.gan.fitness.cycle if config.gan else 0.0


def best_pair(result: Result) -> Genome:
    """Of all measured pairs within the limits the one of least loss."""
    pairs = feasible(result.problem, result.evaluations, STEP2)
    if not pairs:
        raise ValueError("the search must find a pair within its limits, but got none; raise budget.generations")
    return min(pairs, key=lambda e: loss(e.measures, cycle_of(result.config))).candidate.genome


def best_halves(result: Result, cycle: float) -> Genome:
    """The generator of least loss of each population, which never met; `cycle` weighs the round trip beside the uncompressed."""
    first, second = parts_of(result.problem.space, PATTERNS)
    chosen = [fittest(result, part.name, cycle).candidate.genome for part in (first, second)]
    return second.joined(second.of(chosen[1]), chosen[0])


def fittest(result: Result, direction: str, cycle: float) -> Evaluation:
    uppers = {c.measure: c.upper for c in result.problem.constraints if c.measure.endswith(direction)}
    mine = [
        e for e in result.evaluations if e.candidate.role == direction and e.candidate.step == STEP2 and e.completed
    ]
    within = [e for e in mine if all(e.measures[name] <= upper for name, upper in uppers.items())]
    if not within:
        raise ValueError(
            f"the search must find a generator {direction} within its limits, but got none; raise the budget"
        )
    return min(within, key=lambda e: loss(e.measures, cycle, direction=f"_{direction}"))


def scaled(study: TranslationStudy, order: Callable[[MaskGene, int], Sequence[int]]) -> Genome:
    """Every code keeps the same share of its channels, the first in `order`: the widest pair within the limits of the search."""
    limits, parts = limits_of_parts(study.problem, study.space), parts_of(study.space, PATTERNS)
    most = max(group.size for group in study.space.network.groups)
    for widest in range(most, 0, -1):
        genome = _keeping(study, widest / most, order)
        if all(limits[part.name].excess(np.array([part.of(genome)]))[0] <= 0 for part in parts):
            return genome
    raise ValueError(
        "some uniform width must be within the limits, but got none; raise the limits of the configuration"
    )


def _keeping(study: TranslationStudy, share: float, order: Callable[[MaskGene, int], Sequence[int]]) -> Genome:
    genome = np.array(study.space.anchors()[0])
    first = {
        gene.group: (at, gene)
        for at, gene in reversed(list(enumerate(study.space.genes)))
        if isinstance(gene, MaskGene)
    }
    for group, (at, gene) in first.items():
        units = study.space.network.group(group).size
        kept = list(order(gene, units))[: max(1, round(share * units))]
        genome[at : at + units] = np.isin(np.arange(units), kept)
    return study.space.repair(genome.tolist())


def by_norm(study: TranslationStudy, gene: MaskGene) -> list[int]:
    """Units of a code from the largest L1 norm of their filters, summed over the groups that share it."""
    columns = study.space.network.columns
    sites = [Site(study.trace, study.teacher, {}, columns[name]) for name in gene.places]
    scores = np.sum([l1(site).numpy() for site in sites], axis=0)
    return [int(unit) for unit in np.argsort(-scores, kind="stable")]


def figures_of(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Means over seeds, and differences of the co-evolved pair from the others with their deviations over seeds: SSIM more is
    better, all else less."""
    figures: dict[str, float] = {}
    names = [name for names in PASSES for name in names if all(name in one for one in found)]
    for name in names:
        for measure in (*COMPARED, "params", "macs"):
            figures[f"{name}_{measure}"] = mean(one[name][measure] for one in found)
    for name in (name for name in names if name not in (COEVOLVED, ORIGINAL)):
        for measure in (m for m in (*COMPARED, JOINT) if all(m in one[name] for one in found)):
            short = measure.removeprefix("test_")
            differences = [one[COEVOLVED][measure] - one[name][measure] for one in found]
            figures[f"{short}_minus_{name}"] = mean(differences)
            if len(differences) > 1:
                figures[f"{short}_minus_{name}_sd"] = stdev(differences)
    for name in (name for name in names if name != ORIGINAL):
        for measure in ("params", "macs"):
            figures[f"{name}_{measure}_share"] = mean(one[name][measure] / one[ORIGINAL][measure] for one in found)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of baselines, searches and results")
    parser.add_argument("--task", choices=CONFIGS, default="digits")
    parser.add_argument("--data", help="data.kwargs.root: MNIST as torchvision lays it out, or the folder of the maps")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument(
        "--tunes", type=int, default=1, help="of every network, by seeds of their own; measures are means"
    )
    parser.add_argument("--epochs", type=float, help="of every tune instead of the configuration's; kept beside it")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        help="of fine-tuning: every tune is the best of these on validation",
    )
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    given = parser.parse_args()
    seeds = given.seeds or SEEDS[given.task]
    label = given.task if given.epochs is None else f"{given.task}_{given.epochs:g}_epochs"
    found: dict[int, dict[str, dict[str, float]]] = {seed: {} for seed in seeds}
    for names in PASSES:
        for seed in seeds:
            work = given.work / f"{given.task}-{seed}"
            changes = [*given.changes, f"seed={seed}", f"gan.baseline={work / 'baseline'}"]
            changes += [f"data.kwargs.root={given.data}"] if given.data else []
            changes += [] if given.epochs is None else [f"evaluation.final.tune.epochs={given.epochs}"]
            config = load(CONFIGS[given.task], changes)
            rates = given.rates or RATES.get(given.task) or [tuning_recipe_of(config).lr]
            bench = Bench(config, work, given.tunes, rates)
            found[seed] |= {name: bench.measured(name) for name in names}
            known = [one for one in found.values() if one]
            print(json.dumps(figures_of(known), indent=1), flush=True)
            measured = {seed: one for seed, one in found.items() if one}
            written = merged(label, measured, {"set": given.changes, "tunes": given.tunes, "rates": rates})
    print(written)


def merged(task: str, found: Mapping[int, dict[str, dict[str, float]]], how: Mapping[str, Any]) -> Path:
    """Write what was measured so far beside what is known of the other tasks."""
    file = RESULTS / "ccg.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    one = {"seeds": list(found), **how, "each": list(found.values())}
    tasks = {**known.get("tasks", {}), task: one}
    figures = {f"{name}_{key}": value for name, t in tasks.items() for key, value in figures_of(t["each"]).items()}
    figures |= {key: figures[f"maps_{key}"] for key in HEADLINES if f"maps_{key}" in figures}
    return write("ccg", figures, list(found), {"tasks": tasks})


if __name__ == "__main__":
    main()
