"""Step 1 of a configuration: which statistics its tables are made from, and on which images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.data import Splits
from evaluators.gradients import collect_gradients
from evaluators.loss_tables import LossTables
from evaluators.saliency import Ranking, rank
from evaluators.statistics import LayerStatistics, collect
from evaluators.step1 import build_tables
from evaluators.step1_file import read_step1
from evo.config.schema import Config
from evo.randomness import derived_seed
from evo.registry import CRITERIA, resolve
from search_spaces.genes import MaskGene
from search_spaces.space import CompressionSpace

BATCH = 128


@runtime_checkable
class ScoresTuned(Protocol):
    """An algorithm that may ask for scores beyond a tuned network."""

    @property
    def scores_tuned(self) -> bool: ...


def require_codes(algorithm: object, space: CompressionSpace) -> None:
    """Raise ValueError for an algorithm that wants statistics of tuned networks where these may lose more than channels: of
    layers whose block is left out there are none."""
    if not isinstance(algorithm, ScoresTuned) or not algorithm.scores_tuned:
        return
    other = next((gene.name for gene in space.genes if not isinstance(gene, MaskGene)), None)
    if other is not None:
        raise ValueError(
            f"statistics of tuned networks need a space of channel codes alone, but got the gene {other}; empty weight_bits, "
            "activation_bits, factors and sparsity of space and set skip_blocks to false, or set "
            "algorithm.params.tuned_statistics=false"
        )


def first_tables(
    config: Config, teacher: nn.Module, described: Trace, splits: Splits, space: CompressionSpace, file: Path | None
) -> tuple[Ranking, LossTables]:
    """Rankings and tables of the uncompressed network, kept with the run so that a resumed search scores exactly as before."""
    if file is not None and file.is_file():
        return read_step1(file, space, _peak(config))
    images = _images(config, teacher, splits)
    statistics = _statistics(config, teacher, described, images)
    criteria = {name: resolve(CRITERIA, name) for name in config.space.criteria}
    ranking = rank(described, teacher, statistics, criteria)
    return ranking, _tabulated(config, teacher, described, images, statistics, space, ranking)


def tables_of(
    config: Config, model: nn.Module, described: Trace, splits: Splits, space: CompressionSpace, ranking: Ranking
) -> LossTables:
    """Tables of another network of the uncompressed one's shape, from the same images and under the same rankings."""
    images = _images(config, model, splits)
    statistics = _statistics(config, model, described, images)
    return _tabulated(config, model, described, images, statistics, space, ranking)


def _images(config: Config, model: nn.Module, splits: Splits) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat(list(splits.calibration_batches(config.evaluation.step1.images, BATCH, device)))


def _statistics(config: Config, model: nn.Module, described: Trace, images: Tensor) -> dict[str, LayerStatistics]:
    layers = [layer.name for layer in described.network.layers]
    return collect(model, layers, images, derived_seed(config.seed, "statistics"))


def _tabulated(
    config: Config,
    model: nn.Module,
    described: Trace,
    images: Tensor,
    statistics: Mapping[str, LayerStatistics],
    space: CompressionSpace,
    ranking: Ranking,
) -> LossTables:
    seed, form = derived_seed(config.seed, "gradients"), config.evaluation.step1.codes
    gradients = collect_gradients(model, described.network, statistics, images, seed)
    return build_tables(space, model, described, statistics, gradients, ranking, _peak(config), form)


def _peak(config: Config) -> bool:
    """Whether the search asks for the peak of activations, which no table has."""
    wanted = [*(o.measure for o in config.objectives), *(c.measure for c in config.constraints)]
    return "peak_activation_bytes" in wanted
