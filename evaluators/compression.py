"""The evaluator of compression plans: build the real small network, recover, measure. One per worker."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators import count
from evaluators.artifacts import kept_state, save_tuned, tuned_name
from evaluators.channels import Trace
from evaluators.compose import compose, learn_moments, recalibrate
from evaluators.data import Images, Splits
from evaluators.distillation import TeacherAnswers, matches
from evaluators.fresh import reinitialise
from evaluators.latency.probe import LatencyProbe
from evaluators.moments import InputMoments
from evaluators.quantise import bake
from evaluators.recovery import Budget, classify, tune
from evaluators.saliency import Ranking
from evaluators.succession import succeed
from evaluators.supernets.weights import SharedWeights
from evo.candidates import Predecessor
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan

# What a search may name as objective or constraint: measured on the built network, or computed from the plan.
MEASURES = (
    "top1_error",
    "cross_entropy",
    "params",
    "macs",
    "bops",
    "size_bytes",
    "peak_activation_bytes",
    "latency_ms",
)


CALIBRATION_BATCH = 128
MOMENT_IMAGES = 512


@dataclass(frozen=True)
class StepOptions:
    """One fidelity step. recalibration and validation are numbers of images, 0 meaning the whole split.

    `tune.epochs` may be a fraction. With `test`, the test split is measured as well, which only `final` may do.
    With `save`, the tuned weights are kept beside the run, because making them again would be long. With `from_scratch` a network
    begins with weights drawn anew, of which `tune` has to make everything.
    """

    recalibration: int = 512
    validation: int = 1024
    tune: Budget = field(default_factory=Budget)
    test: bool = False
    save: bool = False
    from_scratch: bool = False

    @property
    def making(self) -> str:
        """What decides the weights of this step, beside plan and seed, as text: weights that are kept are named by it."""
        tune = {name: _told(value) for name, value in vars(self.tune).items()}
        return json.dumps([self.recalibration, self.from_scratch, tune], sort_keys=True)


def makings(steps: Mapping[str, StepOptions]) -> dict[str, str]:
    return {name: options.making for name, options in steps.items()}


def _told(value: Any) -> Any:
    """A schedule by its name: its own where it is a function, else that of its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}" if callable(value) else value


