"""Measure networks of cells: with weights inherited from a supernet, and at the last step trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from evaluators import count
from evaluators.artifacts import load_tuned, save_tuned, tuned_name
from evaluators.compose import recalibrate
from evaluators.compression import CALIBRATION_BATCH, StepOptions, makings
from evaluators.data import Splits
from evaluators.recovery import classify, tune
from evaluators.supernets.cell_networks import CellNetwork, Macro, chosen
from evaluators.supernets.weights import SharedWeights
from search_spaces.plan import CompressionPlan

MEASURES = ("top1_error", "cross_entropy", "params", "macs")


@dataclass(frozen=True)
class CellEvaluator:
    """Measures: top1_error and cross_entropy on the search-validation split, params, macs; test_* at a step that tests.

    A step without tuning takes the network from the shared weights (version 0: untrained) and recalibrates its batch norms. A
    step with epochs trains a network of the `final` macro structure from scratch: what the cells are worth by themselves.
    """

    kind: type[CellNetwork]
    final: Macro
    splits: Splits
    steps: Mapping[str, StepOptions]
    device: torch.device
    shared: SharedWeights
    artifacts: Path | None = None
    version: int = 0

    def at(self, version: int) -> CellEvaluator:
        return replace(self, version=version)

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        options, module = self.steps[step], self.realise(plan, step, seed)
        split = self.splits.validation.head(options.validation) if options.validation else self.splits.validation
        error, entropy = classify(module, self.splits, split, self.device)
        measures = {"top1_error": error, "cross_entropy": entropy, **self._costs(module), "epochs": options.tune.epochs}
        if options.test:
            tested = classify(module, self.splits, self.splits.test, self.device)
            measures["test_top1_error"], measures["test_cross_entropy"] = tested
        return measures

    def realise(self, plan: CompressionPlan, step: str, seed: int) -> nn.Module:
        options = self.steps[step]
        if options.tune.epochs > 0:
            return self._trained(plan, step, seed)
        module = self.shared.extract(plan, self.version).to(self.device)
        images = self.splits.calibration_batches(options.recalibration, CALIBRATION_BATCH, self.device)
        recalibrate(module, list(images), ranges=False)
        return module.eval()

    def _trained(self, plan: CompressionPlan, step: str, seed: int) -> nn.Module:
        options, name = self.steps[step], tuned_name(plan, step, seed, makings(self.steps))
        torch.manual_seed(seed)
        module = self.kind(chosen(plan), self.final).to(self.device)
        if self.artifacts is None or not load_tuned(self.artifacts, name, module):
            tune(module, None, self.splits, options.tune, seed, self.device)
            if self.artifacts is not None and options.save:
                save_tuned(self.artifacts, name, module)
        return module.eval()

    def _costs(self, module: nn.Module) -> dict[str, float]:
        example = self.splits.prepare(self.splits.train.images[:1], self.device)
        return {"params": float(count.parameters(module)), "macs": float(count.macs(module, example))}
