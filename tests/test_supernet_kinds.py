"""What every kind of shared weights keeps, driven by the table: a new entry is held to it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from nets import Known, named
from small_run import settings

from evaluators.compose import recalibrate
from evaluators.count import parameters
from evaluators.supernets.protocol import Supernet
from evo.config.schema import Config, validate
from evo.registry import SUPERNETS
from evo.studies.supernets import supernet_of
from search_spaces.costs import costs
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan, Factor, Skip, Width
from search_spaces.space import CompressionSpace

every_kind = pytest.mark.parametrize("kind", SUPERNETS)
OPTIONS = {"widths": (0.25, 0.5, 1.0), "multiple": 2, "criteria": ("l1",), "weight_bits": (), "activation_bits": ()}


def config(kind: str) -> Config:
    values: dict[str, Any] = settings(None)
    values["space"] = {
        **{key: value if isinstance(value, int) else list(value) for key, value in OPTIONS.items()},
        "factors": [],
    }
    return validate({**values, "supernet": {"kind": kind, "hidden": 4, "in_place_distillation": False}})


def space(known: Known) -> CompressionSpace:
    return build_space(known.network, SpaceOptions(**OPTIONS, factors=()))  # type: ignore[arg-type]


def made(kind: str, known: Known) -> Supernet[CompressionPlan]:
    return supernet_of(config(kind), copy.deepcopy(known.model), known.trace, known.ranking, space(known))


def plans(known: Known, count: int, seed: int = 0) -> list[CompressionPlan]:
    rng = np.random.default_rng(seed)
    return [space(known).decode(space(known).sample(rng)) for _ in range(count)]


def batch(known: Known, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, *known.example.shape[1:], generator=generator), torch.randint(
        0, 10, (8,), generator=generator
    )


@every_kind
def test_an_extracted_network_is_as_small_as_its_plan_says_and_computes_what_the_view_does(kind: str) -> None:
    known = named("digits_cnn")
    net, (images, labels) = made(kind, known), batch(known)
    net.train_step(plans(known, 1), images, labels, 0.1)
    shared = {tensor.untyped_storage().data_ptr() for tensor in net.state().values()}
    for plan in (*plans(known, 4), CompressionPlan()):
        pair = net.view(plan), net.extract(plan)
        assert parameters(pair[1]) == costs(known.network, of_plan(known.network, plan))["params"][0]
        assert not shared & {p.untyped_storage().data_ptr() for p in pair[1].parameters()}
        for module in pair:
            recalibrate(module, [images], ranges=False)
        with torch.no_grad():
            torch.testing.assert_close(pair[0](images), pair[1](images), rtol=1e-5, atol=1e-5)


@every_kind
def test_a_state_put_back_trains_on_equally(kind: str) -> None:
    known = named("digits_cnn")
    first, second = made(kind, known), made(kind, known)
    steps = [(plans(known, 2, seed), batch(known, seed)) for seed in range(4)]
    for wanted, (images, labels) in steps[:2]:
        first.train_step(wanted, images, labels, 0.05)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for net in (first, second):
        for wanted, (images, labels) in steps[2:]:
            net.train_step(wanted, images, labels, 0.05)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


@every_kind
def test_blocks_that_no_plan_of_a_step_has_keep_every_bit(kind: str) -> None:
    known = named("digits_cnn")
    net, (images, labels) = made(kind, known), batch(known)
    net.train_step([CompressionPlan()], images, labels, 0.1)  # so that there is momentum to be carried on
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    net.train_step([CompressionPlan(skips=(Skip("block1"),))], images, labels, 0.1)
    changed = {name for name, tensor in net.state().items() if not torch.equal(tensor, before[name])}
    assert any("down" in name for name in changed) and not any("block1" in name for name in changed)


@every_kind
def test_what_shared_weights_cannot_serve_is_refused(kind: str) -> None:
    known = named("digits_cnn")
    net = made(kind, known)
    with pytest.raises(ValueError, match="must consist of widths, skips, bits, but got factors"):
        net.extract(CompressionPlan(factors=(Factor("down", "svd", (4,)),)))
    with pytest.raises(ValueError, match=r"a plan must name a channel group of the network, but got .nowhere."):
        net.view(CompressionPlan((Width("nowhere", 4),)))