@dataclass(frozen=True)
class CompressionEvaluator:
    """Measures: top1_error and cross_entropy on the search-validation split, all costs, and test_* at a step that tests.

    `teacher` is the uncompressed network in eval mode; it is never changed. Results depend on (plan, step, seed) alone, and on
    where networks come from: the version of the shared weights, 0 meaning the teacher's own, or the last of `lineage`, whose
    tuned weights are taken from where they are kept, else made again.
    """

    teacher: nn.Module
    trace: Trace
    ranking: Ranking
    splits: Splits
    steps: Mapping[str, StepOptions]
    device: torch.device
    artifacts: Path | None = None
    latency: LatencyProbe | None = None
    progress: Callable[[float], None] | None = None
    shared: SharedWeights | None = None
    version: int = 0
    lineage: tuple[Predecessor, ...] = ()
    _known: dict[str, InputMoments] = field(default_factory=dict, repr=False, compare=False)
    _answered: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)
    _newest: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        options = self.steps[step]
        tuned = self.realise(plan, step, seed)
        timed = self.latency.measures(plan, tuned) if self.latency is not None else {}
        module = bake(tuned)
        measures = {**self.measure(module, options), **timed}
        expected = {
            name: float(value[0])
            for name, value in costs(self.trace.network, of_plan(self.trace.network, plan), peak=True).items()
        }
        counted = count.parameters(module)
        if counted != expected["params"]:
            raise RuntimeError(
                f"the built module must have {expected['params']:.0f} parameters, but got {counted}; report this plan"
            )
        return {**measures, **expected, "epochs": self._epochs(options)}

    def _epochs(self, options: StepOptions) -> float:
        """Of tuning, those of predecessors included."""
        before = () if options.from_scratch else self.lineage
        return sum(self.steps[earlier.step].tune.epochs for earlier in before) + options.tune.epochs

    def at(self, version: int) -> CompressionEvaluator:
        """The evaluator of networks taken from a version of the shared weights."""
        return replace(self, version=version)

    def after(self, lineage: Sequence[Predecessor]) -> CompressionEvaluator:
        """The evaluator of networks that go on from the last of these."""
        return replace(self, lineage=tuple(lineage))

    def measure(self, module: nn.Module, options: StepOptions) -> dict[str, float]:
        """Errors of a finished module."""
        error, entropy = classify(module, self.splits, self.validation(options), self.device)
        measures = {"top1_error": error, "cross_entropy": entropy}
        if options.test:
            measures["test_top1_error"], measures["test_cross_entropy"] = classify(
                module, self.splits, self.splits.test, self.device
            )
        return measures

    def baseline(self, step: str) -> dict[str, float]:
        """The same measures of the uncompressed network, without any tuning."""
        nothing = CompressionPlan()
        found = costs(self.trace.network, of_plan(self.trace.network, nothing), peak=True)
        return {
            **self.measure(self.teacher, self.steps[step]),
            **(self.latency.baseline_measures() if self.latency is not None else {}),
            **{name: float(value[0]) for name, value in found.items()},
        }

    def realise(self, plan: CompressionPlan, step: str, seed: int) -> nn.Module:
        """The tuned network of a plan at a step: from the kept weights where there are any, else made again, equally."""
        options = self.steps[step]
        name = self._name(plan, step, seed)
        state = self._kept(name)
        if state is not None:
            module = (self._composed(plan) if self.lineage else self._built(plan, options, seed)).to(self.device)
            module.load_state_dict(state)
            return module.eval()
        module = self._built(plan, options, seed).to(self.device)
        calibration = self._calibration(options)
        recalibrate(module, calibration, ranges=True)
        if options.tune.epochs > 0:
            self._tune(module, plan, options.tune, seed)
            recalibrate(module, calibration, ranges=False)
        module.eval()
        inherited = bool(self.version) and options.tune.epochs <= 0  # made again sooner than it is stored
        if options.save and not inherited:
            self._keep(name, module)
        return module

    def keeps(self, plan: CompressionPlan, step: str, seed: int) -> bool:
        """Whether the tuned weights lie ready, so that `realise` only loads them."""
        return self._kept(self._name(plan, step, seed)) is not None

    def _name(self, plan: CompressionPlan, step: str, seed: int) -> str:
        return tuned_name(plan, step, seed, makings(self.steps), self.version, self.lineage)

    def _kept(self, name: str) -> dict[str, Tensor] | None:
        return kept_state(self.artifacts, name) if self.artifacts is not None else self._newest.get(name)

    def _keep(self, name: str, module: nn.Module) -> None:
        """In the run directory; without one on this machine, in memory until the next."""
        if self.artifacts is not None:
            save_tuned(self.artifacts, name, module)
            return
        self._newest.clear()
        self._newest[name] = {key: value.detach().clone() for key, value in module.state_dict().items()}

    def _tune(self, module: nn.Module, plan: CompressionPlan, budget: Budget, seed: int) -> None:
        places = matches(self.trace, self.ranking, plan) if budget.features or budget.attention else ()
        answers = TeacherAnswers(self.teacher, self.splits, self.device, self._answered)
        tune(module, self.teacher, self.splits, budget, seed, self.device, self.progress, places, answers)

    def _built(self, plan: CompressionPlan, options: StepOptions, seed: int) -> nn.Module:
        if options.from_scratch:
            module = compose(self.teacher, self.trace, self.ranking, plan)
            reinitialise(module, seed)
            return module
        if not self.version:
            return self._continued(plan) if self.lineage else self._composed(plan)
        if self.shared is None or self.lineage:
            raise ValueError(
                f"networks of shared weights must have them, and no predecessor, but got version={self.version}; report this"
            )
        return self.shared.extract(plan, self.version)

    def _composed(self, plan: CompressionPlan) -> nn.Module:
        return compose(self.teacher, self.trace, self.ranking, plan, self._moments(plan))

    def _continued(self, plan: CompressionPlan) -> nn.Module:
        *older, last = self.lineage
        tuned = self.after(older).realise(last.plan, last.step, last.seed)
        return succeed(tuned, last.plan, plan, self.teacher, self.trace, self.ranking, self._moments(plan))

    def _moments(self, plan: CompressionPlan) -> Mapping[str, InputMoments]:
        """Those of the uncompressed network; collected when a plan first needs them, and the same whichever plan that is."""
        batches = partial(self.splits.calibration_batches, MOMENT_IMAGES, CALIBRATION_BATCH, self.device)
        return learn_moments(self._known, self.teacher, self.trace, plan, batches)

    def validation(self, options: StepOptions) -> Images:
        return self.splits.validation.head(options.validation) if options.validation else self.splits.validation

    def _calibration(self, options: StepOptions) -> list[Tensor]:
        return list(self.splits.calibration_batches(options.recalibration, CALIBRATION_BATCH, self.device))


def frozen_teacher(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy that gives logits only: eval mode, no gradients, channels last."""
    teacher = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher
