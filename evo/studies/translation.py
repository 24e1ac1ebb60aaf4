"""A search of image-translation generators: the study of a pair, as `evo.studies.classifier.Study` is of one classifier."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts import save_tensors
from evaluators.channels import Trace
from evaluators.compression import frozen_teacher
from evaluators.describe import trace
from evaluators.gan.baseline import Makers, has_baseline, load_baseline, new_networks, train_baseline
from evaluators.gan.data import UnpairedImages, UnpairedSplits, unpaired_splits
from evaluators.gan.evaluator import TranslationEvaluator
from evaluators.gan.fid import require_fid
from evaluators.gan.fitness import Weights
from evaluators.gan.networks import DIRECTIONS, Discriminators
from evaluators.gan.training import Recipe
from evaluators.load import build_model, call, load_weights
from evaluators.prepare import prepared
from evaluators.saliency import Ranking, rank
from evo.candidates import STEP2
from evo.config.objectives import problem_of
from evo.config.schema import Config, Gan, parse
from evo.config.space_file import SPACE_FILE, space_to_json
from evo.problem import Problem
from evo.registry import CRITERIA, DATASETS, DISCRIMINATORS, GENERATORS, resolve
from evo.storage.run_directory import RunDirectory
from evo.studies.inputs import Given, check_kept, device_of, space_of, step_options
from evo.variation.reachable import require_reachable
from search_spaces.cost_tables import CostTables
from search_spaces.genes import MaskGene
from search_spaces.space import CompressionSpace

logger = logging.getLogger(__name__)

PAIR_FILE, JUDGES_FILE = "models/baseline.safetensors", "models/discriminators.safetensors"


@dataclass(frozen=True)
class TranslationStudy:
    """Everything about a pair of generators and its images that a search needs on the driver."""

    config: Config
    teacher: nn.Module
    trace: Trace
    splits: UnpairedSplits
    example: tuple[Tensor, Tensor]
    ranking: Ranking
    space: CompressionSpace
    problem: Problem
    baseline: Mapping[str, float]
    evaluator: TranslationEvaluator


@dataclass(frozen=True)
class TranslationKit:
    """What a worker needs to build its evaluator, sent once. It makes networks and data by their factories."""

    config: str
    pair: Mapping[str, np.ndarray]
    judges: Mapping[str, np.ndarray]
    order: Mapping[tuple[str, str], tuple[int, ...]]
    codes: Mapping[str, tuple[str, ...]]
    artifacts: str | None


def section(config: Config) -> Gan:
    if config.gan is None:
        raise ValueError("a search of generators must have a section gan, but got none; see configs/ccg_digits.yaml")
    return config.gan


def load_images(config: Config) -> UnpairedSplits:
    data = config.data
    made = call(resolve(DATASETS, data.factory), data.factory, "data", data.kwargs)
    if not isinstance(made, UnpairedImages):
        raise ValueError(
            f"the data of a search of generators must be evaluators.gan.data.UnpairedImages, but got {type(made).__name__} "
            f"from {data.factory!r}; name unpaired_folders, unpaired_parquet, tilted_digits or a factory that returns them"
        )
    return unpaired_splits(_limited(made, data.train_limit, data.test_limit), data.validation, data.split_seed)


def _limited(data: UnpairedImages, train: int | None, test: int | None) -> UnpairedImages:
    return replace(
        data,
        train_a=data.train_a[:train],
        train_b=data.train_b[:train],
        test_a=data.test_a[:test],
        test_b=data.test_b[:test],
    )


def makers(config: Config) -> Makers:
    """Factories of one generator and of one discriminator."""
    model, judge = config.model, section(config).discriminator
    return (
        partial(build_model, resolve(GENERATORS, model.factory), model.factory, model.kwargs),
        partial(build_model, resolve(DISCRIMINATORS, judge.factory), judge.factory, judge.kwargs),
    )


def recipe_of(config: Config) -> Recipe:
    wanted = section(config)
    return Recipe(**wanted.model_dump(include={field.name for field in fields(Recipe)}))


def tuning_recipe_of(config: Config) -> Recipe:
    return replace(recipe_of(config), lr=section(config).tune_lr or section(config).lr)


def load_networks(
    config: Config, splits: UnpairedSplits, folder: Path | None, device: torch.device
) -> tuple[nn.Module, Discriminators]:
    """The trained networks: from the run's own copy, or from gan.baseline, where they are trained if it holds none."""
    wanted, cpu = section(config), torch.device("cpu")
    pair, judges = new_networks(makers(config), config.seed)
    example = splits.example(cpu)
    if folder is not None and (folder / PAIR_FILE).is_file():
        ready = prepared(pair.eval(), example)
        load_weights(ready, str(folder / PAIR_FILE), "the weights kept with the run")
        load_weights(judges, str(folder / JUDGES_FILE), "the weights kept with the run")
        return ready, judges
    place = Path(wanted.baseline).expanduser()
    if has_baseline(place):
        load_baseline(place, pair, judges)
    else:
        train_baseline(
            place, pair, judges, splits, recipe_of(config), wanted.epochs, config.seed, device, logger.warning
        )
    return prepared(pair.cpu().eval(), example), judges.cpu()


