"""What a configuration names, loaded: network, data, device, options."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.boundary import bound
from evaluators.compression import StepOptions
from evaluators.data import ImageData, Splits, limited, split
from evaluators.datasets import from_factory
from evaluators.load import build_model, call, load_weights
from evaluators.prepare import prepared
from evaluators.rank_rules import options_by
from evaluators.recovery import Budget as TuneBudget
from evaluators.recovery import tune
from evo.candidates import FINAL, STEP2, rung_steps
from evo.config.checks import GIVEN
from evo.config.schema import Config, Step, Tune
from evo.registry import DATASETS, MODELS, SCHEDULES, resolve
from search_spaces.codebooks import CHANNEL, TENSOR
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space
from search_spaces.space import CompressionSpace
from search_spaces.sparsity import pattern_of

logger = logging.getLogger(__name__)

SHOWN_LAYERS = 12
GROUPS = {"channel": CHANNEL, "tensor": TENSOR}


@dataclass(frozen=True)
class Given:
    """Objects handed over in Python instead of being named in the configuration; `data` as in `evo.search`."""

    model: nn.Module | None = None
    data: ImageData | tuple[Any, Any] | None = None


def require_given(config: Config, given: Given, run_dir: str, call: str) -> None:
    """Raise ValueError where a search that was started with objects is to go on without them."""
    for name, factory, value in (
        ("model", config.model.factory, given.model),
        ("data", config.data.factory, given.data),
    ):
        if factory == GIVEN and value is None:
            raise ValueError(
                f"a search that was started from Python needs its {name} object again, but got {name}=None; "
                f"in Python, call {call}({run_dir!r}, given=evo.Given(model=..., data=...)) with what evo.search was given"
            )


def device_of(config: Config) -> torch.device:
    wanted = config.execution.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("execution.device=cuda needs a CUDA device, but got none; set it to auto or cpu")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def load_splits(config: Config, given: ImageData | tuple[Any, Any] | None) -> Splits:
    section = config.data
    made = from_factory(
        call(resolve(DATASETS, section.factory), section.factory, "data", section.kwargs) if given is None else given
    )
    return split(limited(made, section.train_limit, section.test_limit), section.validation, section.split_seed)


def new_model(config: Config) -> nn.Module:
    torch.manual_seed(config.seed)
    return build_model(resolve(MODELS, config.model.factory), config.model.factory, config.model.kwargs)


def network_of(config: Config, given: nn.Module | None, splits: Splits) -> nn.Module:
    """The network as made or handed over, taking the data's inputs and giving logits."""
    model = new_model(config) if given is None else copy.deepcopy(given)
    return bound(model, splits.form.inputs, config.model.output)


def load_model(
    config: Config, splits: Splits, device: torch.device, baseline: Path | None, given: nn.Module | None
) -> nn.Module:
    """The trained network: from the run's own copy, handed over, from the user's weights, or trained here."""
    example = splits.prepare(splits.train.images[:1], torch.device("cpu"))
    model = network_of(config, given, splits)
    if baseline is not None and baseline.is_file():
        model = prepared(model, example)
        load_weights(model, str(baseline), "the weights kept with the run")
        return model
    if given is None:
        _train_or_load(model, config, splits, device)
    return prepared(model.cpu(), example)


def _train_or_load(model: nn.Module, config: Config, splits: Splits, device: torch.device) -> None:
    if config.model.weights is not None:
        load_weights(model, config.model.weights)
    elif config.model.pretrain is not None:
        logger.info("training %s for %g epochs", config.model.factory, config.model.pretrain.epochs)
        tune(
            model.to(device).to(memory_format=torch.channels_last),
            None,
            splits,
            tune_budget(config.model.pretrain),
            config.seed,
            device,
        )


def tune_budget(section: Tune) -> TuneBudget:
    fields = {field.name for field in dataclasses.fields(TuneBudget)} - {"schedule"}
    return TuneBudget(**section.model_dump(include=fields), schedule=resolve(SCHEDULES, section.schedule))


def step_options(config: Config) -> dict[str, StepOptions]:
    def options(section: Step, last: bool) -> StepOptions:
        return StepOptions(section.recalibration, section.validation, tune_budget(section.tune), test=last, save=True)

    sections = config.evaluation
    final = dataclasses.replace(options(sections.final, True), from_scratch=sections.final.from_scratch)
    rungs = zip(rung_steps(len(sections.rungs)), sections.rungs, strict=True)
    climbed = {name: options(section, False) for name, section in rungs}
    return {**climbed, STEP2: options(sections.step2, False), FINAL: final}


def space_of(config: Config, network: Network, model: nn.Module) -> CompressionSpace:
    """The joint space of a network under the configuration's options; rank rules look at the model's weights."""
    values = config.space.model_dump().items()
    options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
    options["groups"] = tuple(GROUPS.get(group, group) for group in options["groups"])
    options["sparsity"] = tuple(pattern_of(text) for text in options["sparsity"])
    rules = options.pop("rank_rules")
    return build_space(network, SpaceOptions(**options), options_by(model, network, config.space.factors, rules))


def check_kept(config: Config, layers: Sequence[str]) -> None:
    for pattern in config.space.keep:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise ValueError(
                f"every pattern of space.keep must match a layer, but got {pattern!r}, which matches none of "
                f"{', '.join(layers[:SHOWN_LAYERS])}{', ...' if len(layers) > SHOWN_LAYERS else ''}; "
                "evo doctor lists all of them"
            )
