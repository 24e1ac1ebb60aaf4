"""Shared weights of a configuration, on the top floor: which supernet, who trains it, where its versions lie."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from evaluators.channels import Trace
from evaluators.compression import CompressionEvaluator
from evaluators.saliency import Ranking
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.optimiser import StepRule
from evaluators.supernets.protocol import Supernet as Shared
from evaluators.supernets.pruning_net import PruningNet
from evaluators.supernets.schedule import Schedule
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.weights import SharedWeights, WeightStore
from evo.config.schema import Config, Supernet
from evo.loop.observers import SearchObserver
from evo.loop.shared_weights import KeepVersions, Trainer
from evo.randomness import derived_seed
from evo.storage.folder import Folder
from evo.studies.classifier import Study
from search_spaces.genes import WidthGene
from search_spaces.plan import CompressionPlan
from search_spaces.space import CompressionSpace


def with_shared(study: Study, folder: Folder) -> Study:
    """The study whose evaluator also takes networks from the weights in this run directory, if the configuration has any."""
    if study.config.supernet is None:
        return study
    supernet = supernet_of(study.config, study.teacher, study.trace, study.ranking, study.space)
    shared = SharedWeights(supernet, WeightStore(folder))
    return replace(study, evaluator=replace(study.evaluator, shared=shared))


def supernet_of(
    config: Config, teacher: nn.Module, trace: Trace, ranking: Ranking, space: CompressionSpace
) -> Shared[CompressionPlan]:
    """The kind of shared weights that the configuration names."""
    if _section(config).kind == "pruning_net":
        return pruning_net(config, teacher, trace)
    return elastic(config, teacher, trace, ranking, space)


def pruning_net(config: Config, teacher: nn.Module, trace: Trace) -> PruningNet:
    section = _section(config)
    return PruningNet(
        teacher,
        trace,
        derived_seed(config.seed, "pruning net"),
        section.hidden,
        StepRule(section.momentum, section.weight_decay),
        section.in_place_distillation,
        section.label_smoothing,
    )


def elastic(
    config: Config, teacher: nn.Module, trace: Trace, ranking: Ranking, space: CompressionSpace
) -> ElasticSupernet:
    section = _section(config)
    widths = {gene.group: gene.kept for gene in space.genes if isinstance(gene, WidthGene)}
    return ElasticSupernet(
        copy.deepcopy(teacher),
        trace,
        ranking,
        config.space.criteria[0],
        StepRule(section.momentum, section.weight_decay),
        section.in_place_distillation,
        widths if section.private_norms else None,
        teacher if section.from_teacher else None,
    )


def trainer_of(config: Config, evaluator: CompressionEvaluator, space: CompressionSpace) -> SupernetTrainer:
    """Trains in this process what the evaluator takes its networks from. Raises ValueError where that is nothing."""
    if evaluator.shared is None:
        raise ValueError(
            "a trainer must have shared weights to train, but got an evaluator without; write a section supernet"
        )
    return SupernetTrainer(
        supernet_of(config, evaluator.teacher, evaluator.trace, evaluator.ranking, space),
        space,
        evaluator.splits,
        schedule_of(_section(config)),
        evaluator.shared.store,
        config.seed,
        evaluator.device,
    )


def schedule_of(section: Supernet) -> Schedule:
    return Schedule(
        section.warm_up,
        section.epochs,
        section.horizon,
        section.batch,
        section.lr,
        section.lr_min,
        section.subnets,
        section.sandwich,
        section.layer_drop,
        section.sampling == "evenly",
    )


def keepers(study: Study, trainer: Trainer | None) -> Sequence[SearchObserver]:
    shared = study.evaluator.shared
    return () if trainer is None or shared is None else (KeepVersions(study.problem, shared.store),)


def _section(config: Config) -> Supernet:
    if config.supernet is None:
        raise ValueError("a supernet must be configured, but got no section supernet; write one")
    return config.supernet
