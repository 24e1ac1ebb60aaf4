"""Every configuration that comes with the project names things that exist, and its algorithm can be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo.config.schema import load
from evo.studies.classifier import check_names

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
METHODS = ("genetic_channel_coding", "tec", "mixed_precision", "joint")


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
