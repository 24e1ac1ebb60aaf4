"""Every entry of the registries that a plan or configuration may name keeps its contract; the tables find new entries."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.data import ImageData, split
from evaluators.datasets import digits
from evaluators.describe import trace
from evaluators.models.small import digits_cnn
from evaluators.saliency import Site
from evaluators.statistics import collect
from evo.registry import CALIBRATIONS, CRITERIA, DATASETS, FACTORISATIONS, MODELS, TABLES, TRACKERS, resolve
from evo.selection.calibration import BEST, Isotonic
from search_spaces.decompositions import METHODS, RANKS

LAYERS = ["stem", "block1.conv1", "block1.conv2", "down", "block2.conv1", "block2.conv2", "head"]


@cache
def network() -> Site:
    torch.manual_seed(0)
    model = digits_cnn().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return site(model)


def site(model: nn.Module) -> Site:
    """The channels that `down` makes, 48 of them."""
    data = split(digits(), 400, 0)
    images = data.prepare(data.train.images[:64], torch.device("cpu"))
    traced = trace(model, images[:1])
    groups = [group.name for group in traced.network.groups]
    return Site(traced, model, collect(model, LAYERS, images, seed=1), groups.index("down"))


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_every_output_channel_and_leaves_no_trace(name: str) -> None:
    model, criterion = network().model, resolve(CRITERIA, name)
    before = copy.deepcopy(model.state_dict())
    scores = criterion(network())
    assert scores.shape == (48,)
    assert bool(torch.isfinite(scores).all())
    assert len(torch.unique(scores)) > 24, "a criterion that ties most channels ranks nothing"
    assert torch.equal(scores, criterion(network()))
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# To FPGM a filter is dull when others can stand in for it, which nothing says of a dead one.
@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"random", "fpgm"}))
def test_a_criterion_ranks_a_dead_channel_last(name: str) -> None:
    dead = copy.deepcopy(network().model)
    with torch.no_grad():
        for part in ("down", "block2.conv2"):  # both make these channels
            dead.get_submodule(part).weight[5] = 0  # type: ignore[index, operator]
        for norm in (dead.get_submodule("bn_down"), dead.get_submodule("block2.bn2")):
            norm.weight[5] = norm.bias[5] = 0  # type: ignore[index, operator]
    assert resolve(CRITERIA, name)(site(dead)).argmin() == 5


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_a_factorisation_is_known_to_costs_and_keeps_shapes(name: str) -> None:
    assert name in METHODS
    torch.manual_seed(0)
    of_linear = name.startswith("tt")
    layer = nn.Linear(12, 8) if of_linear else nn.Conv2d(8, 12, 3, stride=2, padding=1)
    x = torch.randn(2, 5, 12) if of_linear else torch.randn(2, 8, 9, 9)
    assert resolve(FACTORISATIONS, name)(layer, (4, 5)[: RANKS[name]])(x).shape == layer(x).shape


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_logits(name: str) -> None:
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    model = resolve(MODELS, name)(classes=7).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_a_data_set_that_is_not_there_is_one_sentence(name: str, tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"must (name|hold) .*but got .*; ") as error:
        resolve(DATASETS, name)(root=f"{tmp_path}/nowhere")
    assert "\n" not in str(error.value)


def test_digits_are_image_data_of_ten_classes() -> None:
    data = resolve(DATASETS, "digits")()
    assert isinstance(data, ImageData)
    assert sorted(torch.unique(data.test.labels).tolist()) == list(range(10))
    assert data.train.images.dtype == torch.uint8


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_rises_with_the_surrogate_and_stays_within_what_was_seen(name: str) -> None:
    rng = np.random.default_rng(0)
    surrogate = rng.random(40)
    value = surrogate**2 + 0.05 * rng.standard_normal(40)
    codes = rng.integers(0, 4, (40, 6))
    query = np.linspace(-0.5, 1.5, 30)
    calibration = resolve(CALIBRATIONS, name)()
    nodes = calibration(codes, surrogate, value, rng.integers(0, 4, (30, 6)), query)
    assert nodes.shape == (30, 3) and (np.diff(nodes, axis=1) >= 0).all()
    estimate = nodes[:, BEST]
    assert value.min() - 1e-9 <= estimate.min() and estimate.max() <= value.max() + 1e-9
    if isinstance(calibration, Isotonic):
        assert (np.diff(estimate) >= -1e-12).all()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_a_run_to_continue(name: str) -> None:
    assert resolve(TRACKERS, name)().run_id == ""


@pytest.mark.parametrize("table", sorted(set(TABLES) - {"measures"}))
def test_every_name_of_every_table_can_be_resolved(table: str) -> None:
    for name in TABLES[table]:
        assert callable(resolve(table, name))
