"""What it is worth to go on from tuned weights instead of beginning anew, on handwritten digits: a few minutes.

    python -m benchmarks.continued

layers: configs/genetic_channel_coding_digits.yaml down to 0.3x MACs, each network tuned on from the one before (`chained`), each
from the uncompressed network, and the last plan alone from the uncompressed network for as many epochs as the chain had in all.

statistics: the same search down to 0.3x and 0.15x MACs, where codes are chosen by the outputs of the networks as they were tuned,
or of the uncompressed one (`tuned_statistics`); `other_channels` is the share of the dropped channels in which the two differ.

rungs: random networks of configs/joint_digits.yaml, tuned for half an epoch at a rung, then at step 2 for an epoch anew, or on
for half an epoch (as many in all) or for an epoch.

Errors are those of the test split, means over seeds (and networks).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import record
from evaluators.compression import CompressionEvaluator, StepOptions
from evo.api import run_config
from evo.archive import kendall_tau
from evo.candidates import STEP2, Evaluation, Predecessor, Request
from evo.config.schema import load
from evo.loop.generations import request_for
from evo.randomness import stream
from evo.studies.classifier import Study, build_study
from evo.studies.inputs import Given

SEEDS = (0, 1, 2)
NETWORKS = 12
LAYERS, JOINT = "configs/genetic_channel_coding_digits.yaml", "configs/joint_digits.yaml"
TARGET, TARGETS = 0.3, (0.3, 0.15)
RUNG, ANEW, ON, LONGER = "rung1", "anew", "on", "longer"


def main() -> None:
    layers = [chain(seed) for seed in SEEDS]
    print("layers", layers, flush=True)
    looks = [looked_at(seed, target) for target in TARGETS for seed in SEEDS]
    print("statistics", looks, flush=True)
    rungs = [row for seed in SEEDS for row in raced(seed)]
    errors = {name: np.array([row[name] for row in rungs]) for name in (RUNG, ANEW, ON, LONGER)}
    figures = {f"layers_{name}": float(np.mean([row[name] for row in layers])) for name in layers[0]}
    for target in TARGETS:
        rows = [row for row in looks if row["target"] == target]
        figures |= {
            f"statistics_{name}_{target}": float(np.mean([row[name] for row in rows]))
            for name in rows[0]
            if name != "target"
        }
    figures |= {f"rungs_error_{name}": float(values.mean()) for name, values in errors.items()}
    for name in (ANEW, ON, LONGER):
        tau = kendall_tau(errors[RUNG], errors[name])
        figures |= {f"rungs_tau_{name}": tau.tau, f"rungs_tau_{name}_low": tau.low, f"rungs_tau_{name}_high": tau.high}
    print(record.write("continued", figures, SEEDS, {"layers": layers, "statistics": looks, "rungs": rungs}))


def chain(seed: int) -> dict[str, float]:
    """Test errors of the last network of a chain, of its like tuned from the uncompressed one for one step or for all epochs."""
    last = searched(seed, TARGET)
    evaluator, request, epochs = last.evaluator, last.request, last.evaluation.measures["epochs"]
    step = evaluator.steps[STEP2]
    whole = replace(
        evaluator, steps={**evaluator.steps, "whole": replace(step, tune=replace(step.tune, epochs=epochs))}
    )
    chained = last.tested
    anew = evaluator.evaluate(request.plan, STEP2, request.seed)
    longer = whole.evaluate(request.plan, "whole", request.seed)
    errors = {"error_chained": chained, "error_anew": anew, "error_anew_as_long": longer}
    return {
        **{name: measures["test_top1_error"] for name, measures in errors.items()},
        "epochs_chained": chained["epochs"],
        "macs": last.macs,
    }


def looked_at(seed: int, target: float) -> dict[str, float]:
    """The last networks of two chains: codes chosen by statistics of the tuned networks, and of the uncompressed one."""
    tuned, first = searched(seed, target), searched(seed, target, tuned_statistics=False)
    codes = [np.array(last.evaluation.candidate.genome) for last in (tuned, first)]
    found = {"tuned": tuned.tested, "first": first.tested}
    return {
        "target": target,
        **{f"error_{name}": measures["test_top1_error"] for name, measures in found.items()},
        **{f"cross_entropy_{name}": measures["test_cross_entropy"] for name, measures in found.items()},
        "macs_tuned": tuned.macs,
        "macs_first": first.macs,
        "other_channels": float((codes[0] != codes[1]).sum() / (codes[1] == 0).sum() / 2),
    }


@dataclass(frozen=True)
class Last:
    """The last network of a chain, and an evaluator that also measures the test split."""

    evaluator: CompressionEvaluator
    evaluation: Evaluation
    request: Request
    macs: float

    @property
    def tested(self) -> dict[str, float]:
        request = self.request
        return self.evaluator.after(request.lineage).evaluate(request.plan, STEP2, request.seed)


@cache
def searched(seed: int, target: float, tuned_statistics: bool = True) -> Last:
    params = [f"targets=[{target}]", f"tuned_statistics={str(tuned_statistics).lower()}"]
    overrides = [f"seed={seed}", "evaluation.final.picks=[]", *(f"algorithm.params.{text}" for text in params)]
    config = load(LAYERS, overrides)
    with tempfile.TemporaryDirectory() as folder:
        result = run_config(config, f"{folder}/run")
        study = build_study(config, Path(folder, "run"), Given())
    last = [e for e in result.evaluations if e.candidate.step == STEP2][-1]
    request = request_for(study.space, seed, last.candidate, 0, result.evaluations)
    evaluator = testing(study, {STEP2: study.evaluator.steps[STEP2]})
    return Last(evaluator, last, request, last.measures["macs"] / result.baseline["macs"])


def raced(seed: int) -> Iterator[dict[str, float]]:
    study = build_study(load(JOINT, [f"seed={seed}"]), None, Given())
    step = study.evaluator.steps[STEP2]
    epochs = {RUNG: 0.5, ANEW: 1.0, ON: 0.5, LONGER: 1.0}
    evaluator = testing(study, {name: replace(step, tune=replace(step.tune, epochs=e)) for name, e in epochs.items()})
    rng = stream(seed, "networks")
    for _ in range(NETWORKS):
        plan = study.space.decode(study.space.sample(rng))
        after = evaluator.after([Predecessor(plan, RUNG, seed)])
        found = {name: evaluator.evaluate(plan, name, seed) for name in (RUNG, ANEW)}
        found |= {name: after.evaluate(plan, name, seed) for name in (ON, LONGER)}
        yield {name: measures["test_top1_error"] for name, measures in found.items()}


def testing(study: Study, steps: dict[str, StepOptions]) -> CompressionEvaluator:
    """The study's evaluator, which also measures the test split and keeps nothing beside the run."""
    return replace(study.evaluator, artifacts=None, steps={name: replace(s, test=True) for name, s in steps.items()})


if __name__ == "__main__":
    main()
