"""The step-1 benchmark on a small network: its figures are those of what it measured."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import step1
from benchmarks.step1 import (
    JOINT,
    agreement,
    errors,
    evenly,
    final_figures,
    named_figures,
    prepare,
    random_genomes,
    ranking_figures,
)
from evaluators.compose import recalibrate
from evaluators.data import ImageData, Images, split
from evaluators.models.cifar_resnet import resnet8


@cache
def bench():
    """An untrained network on noise that it labels itself, so that errors are what compression changes."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 3, 32, 32), generator=rng, dtype=torch.uint8)
    torch.manual_seed(0)
    model = resnet8().eval()
    recalibrate(model, [(images[:250] / 255 - 0.5) / 0.25], ranges=False)
    with torch.no_grad():
        logits = model((images / 255 - 0.5) / 0.25)
        model.linear.bias -= logits.mean(0)
        labels = (logits - logits.mean(0)).argmax(1)
    data = ImageData(Images(images[:250], labels[:250]), Images(images[250:], labels[250:]), (0.5,) * 3, (0.25,) * 3)
    return prepare(model, split(data, 40, 0), final_epochs=0.5)


def test_a_ranking_is_measured_once_and_told_with_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    kept = tmp_path / "kept.json"
    figures = ranking_figures(made, JOINT, 6, kept, "_small")
    tau = figures["tau_step1_step2_small"]
    assert figures["tau_step1_step2_small_low"] <= tau <= figures["tau_step1_step2_small_high"]
    assert figures["tau_step1_step2_small_genomes"] == 6
    monkeypatch.setattr(type(made.evaluator), "evaluate", None)
    assert ranking_figures(made, JOINT, 6, kept, "_small") == pytest.approx(figures, nan_ok=True)
    space = made.tables(JOINT).space
    genomes = random_genomes(space, 6)
    assert len(set(errors(made, space, genomes, kept).tolist())) > 1


def test_useful_genomes_are_tuned_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step1, "USEFUL", 1.01)
    made = bench()
    found = final_figures(made, JOINT, 12, 3, 0.5, tmp_path)
    tuned = json.loads((tmp_path / "resnet20_final_0.5.json").read_text())
    assert found["tau_step2_final_genomes"] == len(tuned) == 3 and found["tau_step2_final_epochs"] == 0.5
    assert all(error * 50 == pytest.approx(round(error * 50)) for error in tuned.values()), "of the 50 test images"
    monkeypatch.setattr(type(made.evaluator), "evaluate", None)
    assert final_figures(made, JOINT, 12, 3, 0.5, tmp_path) == pytest.approx(found, nan_ok=True)


def test_useful_genomes_are_taken_evenly() -> None:
    error = np.array([0.9, 0.05, 0.25, 0.1, 0.15, 0.2, 0.31])
    assert evenly(error, 3).tolist() == [1, 4, 2]
    assert evenly(error, 99).tolist() == [1, 3, 4, 5, 2]


def test_only_useful_genomes_count_for_the_top() -> None:
    error = np.array([0.1, 0.2, 0.25, 0.15, 0.22, 0.9, 0.8])
    figures = named_figures("", agreement(-error, error))
    assert (figures["tau_step1_step2"], figures["tau_step1_step2_top"]) == (-1.0, -1.0)
    assert (figures["tau_step1_step2_genomes"], figures["tau_step1_step2_top_genomes"]) == (7, 5)
