"""Refuse a configuration that cannot work, by its names and numbers alone: before any file is read or network run."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection
from typing import Any

from evo.addresses import secrets_of
from evo.config.schema import AlgorithmConfig, Config, Step
from evo.config.shared_checks import check_scratch, check_shared
from evo.config.translation_checks import check_translation
from evo.front import LIMIT
from evo.loop.preferences import FollowsWeights
from evo.loop.shared_weights import TrainsWeights
from evo.loop.steady import Steady
from evo.picks import SEVERAL
from evo.registry import (
    ALGORITHMS,
    CODEBOOKS,
    CRITERIA,
    DATASETS,
    FACTORISATIONS,
    GENERATORS,
    MASK_CRITERIA,
    MEASURES,
    MODELS,
    RANGES,
    ROUNDINGS,
    RUNTIMES,
    SCHEDULES,
    STAGED,
    TABLES,
    WRAPPERS,
    check_name,
    resolve,
)
from evo.views.marks import absolute_marks
from search_spaces.sparsity import pattern_of

CELLS = "cells"  # in place of a model where cells are searched
GIVEN = "given"  # the factory of a model or data set that was handed over in Python
GOES_ON = ("chained", "continue_rungs")  # parameters of algorithms by which candidates go on from tuned weights
CANDIDATE_ID = re.compile(r"\w+-\w+")
RANK_RULE = re.compile(r"vbmf|energy:(0?\.\d*[1-9]\d*|1(\.0*)?)")
LOWEST_BITS = {"weight_bits": 1, "activation_bits": 2}


def check(config: Config, measures: Collection[str]) -> None:
    """Raise ValueError for unknown names and impossible combinations. `measures` are those a search can be about."""
    if config.cells is not None:
        _check_cells(config)
    models = MODELS if config.gan is None else GENERATORS
    for table, name in ((models, config.model.factory), (DATASETS, config.data.factory)):
        if name not in (GIVEN, CELLS):
            resolve(table, name)
    if config.gan is not None:
        check_translation(config, config.gan)
    _check_space(config)
    for number, constraint in enumerate(config.constraints):
        _check_known(f"constraints.{number}.measure", constraint.measure, measures)
    for number, objective in enumerate(config.objectives):
        _check_known(f"objectives.{number}.measure", objective.measure, measures)
    if len({o.measure for o in config.objectives}) != len(config.objectives):
        raise ValueError("every objective must be named once, but got a measure twice in objectives; remove one")
    if config.budget == config.budget.model_copy(update={"generations": None, "evaluations": None, "minutes": None}):
        raise ValueError(
            "a search must end, but got a budget without generations, evaluations or minutes; set one of them"
        )
    if config.timed is not None:
        resolve(RUNTIMES, config.timed.runtime)
    if config.model.weights and config.model.pretrain:
        raise ValueError("model must have either weights or pretrain, but got both; remove one")
    for tune in (config.model.pretrain, *(step.tune for step in _steps(config))):
        if tune is not None:
            resolve(SCHEDULES, tune.schedule)
    for pick in config.evaluation.final.picks:
        _check_pick(pick, measures)
    for name, values in config.tracking.marks.items():
        for measure in values:
            _check_known(f"tracking.marks.{name}", measure, {*measures, *MEASURES})
    absolute_marks(config.tracking.marks, dict.fromkeys(MEASURES, 1.0))  # their numbers can be read
    _check_secrets(config)
    made = algorithm_class(config.algorithm)
    _check_asynchronous(config, made)
    _check_rungs(config, made)
    _check_supernet(config, made)
    check_scratch(config)


def _check_space(config: Config) -> None:
    space = config.space
    for name in space.criteria:
        resolve(CRITERIA, name)
    for name in space.factors:
        _check_known("space.factors", name, FACTORISATIONS)
    for rule in space.rank_rules:
        if not RANK_RULE.fullmatch(rule):
            raise ValueError(
                f"space.rank_rules must be vbmf or energy:SHARE with 0 < SHARE <= 1, but got {rule!r}; correct or remove it"
            )
    if space.widths and not space.criteria:
        raise ValueError(
            "space.criteria must name how channels are chosen, but got criteria=[] with widths; "
            "name one (evo list criteria), or set widths=[] too"
        )
    for key, bits in (("weight_bits", space.weight_bits), ("activation_bits", space.activation_bits)):
        lowest = LOWEST_BITS[key]
        wrong = [b for b in bits if not lowest <= b <= 8 and b != 32]
        if wrong:
            raise ValueError(f"space.{key} must lie in {lowest}..8 or be 32 for float, but got {wrong[0]}; remove it")
    _check_schemes(config)
    _check_known("space.mask_criterion", space.mask_criterion, MASK_CRITERIA)
    for text in space.sparsity:
        pattern_of(text)
    for key, shares in (("widths", space.widths), ("factor_shares", space.factor_shares)):
        outside = [s for s in shares if not 0 < s <= 1]
        if outside:
            raise ValueError(
                f"space.{key} must be shares above 0 and at most 1, but got {outside[0]}; correct or remove it"
            )


def _check_schemes(config: Config) -> None:
    space = config.space
    for key, names, table in (
        ("codebooks", space.codebooks, CODEBOOKS),
        ("roundings", space.roundings, ROUNDINGS),
        ("ranges", space.ranges, RANGES),
    ):
        for name in names:
            _check_known(f"space.{key}", name, table)
        if not names:
            raise ValueError(f"space.{key} must name at least one of {', '.join(table)}, but got []; add one")
    wrong = [group for group in space.groups if isinstance(group, int) and group < 2]
    if wrong or not space.groups:
        raise ValueError(
            f"space.groups must be channel, tensor or numbers of weights above 1, but got {space.groups}; correct it"
        )


def _check_secrets(config: Config) -> None:
    """The configuration is kept in the run directory and shown in MLflow."""
    if not all(secret.startswith("$") for secret in secrets_of(config.tracking.uri)):
        raise ValueError(
            "tracking.uri must not hold a password or token, but got one; write a variable in its place, such as "
            "postgresql://user:${MLFLOW_PASSWORD}@host/mlflow, and set that in the environment"
        )


def _steps(config: Config) -> list[Step]:
    """Every step that builds networks."""
    return [*config.evaluation.rungs, config.evaluation.step2, config.evaluation.final]


def _check_rungs(config: Config, made: Any) -> None:
    if config.evaluation.rungs and "rungs" not in inspect.signature(made).parameters:
        raise ValueError(
            f"evaluation.rungs needs an algorithm that climbs them, but got algorithm.name={config.algorithm.name!r}; "
            "set it to two_step, or remove the rungs"
        )


def _check_asynchronous(config: Config, made: Any) -> None:
    if config.execution.asynchronous and not issubclass(getattr(made, "func", made), Steady):
        raise ValueError(
            "execution.asynchronous needs an algorithm that gives one candidate at a time, but got "
            f"algorithm.name={config.algorithm.name!r}; set it to two_step, nsga2, nsga3 or random"
        )
    if config.execution.asynchronous and config.evaluation.rungs:
        raise ValueError(
            "rungs compare candidates of one generation, but got evaluation.rungs with execution.asynchronous=true; "
            "remove the rungs, or set asynchronous to false"
        )


def _check_cells(config: Config) -> None:
    section = config.supernet
    if section is None:
        raise ValueError("a search of cells needs shared weights, but got no section supernet; write one")
    model, step2 = config.model, config.evaluation.step2
    wrong = {
        "model.factory": model.factory if model.factory != CELLS else "",
        "model.weights": model.weights,
        "model.pretrain": model.pretrain,
        "supernet.sandwich": section.sandwich,
        "supernet.layer_drop": section.layer_drop,
        "supernet.private_norms": section.private_norms,
        "supernet.from_teacher": section.from_teacher,
        "evaluation.step2.tune.epochs": step2.tune.epochs,
        "evaluation.rungs": config.evaluation.rungs,
        "gan": config.gan,
        "latency": config.timed,
    }
    for key, value in wrong.items():
        if value:
            raise ValueError(
                f"cells are made from scratch and share weights by operations (model.factory: {CELLS}, sandwich: false), "
                f"but got {key}={value!r}; remove it or set it to its default, 0 or false"
            )


def _check_supernet(config: Config, made: Any) -> None:
    trains = issubclass(getattr(made, "func", made), TrainsWeights)
    if config.supernet is None:
        if trains:
            raise ValueError(
                f"algorithm.name={config.algorithm.name!r} needs shared weights, but got no section supernet; write one, "
                "or choose another algorithm"
            )
        return
    inner = config.algorithm.inner
    if inner is not None and issubclass(_class(inner), TrainsWeights):
        raise ValueError(
            f"an algorithm that trains shared weights must not be wrapped, but got {inner.name} inside {config.algorithm.name}; "
            "make it the algorithm"
        )
    for name in GOES_ON:
        if config.algorithm.params.get(name):
            raise ValueError(
                f"networks of shared weights begin with these, but got algorithm.params.{name}=true; set it to false"
            )
    if config.execution.asynchronous:
        raise ValueError("shared weights need generations, but got execution.asynchronous=true; set it to false")
    kind = "elastic" if config.cells is not None else config.supernet.kind
    if issubclass(getattr(made, "func", made), FollowsWeights) and kind != "transformable":
        raise ValueError(
            f"algorithm.name={config.algorithm.name!r} follows weights that learn preferences, but got supernet.kind={kind}; "
            "set it to transformable"
        )
    if config.cells is not None:
        return
    check_shared(config, config.supernet)


def _class(config: AlgorithmConfig) -> Any:
    made = algorithm_class(config)
    return getattr(made, "func", made)


def _check_pick(pick: str, measures: Collection[str]) -> None:
    if pick.strip() == "knee" or CANDIDATE_ID.fullmatch(pick) or SEVERAL.fullmatch(pick):
        return
    for text in pick.split(","):
        limit = LIMIT.fullmatch(text)
        if limit is None:
            raise ValueError(
                'every pick must be "knee", the id of a candidate, "uniform:4", "pareto:4", or limits such as '
                '"macs<=0.5x,top1_error<=0.09", '
                f"but got {pick!r} in evaluation.final.picks; correct it"
            )
        _check_known("evaluation.final.picks", limit["measure"], measures)


def algorithm_class(config: AlgorithmConfig, key: str = "algorithm") -> Any:
    """The class (or partial of one) behind an algorithm section, its parameters checked by name and kind."""
    table = {**ALGORITHMS, **WRAPPERS, **STAGED}
    if ":" not in config.name:
        _check_known(f"{key}.name", config.name, table)
    made = resolve(table if ":" not in config.name else ALGORITHMS, config.name)
    signature = inspect.signature(made).parameters
    known = {name: parameter for name, parameter in signature.items() if name not in ("problem", "inner")}
    for name, value in config.params.items():
        _check_known(f"{key}.params of {config.name}", name, known)
        _check_kind(f"{key}.params.{name}", value, known[name].default)
        choices = TABLES.get(f"{name}s", TABLES.get(name))
        if choices is not None and isinstance(value, str) and ":" not in value:
            check_name(choices, value, f"{key}.params.{name}")
    if config.inner is not None and "inner" not in signature:
        raise ValueError(f"{key}.inner must be given to a wrapper only, but got one for {config.name!r}; remove it")
    if config.inner is not None:
        algorithm_class(config.inner, f"{key}.inner")
    return made


def _check_kind(key: str, value: Any, default: Any) -> None:
    """A parameter with a number or a text as its default takes no other kind."""
    if not isinstance(default, int | float | str):
        return
    fits = isinstance(value, int | float if isinstance(default, float) else type(default))
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(f"{key} must be of the kind of its default {default!r}, but got {value!r}; correct it")


def _check_known(key: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {closest[0]!r}?" if closest else "choose one of these"
    raise ValueError(f"{key} must be one of {', '.join(sorted(known))}, but got {name!r}; {advice}")
