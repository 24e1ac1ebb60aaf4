"""What a compressed pair of generators is worth. One per worker: it holds both generators, the discriminators and the images."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluators import count
from evaluators.artifacts import load_tuned, save_tuned, tuned_name
from evaluators.channels import Trace
from evaluators.compose import compose, learn_moments, recalibrate
from evaluators.compression import StepOptions, makings
from evaluators.gan.baseline import SAVE_EVERY_S, UNFINISHED, resume, run_kept
from evaluators.gan.data import UnpairedSplits
from evaluators.gan.fid import frechet_distance
from evaluators.gan.fitness import Weights, fitness_measures
from evaluators.gan.metrics import l1, psnr, ssim, unit_range
from evaluators.gan.networks import A_TO_B, B_TO_A, DIRECTIONS, Discriminators
from evaluators.gan.training import Recipe, Training
from evaluators.moments import InputMoments
from evaluators.quantise import bake
from evaluators.saliency import Ranking
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan
from search_spaces.subnetwork import part_of_network, part_of_plan

PAIR_MEASURES = ("discriminator_distance", "cycle_l1", "cycle_l2")
# What a search of generators may name as objective or constraint.
MEASURES = (
    *PAIR_MEASURES,
    *(f"{name}_{direction}" for name in (*PAIR_MEASURES, "params", "macs") for direction in DIRECTIONS),
    "params",
    "macs",
    "bops",
    "size_bytes",
    "peak_activation_bytes",
)
SCORING_BATCH = 25
CALIBRATION_BATCH, MOMENT_IMAGES = 16, 256


@dataclass(frozen=True)
class TranslationEvaluator:
    """Measures for the pair and each direction: discriminator_distance, cycle_l1, cycle_l2, both forms of the fitness, costs;
    at a step that tests also the distances on the test split, SSIM, PSNR and L1 to the truth where it is paired, and FID where
    `inception` names the weights it takes.

    `teacher` is the uncompressed pair in eval mode; neither it nor `judges` is ever changed. `codes` names for each direction the
    channel groups that have a code of their own. Results depend on (plan, step, seed) alone.
    """

    teacher: nn.Module
    judges: Discriminators
    trace: Trace
    ranking: Ranking
    splits: UnpairedSplits
    steps: Mapping[str, StepOptions]
    recipe: Recipe
    weights: Weights
    codes: Mapping[str, tuple[str, ...]]
    device: torch.device
    artifacts: Path | None = None
    inception: Path | None = None
    progress: Callable[[float], None] | None = None
    _references: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[str, InputMoments] = field(default_factory=dict, repr=False, compare=False)

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        options = self.steps[step]
        module = bake(self.realise(plan, step, seed))
        expected = self._costs(plan)
        counted = count.parameters(module)
        if counted != expected["params"]:
            raise RuntimeError(
                f"the built module must have {expected['params']:.0f} parameters, but got {counted}; report this plan"
            )
        return {**self.measure(module, plan, options), **expected, "epochs": options.tune.epochs}

    def at(self, version: int) -> TranslationEvaluator:
        """Itself: no generators are taken from shared weights."""
        return self

    def baseline(self, step: str) -> dict[str, float]:
        """The same measures of the uncompressed pair."""
        nothing = CompressionPlan()
        return {**self.measure(self.teacher, nothing, self.steps[step]), **self._costs(nothing)}

    def measure(self, module: nn.Module, plan: CompressionPlan, options: StepOptions) -> dict[str, float]:
        """Everything but costs of a finished module that was built by the plan."""
        validation = {A_TO_B: self.splits.a.validation.images, B_TO_A: self.splits.b.validation.images}
        images = {name: found[: options.validation or len(found)] for name, found in validation.items()}
        measures = self._losses(module, images, "validation")
        params = {name: count.parameters(module.get_submodule(name)) for name in DIRECTIONS}
        for direction in DIRECTIONS:
            measures[f"params_{direction}"] = float(params[direction])
            measures[f"macs_{direction}"] = self._macs(plan, direction)
        shares = {name: left / count.parameters(self.teacher.get_submodule(name)) for name, left in params.items()}
        removed = {name: self._removed(plan, name) for name in DIRECTIONS}
        measures.update(fitness_measures(shares, removed, measures, self.weights))
        return {**measures, **(self.tested(module) if options.test else {})}

    def tested(self, module: nn.Module) -> dict[str, float]:
        """Measures on the test split, named test_*."""
        images = {A_TO_B: self.splits.a.test.images, B_TO_A: self.splits.b.test.images}
        measures = self._losses(module, images, "test")
        if self.splits.paired:
            truth = {A_TO_B: images[B_TO_A], B_TO_A: images[A_TO_B]}
            found = {name: self._likeness(module, name, images[name], truth[name]) for name in DIRECTIONS}
            for measure in ("ssim", "psnr", "l1"):
                values = {f"{measure}_{name}": found[name][measure] for name in DIRECTIONS}
                measures.update({**values, measure: sum(values.values()) / len(values)})
        if self.inception is not None:
            distances = {name: self._fid(module, name, images, self.inception) for name in DIRECTIONS}
            measures.update({f"fid_{name}": value for name, value in distances.items()})
            measures["fid"] = sum(distances.values()) / len(distances)
        return {f"test_{name}": value for name, value in measures.items()}

    def realise(self, plan: CompressionPlan, step: str, seed: int) -> nn.Module:
        """The pair of a plan at a step, tuned with copies of the discriminators: from kept weights, else made again, equally."""
        options = self.steps[step]
        module = compose(self.teacher, self.trace, self.ranking, plan, self._moments(plan)).to(self.device)
        name = tuned_name(plan, step, seed, self._how())
        if self.artifacts is not None and load_tuned(self.artifacts, name, module):
            return module.eval()
        batches = self.splits.calibration_batches(options.recalibration, CALIBRATION_BATCH, self.device)
        recalibrate(module, batches, ranges=True)  # which reads them only where something is to be calibrated
        if options.tune.epochs > 0:
            keep = self.artifacts if options.save else None
            unfinished = None if keep is None else keep / f"{name.removesuffix('.safetensors')}-{UNFINISHED}"
            self._tune(module, options.tune.epochs, seed, unfinished)
            if keep is not None:
                save_tuned(keep, name, module)
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)
        return module.eval()

    def _how(self) -> dict[str, str]:
        recipe = json.dumps(asdict(self.recipe), sort_keys=True)
        return {step: f"{making} {recipe}" for step, making in makings(self.steps).items()}

    def _moments(self, plan: CompressionPlan) -> Mapping[str, InputMoments]:
        """Those of the uncompressed pair on real images; collected when a plan first needs them, the same whichever that is."""
        batches = partial(self.splits.calibration_batches, MOMENT_IMAGES, CALIBRATION_BATCH, self.device)
        return learn_moments(self._known, self.teacher, self.trace, plan, batches)

    def _tune(self, module: nn.Module, epochs: float, seed: int, unfinished: Path | None) -> None:
        """Train the pair with copies of the discriminators; with a file, from where a training that was stopped had come to."""
        steps = max(1, round(epochs * self.splits.steps_per_epoch(self.recipe.batch)))
        judges = copy.deepcopy(self.judges).requires_grad_(True)
        training = Training(module, judges, self.splits, self.recipe, steps, seed, self.device)
        if unfinished is None:
            training.run(steps, self.progress)
            return
        facts = json.dumps({**asdict(self.recipe), "steps": steps, "file": unfinished.name}, sort_keys=True)
        resume(training, unfinished, facts)
        run_kept(training, unfinished, facts, SAVE_EVERY_S, self.progress)

    def _costs(self, plan: CompressionPlan) -> dict[str, float]:
        network = self.trace.network
        return {name: float(value[0]) for name, value in costs(network, of_plan(network, plan), peak=True).items()}

    def _macs(self, plan: CompressionPlan, direction: str) -> float:
        network = part_of_network(self.trace.network, f"{direction}.")
        mine = part_of_plan(plan, f"{direction}.")
        return float(costs(network, of_plan(network, mine))["macs"][0])

    def _removed(self, plan: CompressionPlan, direction: str) -> float:
        """Share of the direction's channels that are gone, every code counted once."""
        network, mine = self.trace.network, self.codes[direction]
        kept = of_plan(network, plan).kept[0]
        total = sum(network.group(name).size for name in mine)
        return 1.0 - sum(int(kept[network.columns[name]]) for name in mine) / total if total else 0.0

    @torch.no_grad()
    def _losses(self, module: nn.Module, images: Mapping[str, Tensor], split: str) -> dict[str, float]:
        """Distances of both directions and their sums, each a mean over images."""
        measures: dict[str, float] = {}
        for direction, judge in ((A_TO_B, self.judges.b), (B_TO_A, self.judges.a)):
            there, back = (module.get_submodule(name) for name in (direction, _other(direction)))
            given = images[direction]
            reference = self._reference(direction, judge, given, f"{split} {len(given)}")
            sums = dict.fromkeys(PAIR_MEASURES, 0.0)
            for start in range(0, len(given), SCORING_BATCH):
                x = self.splits.prepare(given[start : start + SCORING_BATCH], self.device)
                made = there(x)
                judged, again = judge(made) - reference[start : start + len(x)], back(made) - x
                sums["discriminator_distance"] += float(judged.square().flatten(1).mean(1).sum())
                sums["cycle_l1"] += float(again.abs().flatten(1).mean(1).sum())
                sums["cycle_l2"] += float(again.square().flatten(1).mean(1).sum())
            measures.update({f"{name}_{direction}": total / len(given) for name, total in sums.items()})
        for name in PAIR_MEASURES:
            measures[name] = sum(measures[f"{name}_{direction}"] for direction in DIRECTIONS)
        return measures

    def _reference(self, direction: str, judge: nn.Module, given: Tensor, key: str) -> Tensor:
        """What the discriminator says of the uncompressed generator's images; the same whichever plan asks first."""
        known = self._references.setdefault(direction, {})
        if key not in known:
            whole = self.teacher.get_submodule(direction)
            batches = (given[start : start + SCORING_BATCH] for start in range(0, len(given), SCORING_BATCH))
            known[key] = torch.cat([judge(whole(self.splits.prepare(batch, self.device))) for batch in batches])
        return known[key]

    @torch.no_grad()
    def _fid(self, module: nn.Module, direction: str, images: Mapping[str, Tensor], weights: Path) -> float:
        """FID of the images made of all given ones to the real ones of the other domain."""
        given = images[direction].split(SCORING_BATCH)
        made = torch.cat([module.get_submodule(direction)(self.splits.prepare(x, self.device)) for x in given])
        real = self.splits.prepare(images[_other(direction)], self.device)
        return frechet_distance(unit_range(made), unit_range(real), weights, self.device)

    @torch.no_grad()
    def _likeness(self, module: nn.Module, direction: str, given: Tensor, truth: Tensor) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {"ssim": [], "psnr": [], "l1": []}
        for start in range(0, len(given), SCORING_BATCH):
            x, y = (self.splits.prepare(part[start : start + SCORING_BATCH], self.device) for part in (given, truth))
            made, wanted = unit_range(module.get_submodule(direction)(x)), unit_range(y)
            for name, metric in (("ssim", ssim), ("psnr", psnr), ("l1", l1)):
                found[name].append(metric(made, wanted))
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _other(direction: str) -> str:
    return B_TO_A if direction == A_TO_B else A_TO_B
