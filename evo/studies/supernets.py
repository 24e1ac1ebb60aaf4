"""Shared weights of a configuration, on the top floor: which supernet, who trains it, where its versions lie."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from evaluators.channels import Trace
from evaluators.compression import CompressionEvaluator
from evaluators.saliency import Ranking
from evaluators.supernets.architecture import Architecture, ArchitectureRule
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.optimiser import StepRule
from evaluators.supernets.protocol import Supernet as Shared
from evaluators.supernets.pruning_net import PruningNet
from evaluators.supernets.schedule import Schedule
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.transformable import BilevelSteps, TransformableSupernet, halves
from evaluators.supernets.weights import SharedWeights, WeightStore
from evo.config.schema import Config, Supernet
from evo.loop.observers import SearchObserver
from evo.loop.preferences import Preference
from evo.loop.shared_weights import KeepVersions, Trainer
from evo.randomness import derived_seed
from evo.storage.folder import Folder
from evo.studies.classifier import Study
from search_spaces.genes import WidthGene
from search_spaces.genome import Genome
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
    kind = _section(config).kind
    if kind == "pruning_net":
        return pruning_net(config, teacher, trace)
    if kind == "transformable":
        return transformable(config, teacher, trace, ranking, space)
    return elastic(config, teacher, trace, ranking, space)


def transformable(
    config: Config, teacher: nn.Module, trace: Trace, ranking: Ranking, space: CompressionSpace
) -> TransformableSupernet:
    shared = elastic(config, teacher, trace, ranking, space, every_norm=True)
    groups = [
        group.name
        for group in trace.network.groups
        if group.name not in shared.refused and len(shared.norms(group.name)) >= len(group.producers)
    ]
    rule = ArchitectureRule(**_section(config).architecture.model_dump())
    architecture = Architecture(space, groups, rule, derived_seed(config.seed, "architecture"))
    return TransformableSupernet(shared, architecture, config.space.criteria[0])


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
    config: Config,
    teacher: nn.Module,
    trace: Trace,
    ranking: Ranking,
    space: CompressionSpace,
    every_norm: bool = False,
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
        widths if section.private_norms or every_norm else None,
        teacher if section.from_teacher else None,
    )


def trainer_of(config: Config, evaluator: CompressionEvaluator, space: CompressionSpace) -> SupernetTrainer:
    """Trains in this process what the evaluator takes its networks from. Raises ValueError where that is nothing."""
    if evaluator.shared is None:
        raise ValueError(
            "a trainer must have shared weights to train, but got an evaluator without; write a section supernet"
        )
    supernet = supernet_of(config, evaluator.teacher, evaluator.trace, evaluator.ranking, space)
    splits, steps, schedule = evaluator.splits, None, schedule_of(_section(config))
    if isinstance(supernet, TransformableSupernet):
        splits, others = halves(splits, config.seed)
        steps = BilevelSteps(supernet, splits, others, schedule, config.seed, evaluator.device)
    return SupernetTrainer(
        supernet, space, splits, schedule, evaluator.shared.store, config.seed, evaluator.device, steps=steps
    )


@dataclass(frozen=True)
class PreferringTrainer:
    """A trainer, wherever it works, and the preferences of the versions that it published, read here."""

    trainer: Trainer
    shared: SharedWeights
    supernet: TransformableSupernet

    def train(self, version: int, population: Sequence[Genome]) -> None:
        self.trainer.train(version, population)

    def close(self) -> None:
        self.trainer.close()

    def preferences(self, version: int) -> tuple[Preference, ...]:
        self.shared.fill(version)
        return self.supernet.architecture.preferences()


def preferring(study: Study, trainer: Trainer) -> Trainer:
    """The trainer of a study, which also tells what its weights prefer where they do."""
    shared = study.evaluator.shared
    if shared is None or not isinstance(shared.supernet, TransformableSupernet):
        return trainer
    return PreferringTrainer(trainer, shared, shared.supernet)


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
