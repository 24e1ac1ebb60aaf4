"""Step 1 beyond a tuned network: its scores by real forward passes of that network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_succession import layer_by_layer
from torch import nn

from evo import api
from evo.candidates import STEP2, Predecessor, Scorer
from evo.config.schema import validate
from evo.studies.classifier import Study, build_study
from evo.studies.inputs import Given
from evo.studies.tuned_tables import TunedTables
from search_spaces.genes import MaskGene
from search_spaces.genome import Genome
from search_spaces.space import CompressionSpace

SEED, IMAGES = 1, 48
STEM = {"stem": (1, 4)}
INNER = {"block1.conv1": (2, 5, 6)}
LAST = {"block2.conv1": (0, 3, 7, 9)}


@cache
def study(form: str = "reconstruction") -> Study:
    values = layer_by_layer()
    values["evaluation"]["step1"] = {"images": IMAGES, "codes": form}
    return build_study(validate(values), None, Given())


def without(space: CompressionSpace, *dropped: Mapping[str, Sequence[int]]) -> Genome:
    """All channels but these."""
    gone = {(group, unit) for part in dropped for group, units in part.items() for unit in units}
    return tuple(int((g.group, g.unit) not in gone) for g in space.genes if isinstance(g, MaskGene))


def line(*dropped: Mapping[str, Sequence[int]]) -> tuple[Predecessor, ...]:
    """Networks that lose one group after the other."""
    space = study().space
    codes = [without(space, *dropped[: n + 1]) for n in range(len(dropped))]
    return tuple(Predecessor(space.decode(code), STEP2, SEED) for code in codes)


def tuned(lineage: Sequence[Predecessor]) -> nn.Module:
    *older, last = lineage
    return study().evaluator.after(older).realise(last.plan, last.step, last.seed)


def output_error(network: nn.Module, layer: str, units: Sequence[int]) -> float:
    """Squared error of a layer's outputs without these input channels, relative to the squared outputs; the layer has no bias."""
    module, seen = network.get_submodule(layer), list[torch.Tensor]()
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double()))
    (images,) = study().splits.calibration_batches(IMAGES, 128, torch.device("cpu"))
    network(images)
    handle.remove()
    exact = copy.deepcopy(module).double().requires_grad_(False)
    lost = torch.zeros_like(seen[0])
    lost[:, list(units)] = seen[0][:, list(units)]
    return float(exact(lost).square().sum() / exact(seen[0]).square().sum())


def loss(tables: Scorer, *dropped: Mapping[str, Sequence[int]]) -> float:
    codes = np.array([without(study().space, *dropped)])
    return float(tables.score(codes)["predicted_loss_increase"][0])


@pytest.mark.parametrize(
    ("before", "then", "readers"),
    [((STEM, LAST), INNER, ["block1.conv2"]), ((INNER, LAST), STEM, ["block1.conv1", "down"])],
)
def test_a_code_costs_what_the_tuned_networks_layer_loses(
    before: tuple[Mapping[str, Sequence[int]], ...], then: Mapping[str, Sequence[int]], readers: Sequence[str]
) -> None:
    """Hu et al. 2018: the squared error of the outputs of the layers that read the channels, in the network as it was tuned."""
    lineage = line(*before)
    tables = TunedTables(study()).after(lineage)
    (units,) = then.values()
    measured = sum(output_error(tuned(lineage), layer, units) for layer in readers)
    assert loss(tables, *before, then) == pytest.approx(measured, rel=1e-5)
    assert loss(study().tables, then) != pytest.approx(measured, rel=1e-2), "of the uncompressed network"
    assert loss(study().tables, then) == pytest.approx(
        sum(output_error(study().teacher, layer, units) for layer in readers), rel=1e-5
    )


@pytest.mark.parametrize("form", ["reconstruction", "fisher"])
def test_channels_that_are_gone_cost_nothing(form: str) -> None:
    tables, first = TunedTables(study(form)).after(line(STEM, INNER)), study(form).tables
    assert loss(tables, STEM, INNER) == pytest.approx(0, abs=1e-12) and loss(first, STEM, INNER) > 1e-6
    assert loss(tables, STEM, INNER, LAST) == pytest.approx(loss(tables, LAST), rel=1e-5)
    assert loss(tables, LAST) != pytest.approx(loss(first, LAST), rel=1e-2)


def test_weights_that_are_not_found_are_made_again_and_somebody_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    kept = replace(study(), evaluator=replace(study().evaluator, artifacts=tmp_path, _newest={}))
    lineage = line(STEM)
    found = loss(TunedTables(kept, told.append).after(lineage), STEM, INNER)
    assert len(told) == 1 and "tuned again here" in told[0] and len(list(tmp_path.iterdir())) == 1
    assert loss(TunedTables(kept, told.append).after(lineage), STEM, INNER) == found and len(told) == 1


def test_only_channels_may_be_lost_on_the_way(tmp_path: Path) -> None:
    values = layer_by_layer()
    values["space"]["skip_blocks"] = True
    with pytest.raises(
        ValueError, match=r"channel codes alone, but got the gene skip:block1; .*tuned_statistics=false"
    ):
        api.run_config(validate(values), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
