"""Everything about one network and data set that a search needs on the driver, made from a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.artifacts import save_tensors
from evaluators.calibration import TermCalibration
from evaluators.channels import Trace
from evaluators.compression import MEASURES, CompressionEvaluator, frozen_teacher
from evaluators.data import Splits
from evaluators.describe import trace
from evaluators.fresh import require_fresh
from evaluators.gan.evaluator import MEASURES as TRANSLATION_MEASURES
from evaluators.load import load_weights
from evaluators.loss_tables import LossTables
from evaluators.saliency import Ranking
from evaluators.step1_file import write_step1
from evaluators.supernets.cell_evaluator import MEASURES as CELL_MEASURES
from evaluators.supernets.sorting import refused_groups
from evo.algorithm import AnyAlgorithm
from evo.candidates import STEP2, Scorer, rung_steps
from evo.config.checks import GOES_ON, algorithm_class, check
from evo.config.objectives import problem_of
from evo.config.schema import AlgorithmConfig, Config
from evo.config.space_file import SPACE_FILE, space_to_json
from evo.problem import Problem
from evo.storage.run_directory import RunDirectory
from evo.studies.inputs import Given, check_kept, device_of, load_model, load_splits, new_model, space_of, step_options
from evo.studies.step1 import first_tables, require_codes
from evo.studies.timing import TIMING_FILE, TimedTables, Timing, kept_in, probe_of, require_runtime, timing_of
from evo.variation.feasible_space import FeasibleSpace
from evo.variation.local_search import LocalSearch, Unweighted, priced
from evo.variation.reachable import require_reachable
from search_spaces.elastic import without_widths
from search_spaces.space import CompressionSpace

SURROGATE = "predicted_loss_increase"
# Measures that only a real network can give.
LEARNED = ("top1_error", "cross_entropy", "discriminator_distance", "cycle_l1", "cycle_l2")
LATENCY = "latency_ms"  # measured too, but predicted well enough to compare with measurements
SLOW = "macs"  # what is charged for latency, which is no sum over genes
BASELINE_FILE = "models/baseline.safetensors"
STEP1_FILE = "models/step1.safetensors"


@dataclass(frozen=True)
class Study:
    """Everything about one network and data set that a search needs on the driver."""

    config: Config
    teacher: nn.Module
    trace: Trace
    splits: Splits
    example: Tensor
    ranking: Ranking
    space: CompressionSpace
    tables: LossTables
    problem: Problem
    baseline: Mapping[str, float]
    evaluator: CompressionEvaluator
    timing: Timing | None = None


def check_names(config: Config) -> None:
    """Refuse unknown names and impossible combinations; needs no torch work and comes before all of it."""
    measures = CELL_MEASURES if config.cells is not None else MEASURES
    check(config, measures if config.gan is None else TRANSLATION_MEASURES)
    device_of(config)
    require_runtime(config)


def climbing(config: Config) -> AlgorithmConfig:
    """The section algorithm, which also knows the rungs of the ladder, and that shared weights have no predecessors."""
    section, rungs = config.algorithm, rung_steps(len(config.evaluation.rungs))
    params: dict[str, Any] = {"rungs": rungs} if rungs else {}
    if config.supernet is not None:
        params |= dict.fromkeys(set(GOES_ON) & set(inspect.signature(algorithm_class(section)).parameters), False)
    return section.model_copy(update={"params": {**section.params, **params}})


def build_algorithm(
    config: AlgorithmConfig, problem: Problem, tables: LossTables | None, baseline: Mapping[str, float]
) -> AnyAlgorithm:
    """The algorithm with its parameters; a wrapper without `inner` wraps NSGA-II, calibrates every term of step 1 (unless
    another calibration is named), whose tables it needs, and searches among them."""
    made = algorithm_class(config)
    params = dict(config.params)
    if "inner" in inspect.signature(made).parameters:
        if tables is None:
            raise ValueError(
                f"algorithm.name must not need a step 1 where there is none, but got {config.name!r}; "
                "set it to coevolution, nsga2 or another algorithm of one step"
            )
        params["inner"] = build_algorithm(config.inner or AlgorithmConfig(name="nsga2"), problem, tables, baseline)
        learned = {o.measure: SURROGATE for o in problem.objectives if o.measure in LEARNED}
        params.setdefault("surrogates", learned)
        by_terms = {m: TermCalibration(tables, baseline[m], bounded=m.endswith("error")) for m in learned}
        if "calibration" not in params:
            params["calibrations"] = by_terms
        if learned:
            weigher = Unweighted(len(tables.terms)) if "calibration" in params else next(iter(by_terms.values()))
            params["local_search"] = LocalSearch(tables, _priced(problem, tables), weigher, next(iter(learned)))
    try:
        algorithm: AnyAlgorithm = made(problem=problem, **params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"algorithm.params must suit {config.name}, but got {config.params!r}: {error}") from error
    if tables is not None:
        require_codes(algorithm, tables.space)
    return algorithm


def _priced(problem: Problem, tables: LossTables) -> tuple[str, ...]:
    named = [*(o.measure for o in problem.objectives), *(c.measure for c in problem.constraints)]
    return priced(list(dict.fromkeys(named)), tables.cost_measures)


def build_study(config: Config, folder: Path | None, given: Given) -> Study:
    """Load, trace and measure the user's network; writes nothing. `folder` is the run directory: what `keep_study` kept
    there is used instead of being computed again."""
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    baseline_file = folder / BASELINE_FILE if folder else None
    if config.model.weights is not None and not (baseline_file and baseline_file.is_file()):
        load_weights(new_model(config), config.model.weights)  # a wrong file is told before the data are read
    splits = load_splits(config, given.data)
    example = splits.prepare(splits.train.images[:1], device)
    model = load_model(config, splits, device, baseline_file, given.model)
    teacher = frozen_teacher(model, device)
    described = trace(teacher, example)
    check_outputs(teacher, example, splits)
    if config.evaluation.final.from_scratch:
        require_fresh(teacher)
    check_kept(config, [layer.name for layer in described.network.layers])
    space = space_of(config, described.network, teacher)
    if config.supernet is not None:
        space = without_widths(space, refused_groups(described))
    ranking, tables = first_tables(config, teacher, described, splits, space, folder / STEP1_FILE if folder else None)
    timing = timing_of(config, folder, described.network, teacher, example)
    models = folder / "models" if folder else None
    probe = probe_of(config, timing, described.network, teacher, example, models)
    evaluator = CompressionEvaluator(teacher, described, ranking, splits, step_options(config), device, models, probe)
    baseline = evaluator.baseline(STEP2)
    problem = build_problem(config, space, tables, baseline, timing)
    return Study(
        config, teacher, described, splits, example, ranking, space, tables, problem, baseline, evaluator, timing
    )


def check_outputs(teacher: nn.Module, example: Tensor, splits: Splits) -> None:
    with torch.no_grad():
        logits = teacher(example)
    classes = int(max(splits.train.labels.max(), splits.test.labels.max())) + 1
    if isinstance(logits, dict | tuple | list):
        known = list(logits) if isinstance(logits, dict) else list(range(len(logits)))
        raise ValueError(
            "the model must give logits alone, or model.output must say which of its outputs are the logits, but got "
            f"a {type(logits).__name__} with {known}; set model.output={known[0] if known else 0!r}, for instance"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < classes:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model must give (N, classes) logits for {classes} classes, but got {shape}; say so in model.kwargs, "
            f"for example --set model.kwargs.num_classes={classes}"
        )


def keep_study(study: Study, run: RunDirectory) -> Study:
    """Keep in the run directory what a resumed search must find equal: the space, the trained weights, rankings and step-1
    tables. Returns the study whose evaluator keeps tuned weights there."""
    run.write(SPACE_FILE, space_to_json(study.space).encode())
    if study.timing is not None and TIMING_FILE not in run.folder.names(str(Path(TIMING_FILE).parent)):
        run.write(TIMING_FILE, study.timing.to_json().encode())
    if run.local is None:
        return study
    if not (run.local / STEP1_FILE).is_file():
        save_tensors(run.local / BASELINE_FILE, study.teacher.state_dict())
        write_step1(run.local / STEP1_FILE, study.ranking, study.tables)
    return replace(study, evaluator=kept_in(study.evaluator, run.local / "models"))


def build_problem(
    config: Config,
    space: CompressionSpace,
    tables: LossTables,
    baseline: Mapping[str, float],
    timing: Timing | None = None,
) -> Problem:
    """The problem of a configuration; raises ValueError for a limit that no genome meets. With `timing`, genomes are repaired to
    meet limits of latency as predicted; what they are measured with may still be above."""
    problem = problem_of(config, space, baseline)
    known = {c.measure for c in problem.constraints} - {*LEARNED, LATENCY}
    require_reachable(problem, space, known, tables.score)
    if not config.repair_limits:
        return problem
    charged = {name: name for name in tables.cost_measures} | ({} if timing is None else {LATENCY: SLOW})
    limits = tuple(c for c in problem.constraints if c.measure in charged)
    if not limits:
        return problem
    columns = tuple(charged[limit.measure] for limit in limits)
    return replace(problem, space=FeasibleSpace(space, predictor(tables, timing), tables, limits, columns))


def predictor(tables: LossTables, timing: Timing | None) -> Scorer:
    """Step 1: everything that is known of a genome without a network."""
    return tables if timing is None else TimedTables(tables, timing.table)
