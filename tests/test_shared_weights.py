"""Training of shared weights: interrupted anywhere, by trainer or driver, it ends as the uninterrupted run does."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import settings
from statistics_of import assert_statistics_are_of
from torch import nn

from cluster.ray_trainer import RayTrainer
from evaluators.channels import Trace
from evaluators.compression import CompressionEvaluator, StepOptions
from evaluators.data import Splits, limited, split
from evaluators.datasets import digits
from evaluators.describe import trace
from evaluators.models.small import digits_cnn
from evaluators.saliency import Ranking, l1, rank
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.schedule import Schedule
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.weights import SharedWeights, WeightStore
from evo import api
from evo.candidates import STEP2
from evo.config.schema import validate
from evo.result import load
from evo.storage.folder import Folder
from evo.studies.opening import open_subject
from search_spaces.genome import Genome
from search_spaces.options import SpaceOptions, build_space
from search_spaces.plan import CompressionPlan

SCHEDULE = Schedule(warm_up=1, epochs=0.5, horizon=3, batch=20, subnets=3)
CPU = torch.device("cpu")


class StopHere(BaseException):
    """What interrupts."""


class Interrupted(ElasticSupernet):
    """Stops in the given step of its life."""

    left = 10**9

    def train_step(self, *arguments: Any) -> float:
        self.left -= 1
        if self.left < 0:
            raise StopHere
        return super().train_step(*arguments)


def original() -> tuple[nn.Module, Splits, Trace, Ranking]:
    torch.manual_seed(0)
    model, splits = digits_cnn(width=8), split(limited(digits(), 200, 20), 40, 0)
    traced = trace(model, splits.prepare(splits.train.images[:1], CPU))
    return model, splits, traced, rank(traced, model, {}, {"l1": l1})


def trainer(folder: Path, stop_after: int = 10**9) -> SupernetTrainer:
    model, splits, traced, ranking = original()
    supernet = Interrupted(model, traced, ranking, "l1")
    supernet.left = stop_after
    space = build_space(
        traced.network, SpaceOptions(criteria=("l1",), weight_bits=(4, 32), factors=(), activation_bits=())
    )
    return SupernetTrainer(supernet, space, splits, SCHEDULE, WeightStore(Folder.at(str(folder))), 5, CPU, pause_s=0)


def population(made: SupernetTrainer) -> list[Genome]:
    return [made.space.sample(np.random.default_rng(i)) for i in range(4)]


def test_the_steps_of_versions_follow_each_other() -> None:
    assert [SCHEDULE.last_step(version, 160) for version in range(4)] == [8, 12, 16, 20]
    rates = [SCHEDULE.rate(step, 160) for step in range(40)]
    assert rates[0] == SCHEDULE.lr and rates == sorted(rates, reverse=True) and rates[30] == SCHEDULE.lr_min


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SupernetTrainer:
    """Two versions, trained without an interruption."""
    made = trainer(tmp_path_factory.mktemp("whole"))
    for version in (1, 2):
        made.train(version, population(made))
    return made


@pytest.mark.parametrize("stop_after", [3, 10, 13], ids=["in warm-up", "during evolution", "between"])
def test_training_that_was_interrupted_ends_with_the_same_weights(
    whole: SupernetTrainer, tmp_path: Path, stop_after: int
) -> None:
    cut = trainer(tmp_path / "cut", stop_after)
    with pytest.raises(StopHere):
        for version in (1, 2):
            cut.train(version, population(cut))
    again = trainer(tmp_path / "cut")
    for version in (1, 2):
        again.train(version, population(again))
    for version in (1, 2):
        expected, got = whole.store.read(version), again.store.read(version)
        assert expected is not None and got is not None
        assert expected.step == got.step == SCHEDULE.last_step(version, len(whole.splits.train))
        assert expected.state.keys() == got.state.keys()
        assert all(torch.equal(tensor, got.state[name]) for name, tensor in expected.state.items())
    assert again.store.versions() == [1, 2]
    assert not list((tmp_path / "cut/models").glob("training-*"))


def test_batch_norms_are_recalibrated_before_every_measurement(whole: SupernetTrainer) -> None:
    model, splits, traced, ranking = original()
    shared = SharedWeights(ElasticSupernet(copy.deepcopy(model), traced, ranking, "l1"), whole.store)
    options = {STEP2: StepOptions(recalibration=60, validation=40)}
    evaluator = CompressionEvaluator(model, traced, ranking, splits, options, CPU, shared=shared)
    (images,) = splits.calibration_batches(60, 128, CPU)
    for version in (1, 2, 1):
        for genome in population(whole)[:2]:
            assert_statistics_are_of(evaluator.at(version).realise(whole.space.decode(genome), STEP2, 0), images)


@dataclass(frozen=True)
class Mortal:
    """A trainer that kills its process before the first version, once; it fails for a version of 9."""

    folder: Path

    def train(self, version: int, population: Sequence[Genome]) -> None:
        if version == 9:
            raise ValueError("nine is too many")
        if not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os._exit(1)
        (self.folder / f"version-{version}-{len(population)}").touch()

    def close(self) -> None: ...


@pytest.mark.ray
def test_a_trainer_on_the_cluster_is_replaced_when_it_dies(one_ray: None, tmp_path: Path) -> None:
    trainer = RayTrainer(partial(Mortal, tmp_path))
    try:
        trainer.train(1, [(0, 1), (1, 1)])
        with pytest.raises(ValueError, match="nine is too many"):
            trainer.train(9, [])
    finally:
        trainer.close()
    assert (tmp_path / "version-1-2").exists()


@dataclass(frozen=True)
class Gated:
    """A trainer that goes on when a file says so."""

    folder: Path

    def train(self, version: int, population: Sequence[Genome]) -> None:
        while not (self.folder / f"go-{version}").exists():
            time.sleep(0.02)
        (self.folder / f"threads-{version}-{torch.get_num_threads()}").touch()

    def close(self) -> None: ...


@pytest.mark.ray
def test_a_trainer_on_the_cluster_works_while_the_driver_goes_on(one_ray: None, tmp_path: Path) -> None:
    trainer = RayTrainer(partial(Gated, tmp_path), threads=1, alone=2)
    (tmp_path / "go-1").touch()
    try:
        trainer.train(1, [(0, 1)])
        finish = trainer.start(2, [(0, 1)])
        (tmp_path / "go-2").touch()  # only a driver that did not wait gets here
        finish()
    finally:
        trainer.close()
    assert {file.name for file in tmp_path.glob("threads-*")} == {"threads-1-2", "threads-2-1"}


def test_a_step_draws_from_the_population_and_brackets_it(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    space, individuals = made.space, population(made)
    for step in range(5):
        plans = SCHEDULE.plans(space, individuals, 0, step)
        assert plans[0] == space.decode(space.anchors()[0]) and len(plans) == 3
        assert {w.kept for w in plans[1].widths} == {4, 2 * 2} and not plans[1].skips
        assert plans[2] in [space.decode(genome) for genome in individuals]
        assert plans == SCHEDULE.plans(space, individuals, 0, step)
    dropping = Schedule(layer_drop=0.5, subnets=30)
    skips = [len(plan.skips) for plan in dropping.plans(space, (space.anchors()[0],), 0, 0)]
    assert skips[:2] == [0, 0] and set(skips[2:]) == {0, 1, 2}
    assert 20 < sum(skips) < 36  # 28 plans of two blocks, each left out half the time


def test_missing_weights_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="version 2 of the shared weights must follow version 1, but got"):
        trainer(tmp_path).train(2, population(trainer(tmp_path)))
    with pytest.raises(ValueError, match="version 2 of the shared weights must be in the run directory when a batch"):
        trainer(tmp_path).train(2, ())
    made = trainer(tmp_path)
    made.train(1, population(made))
    file = tmp_path / "models/weights-000001.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"shared weights must be intact, but got .* in models/weights-000001"):
        made.store.read(1)


SUPERNET = {"warm_up": 1, "epochs": 0.5, "horizon": 4, "batch": 40, "subnets": 3}


def config(**changes: Any) -> Any:
    values = settings(None)
    values["model"]["pretrain"] = {"epochs": 2, "batch": 20}
    values["space"] = {"widths": [0.5, 1.0], "weight_bits": [4, 32], "activation_bits": [], "factors": []}
    values["supernet"] = {**SUPERNET, "private_norms": True}
    values["algorithm"] = {"name": "nsga2", "params": {"population": 4}}
    return validate({**values, **changes})


def test_a_search_on_trained_weights_takes_its_networks_from_them(tmp_path: Path) -> None:
    values = config(evaluation={**settings(None)["evaluation"]})
    picks = values.evaluation.final.model_copy(update={"picks": ["knee"]})
    values = values.model_copy(update={"evaluation": values.evaluation.model_copy(update={"final": picks})})
    result = api.run_config(values, str(tmp_path / "run"))
    assert {e.weights_version for e in result.evaluations} == {1}
    assert len(result.finals) == 1
    knee = result.pick("knee")
    assert (knee.export(tmp_path / "net") / "card.json").is_file()
    folder = Folder.at(str(tmp_path / "run"))
    study = open_subject(values, tmp_path / "run", api.Given(), folder).study
    again = study.evaluator.at(1).evaluate(knee.point.plan, STEP2, 0)
    assert again["top1_error"] == knee.point.measures["top1_error"]
    bare = study.evaluator.evaluate(CompressionPlan(), STEP2, 0)
    assert study.evaluator.at(1).evaluate(CompressionPlan(), STEP2, 0)["cross_entropy"] != bare["cross_entropy"]
    assert load(tmp_path / "run").evaluations == result.evaluations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"factors": ["svd"]}}, r"but got space.factors=\['svd'\]"),
        ({"space": {"factors": [], "criteria": ["l1", "l2"]}}, "but got space.criteria="),
        ({"space": {"factors": [], "channel_codes": True}}, "but got space.channel_codes=True"),
        ({"execution": {"asynchronous": True}}, "shared weights need generations, but got execution.asynchronous=true"),
    ],
)
def test_what_cannot_share_weights_is_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api.check_names(config(**changes))
