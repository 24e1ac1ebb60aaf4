"""Methods with a state of their own find on Ray actors what they find in one process: other weights, and their predecessors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_pruning_net import config as metapruning
from test_succession import layer_by_layer
from test_tas import config as tas
from toy import rows

from evo import api
from evo.config.schema import Config, validate


def chained() -> Config:
    return validate({**layer_by_layer(), "budget": {"generations": 3}})


def two_actors(config: Config) -> Config:
    return config.model_copy(update={"execution": config.execution.model_copy(update={"backend": "ray", "workers": 2})})


@pytest.mark.ray
@pytest.mark.parametrize("made", [tas, metapruning, chained])
def test_a_search_on_actors_is_that_of_one_process(made: Callable[[], Config], one_ray: None, tmp_path: Path) -> None:
    config = made()
    here = api.run_config(config, str(tmp_path / "here"))
    there = api.run_config(two_actors(config), str(tmp_path / "there"))
    assert all(e.completed for e in there.evaluations) and rows(there.evaluations) == rows(here.evaluations)
    assert any(e.worker.startswith("ray-") for e in there.evaluations)
    assert there.finals == here.finals
