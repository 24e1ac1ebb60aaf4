"""Every configuration that comes with the project names things that exist, and the quick ones of methods run to their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo import api
from evo.candidates import FINAL, STEP2
from evo.config.schema import load
from evo.studies.classifier import check_names

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
METHODS = ("genetic_channel_coding", "tec", "mixed_precision", "joint")
TINY = {
    "model.pretrain.epochs": 1,
    "data.validation": 60,
    "data.train_limit": 200,
    "data.test_limit": 40,
    "evaluation.step1.images": 16,
    "evaluation.step2.recalibration": 32,
    "evaluation.step2.validation": 60,
    "evaluation.step2.tune.epochs": 0.1,
    "evaluation.final.recalibration": 32,
    "evaluation.final.tune.epochs": 0.1,
    "evaluation.final.picks": "[knee]",
    "budget.generations": 2,
}
TWO_STEP = {"algorithm.params.promote": 3, "algorithm.params.cheap_rounds": 1, "algorithm.inner.params.population": 6}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_complete_and_says_how_to_run_it(path: Path) -> None:
    config = load(path)
    check_names(config)
    assert config.name.replace("-", "_") == path.stem
    assert f"evo search configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_a_quick_and_a_real_configuration(method: str) -> None:
    names = {path.stem for path in CONFIGS}
    assert {f"{method}_digits", f"{method}_resnet20_cifar10"} <= names


@pytest.mark.parametrize(
    ("method", "small", "decides"),
    [
        ("genetic_channel_coding", {"algorithm.params.population": 4, "algorithm.params.generations": 1}, {"masks"}),
        ("tec", {"algorithm.params.population": 4}, {"masks"}),
        ("channel_codes", TWO_STEP, {"masks"}),
        ("mixed_precision", TWO_STEP, {"bits"}),
        ("joint", TWO_STEP, {"widths", "bits"}),
    ],
)
def test_a_method_runs_to_its_end(method: str, small: dict[str, int], decides: set[str], tmp_path: Path) -> None:
    """In the small, but for nothing left out: from a trained network to a pick that was finished and exported."""
    path = Path(__file__).parents[1] / "configs" / f"{method}_digits.yaml"
    config = load(path, [f"{key}={value}" for key, value in {**TINY, **small}.items()])
    result = api.run_config(config, str(tmp_path / "run"))
    assert result.front and len(result.finals) == 1
    assert all(e.completed for e in result.evaluations)
    measured = {e.candidate.step for e in result.evaluations}
    assert measured >= {STEP2, FINAL}
    found = {
        name for point in result.front for name in ("widths", "masks", "bits", "factors") if getattr(point.plan, name)
    }
    assert decides <= found and (len(decides) > 1 or decides == found)
    (name,) = result.finals
    assert result.pick(name).export(tmp_path / "out", "pytorch").is_dir()
