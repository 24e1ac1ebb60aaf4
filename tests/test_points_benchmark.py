"""The benchmark of published points on a small network: who is nominated, what is tuned, and that it is tuned once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_run import evo, settings, write_config

from benchmarks import resnet20_points
from benchmarks.resnet20_points import (
    Kept,
    Nominee,
    Recipe,
    again,
    figures,
    low_bits,
    nominees,
    point,
    require_nominees,
)
from evaluators.models.small import digits_cnn
from evo.candidates import STEP2
from evo.result import load
from evo.studies.classifier import build_study
from evo.studies.inputs import Given
from search_spaces.plan import Bits, CompressionPlan


def test_the_best_network_within_the_limit_is_tuned_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_file(digits_cnn(width=8).state_dict(), tmp_path / "weights.safetensors")
    values = settings(tmp_path / "weights.safetensors")
    values["space"]["weight_bits"] = [8]
    config = write_config(tmp_path / "search.yaml", values)
    assert evo(capsys, "search", config, "--run-dir", tmp_path / "run", "--quiet").code == 0
    result = load(tmp_path / "run")
    study = build_study(result.config, tmp_path / "run", Given())
    network = study.trace.network
    within = nominees(result, network, 0.9, 2)
    assert all(nominee.macs <= 0.9 and low_bits(network, nominee.plan) for nominee in within)
    error = {e.candidate.id: e.measures["top1_error"] for e in result.evaluations if e.candidate.step == STEP2}
    everyone = nominees(result, network, 0.9, 99)
    assert [error[n.id] for n in everyone] == sorted(error[n.id] for n in everyone)

    recipe, trial, kept = Recipe(0.5, batch=32, ways=2), Recipe(0.2, batch=32), Kept(tmp_path / "tuned")
    row = point(study, within, 0.9, recipe, trial, kept)
    errors = row["validation_error_of_trials"]
    assert row["candidate_id"] == min(errors, key=lambda name: (errors[name], list(errors).index(name)))
    assert figures([row])["top1_at_0_9"] == row["test_top1"] and row["macs"] <= 0.9
    assert row["test_top1"] * 40 == pytest.approx(round(row["test_top1"] * 40)), "a share of the 40 test images"
    monkeypatch.setattr(resnet20_points, "tuned", None)
    assert point(study, within, 0.9, recipe, trial, kept) == row
    with pytest.raises(
        ValueError, match=r"must have measured a network within macs<=0.001x and 8-bit weights, but got none"
    ):
        require_nominees(result, network, (0.9, 0.001))


def test_a_float_layer_disqualifies(tmp_path: Path) -> None:
    from nets import named

    network = named("digits_cnn").network
    names = [layer.name for layer in network.layers]
    assert low_bits(network, CompressionPlan(bits=tuple(Bits(name, 8) for name in names)))
    assert not low_bits(network, CompressionPlan(bits=tuple(Bits(name, 8) for name in names[1:])))


def test_the_learning_rate_follows_what_is_left() -> None:
    recipe = Recipe(10, lr=0.02, lr_small=0.1)
    assert [recipe.budget(share).lr for share in (1.0, 0.5, 0.0)] == pytest.approx([0.02, 0.06, 0.1])


def test_the_networks_of_an_earlier_result_are_tuned_without_their_search() -> None:
    plan = CompressionPlan(bits=(Bits("conv1", 8),))
    rows = {0.5: {"candidate_id": "0003-0001", "macs": 0.45, "plan": json.loads(plan.to_json())}, 0.2: {}}
    assert again(rows, 0.5) == Nominee("0003-0001", plan, 0.45)
    with pytest.raises(ValueError, match=r"must be among those of --plans, \[0.5, 0.2\], but got 0.3"):
        again(rows, 0.3)