def build_translation(config: Config, folder: Path | None, given: Given) -> TranslationStudy:
    """Load, train if need be, trace and measure the pair; writes nothing but gan.baseline."""
    if given != Given():
        raise ValueError(
            "generators are searched from a configuration that names them, but got an object; "
            'give model and data as names, such as "resnet_generator" and "my_package.images:load"'
        )
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    inception_of(config)  # told before any training
    splits = load_images(config)
    pair, judges = load_networks(config, splits, folder, device)
    teacher = frozen_teacher(pair, device)
    example = splits.example(device)
    described = trace(teacher, example)
    check_kept(config, [layer.name for layer in described.network.layers])
    space = space_of(config, described.network, teacher)
    ranking = _ranking(config, described, teacher)
    artifacts = folder / "models" if folder else None
    evaluator = _evaluator(config, teacher, judges, described, ranking, splits, codes_of(space), device, artifacts)
    baseline = evaluator.baseline(STEP2)
    problem = pair_problem(config, space, baseline)
    return TranslationStudy(config, teacher, described, splits, example, ranking, space, problem, baseline, evaluator)


def _ranking(config: Config, described: Trace, teacher: nn.Module) -> Ranking:
    """By criteria that look at weights alone; codes need none."""
    if config.space.channel_codes:
        return Ranking({})
    return rank(described, teacher, {}, {name: resolve(CRITERIA, name) for name in config.space.criteria})


def _evaluator(
    config: Config,
    teacher: nn.Module,
    judges: Discriminators,
    described: Trace,
    ranking: Ranking,
    splits: UnpairedSplits,
    codes: Mapping[str, tuple[str, ...]],
    device: torch.device,
    artifacts: Path | None,
) -> TranslationEvaluator:
    fitness = section(config).fitness
    return TranslationEvaluator(
        teacher,
        copy.deepcopy(judges).to(device).eval().requires_grad_(False),
        described,
        ranking,
        splits,
        step_options(config),
        tuning_recipe_of(config),
        Weights(fitness.gamma, fitness.cycle, fitness.removal),
        codes,
        device,
        artifacts,
        inception_of(config),
    )


def inception_of(config: Config) -> Path | None:
    """The weights that FID takes, if any; ValueError where it could not be computed."""
    named = section(config).inception
    if named is None:
        return None
    weights = Path(named).expanduser()
    require_fid(weights)
    return weights


def codes_of(space: CompressionSpace) -> dict[str, tuple[str, ...]]:
    """For each direction the channel groups with a code, or a width, of their own."""
    followers = {name for gene in space.genes if isinstance(gene, MaskGene) for name in gene.also}
    names = [group.name for group in space.network.groups if group.name not in followers]
    return {part: tuple(name for name in names if name.startswith(f"{part}.")) for part in DIRECTIONS}


def untrained(config: Config) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The pair of a configuration before any training, and an example."""
    example = load_images(config).example(torch.device("cpu"))
    pair, _ = new_networks(makers(config), config.seed)
    return prepared(pair.eval(), example), example


def pair_problem(config: Config, space: CompressionSpace, baseline: Mapping[str, float]) -> Problem:
    """The problem of a configuration; raises ValueError for a limit that no genome meets."""
    problem = problem_of(config, space, baseline)
    tables = CostTables(space)
    require_reachable(problem, space, tables.costs(np.array([space.anchors()[0]])), tables.costs)
    return problem


def keep_translation(study: TranslationStudy, run: RunDirectory) -> TranslationStudy:
    """Keep the space, the trained pair and the discriminators in the run directory, as `keep_study` does for a classifier."""
    run.write(SPACE_FILE, space_to_json(study.space).encode())
    if run.local is None:
        return study
    if not (run.local / PAIR_FILE).is_file():
        save_tensors(run.local / JUDGES_FILE, study.evaluator.judges.state_dict())
        save_tensors(run.local / PAIR_FILE, study.teacher.state_dict())
    return replace(study, evaluator=replace(study.evaluator, artifacts=run.local / "models"))


def translation_kit(study: TranslationStudy) -> TranslationKit:
    artifacts = study.evaluator.artifacts
    return TranslationKit(
        study.config.to_yaml(),
        _arrays(study.teacher),
        _arrays(study.evaluator.judges),
        study.ranking.order,
        study.evaluator.codes,
        str(artifacts.resolve()) if artifacts else None,
    )


def make_translator(kit: TranslationKit) -> TranslationEvaluator:
    """Build the evaluator inside a worker."""
    config = parse(kit.config)
    torch.set_num_threads(config.execution.threads)
    device = device_of(config)
    splits = load_images(config)
    pair, judges = new_networks(makers(config), config.seed)
    ready = prepared(pair.eval(), splits.example(torch.device("cpu")))
    _fill(ready, kit.pair)
    _fill(judges, kit.judges)
    teacher = frozen_teacher(ready, device)
    described = trace(teacher, splits.example(device))
    artifacts = Path(kit.artifacts) if kit.artifacts else None
    return _evaluator(config, teacher, judges, described, Ranking(kit.order), splits, kit.codes, device, artifacts)


def _arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def _fill(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
