"""Networks of cell spaces: sizes as published, and the laws of shared weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from statistics_of import assert_statistics_are_of
from torch import Tensor

from evaluators.compose import recalibrate
from evaluators.compression import StepOptions
from evaluators.count import parameters
from evaluators.data import limited, split
from evaluators.datasets import digits
from evaluators.supernets.cell_evaluator import CellEvaluator
from evaluators.supernets.cell_networks import DartsNetwork, Macro, NasBench201Network, chosen
from evaluators.supernets.cells import CPU, CellSupernet
from evaluators.supernets.weights import Kept, SharedWeights, WeightStore
from evo import api
from evo.candidates import STEP2
from evo.config.schema import Config, validate
from evo.config.schema import load as load_config
from evo.storage.folder import Folder
from evo.studies.report import report_html
from search_spaces.cells import DartsSpace, NasBench201Space, darts_space, nasbench201_space
from search_spaces.plan import CompressionPlan, Edge

# (operation, source) in pairs per node: the cells that DARTS published as its second-order result
DARTS_V2 = (
    "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 1 skip_connect 0 skip_connect 0 dil_conv_3x3 2",
    "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 max_pool_3x3 0 skip_connect 2 skip_connect 2 max_pool_3x3 1",
)
SMALL = Macro(channels=4, cells=3)
KINDS = {"darts": (DartsNetwork, darts_space()), "nasbench201": (NasBench201Network, nasbench201_space())}
Kind = tuple[type[DartsNetwork | NasBench201Network], DartsSpace | NasBench201Space]
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def plans(kind: Kind, count: int, seed: int = 0) -> list[CompressionPlan]:
    rng = np.random.default_rng(seed)
    return [kind[1].decode(kind[1].sample(rng)) for _ in range(count)]


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.randint(10, (4,), generator=generator)


def supernet(kind: Kind) -> CellSupernet:
    torch.manual_seed(0)
    return CellSupernet(kind[0], SMALL)


def test_the_published_darts_network_has_its_published_size() -> None:
    edges = []
    for cell, text in enumerate(DARTS_V2):
        words = text.split()
        pairs = zip(words[::2], words[1::2], strict=True)
        edges += [Edge(cell, at // 2, int(source), operation) for at, (operation, source) in enumerate(pairs)]
    with torch.device("meta"):
        network = DartsNetwork(chosen(CompressionPlan(edges=tuple(edges))), Macro(36, 20, affine=True))
    assert parameters(network) == 3_349_342


@pytest.mark.parametrize(("operation", "size"), [("nor_conv_3x3", 1_531_546), ("skip_connect", 73_306)])
def test_networks_of_nasbench201_have_their_published_sizes(operation: str, size: int) -> None:
    edges = [[(i, operation) for i in range(node)] for node in (1, 2, 3)]
    with torch.device("meta"):
        assert parameters(NasBench201Network([edges], Macro(16, 5, affine=True))) == size


@every_kind
def test_a_view_shares_storage_and_an_extracted_network_computes_the_same(kind: Kind) -> None:
    made, (images, labels) = supernet(kind), batch()
    made.train_step(plans(kind, 2), images, labels, 0.1)
    owned = {p.untyped_storage().data_ptr() for p in made.network.parameters()}
    for plan in plans(kind, 3, 1):
        view, alone = made.view(plan), made.extract(plan)
        assert all(p.untyped_storage().data_ptr() in owned for p in view.parameters())
        assert not owned & {p.untyped_storage().data_ptr() for p in alone.parameters()}
        for module in (view, alone):
            recalibrate(module, [images], ranges=False)
        with torch.no_grad():
            torch.testing.assert_close(view(images), alone(images), rtol=1e-6, atol=1e-6)


@every_kind
def test_operations_that_no_plan_uses_keep_every_bit(kind: Kind) -> None:
    made, (images, labels) = supernet(kind), batch()
    for seed in range(2):  # some momentum to be carried on
        made.train_step(plans(kind, 4, seed), images, labels, 0.1)
    before = {name: tensor.clone() for name, tensor in made.state().items()}
    wanted = plans(kind, 1, 9)
    active = made.active(wanted)
    made.train_step(wanted, images, labels, 0.1)
    moved = {name.partition(":")[2] for name, tensor in made.state().items() if not torch.equal(tensor, before[name])}
    assert moved <= active.keys() and 0.5 * len(active) < len(moved) < 0.7 * len(before) / 2
    assert all(name in active for name in moved)


@every_kind
def test_a_state_put_back_trains_on_equally(kind: Kind) -> None:
    first, second, (images, labels) = supernet(kind), supernet(kind), batch()
    first.train_step(plans(kind, 1), images, labels, 0.1)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for made in (first, second):
        made.train_step(plans(kind, 1, 5), images, labels, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


@every_kind
def test_batch_norms_are_recalibrated_before_every_measurement(kind: Kind, tmp_path: Path) -> None:
    splits, macro = split(limited(digits(), 100, 20), 20, 0), Macro(channels=4, cells=1, inputs=1)
    made, other = CellSupernet(kind[0], macro), CellSupernet(kind[0], macro)
    shown = splits.training_batch(16, 0, 0, CPU)
    made.train_step(plans(kind, 2), shown.images, shown.labels, 0.1)
    store = WeightStore(Folder.at(str(tmp_path)))
    store.write(1, Kept(made.state()), finished=True)
    options = {STEP2: StepOptions(recalibration=40, validation=20)}
    evaluator = CellEvaluator(kind[0], macro, splits, options, CPU, SharedWeights(other, store), version=1)
    (images,) = splits.calibration_batches(40, 128, CPU)
    for plan in plans(kind, 2, 3):
        assert_statistics_are_of(evaluator.realise(plan, STEP2, 0), images)


def config(name: str, **changes: object) -> Config:
    values = {
        "model": {"factory": "cells"},
        "cells": {"space": name, "channels": 4, "cells": 1, "final_channels": 4, "final_cells": 1},
        "data": {"factory": "digits", "validation": 60, "train_limit": 200, "test_limit": 40},
        "objectives": [{"measure": "top1_error"}, {"measure": "params"}],
        "supernet": {
            "warm_up": 0.5,
            "epochs": 0.5,
            "horizon": 3,
            "batch": 40,
            "subnets": 1,
            "sandwich": False,
            "in_place_distillation": False,
        },
        "algorithm": {"name": "cars", "params": {"population": 3}},
        "evaluation": {"step2": {"recalibration": 32, "validation": 60}, "final": {"tune": {"epochs": 0.2}}},
        "execution": {"backend": "local"},
        "budget": {"generations": 2},
        "tracking": {"tracker": "none"},
    }
    return validate({**values, **changes})


def test_cells_of_darts_are_searched_on_shared_weights(tmp_path: Path) -> None:
    result = api.run_config(config("darts", budget={"generations": 1}), str(tmp_path / "run"))
    assert [e.weights_version for e in result.evaluations] == [1] * 3 and all(e.completed for e in result.evaluations)


def test_cells_are_searched_resumed_trained_and_exported(tmp_path: Path, name: str = "nasbench201") -> None:
    longer = api.run_config(config(name), str(tmp_path / "run"))
    assert [e.weights_version for e in longer.evaluations] == [1] * 3 + [2] * 6
    shorter = api.run_config(config(name, budget={"generations": 1}), str(tmp_path / "again"))
    assert len(shorter.evaluations) == 3
    result = api.resume(tmp_path / "again", ["budget.generations=2", "evaluation.final.picks=[knee]"])
    searched = [e for e in result.evaluations if e.candidate.step == "step2"]
    assert [dict(e.measures) for e in searched] == [dict(e.measures) for e in longer.evaluations]
    (final,) = result.finals.values()
    knee = result.pick("knee")
    assert 0 <= final["test_top1_error"] <= 1 and "cells of" in knee.point.summary
    assert final["params"] >= knee.point.measures["params"]  # with scales and shifts
    assert (knee.export(tmp_path / "net", "torch-export") / "model.pt2").is_file()

    assert "Configuration" in report_html(result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supernet": None}, "a search of cells needs shared weights, but got no section supernet"),
        ({"supernet": {"subnets": 4}}, "but got supernet.sandwich=True"),
        ({"model": {"factory": "digits_cnn"}}, "but got model.factory='digits_cnn'"),
        ({"objectives": [{"measure": "bops"}, {"measure": "params"}]}, "objectives.0.measure must be one of"),
    ],
)
def test_what_cells_cannot_have_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api.check_names(config("darts", **changes))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_configurations_are_in_order(name: str, data: str) -> None:
    api.check_names(load_config(Path(__file__).parents[1] / "configs" / f"cars_{name}_{data}.yaml"))
