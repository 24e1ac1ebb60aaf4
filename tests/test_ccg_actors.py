"""A user's own generators and discriminators, searched on Ray actors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_ccg_search import settings
from toy import rows
from user_gan import Generator

from evaluators.count import parameters
from evaluators.gan.networks import DIRECTIONS
from evo import api
from evo.config.schema import validate


def own(folder: Path, **changes: Any) -> dict[str, Any]:
    values = settings(folder, **changes)
    values["model"] = {"factory": "user_gan:generator", "kwargs": {"width": 6}}
    values["gan"]["discriminator"] = {"factory": "user_gan:judge"}
    values["space"] = {**values["space"], "shared_codes": [], "weight_bits": [], "compensate": True}
    values["objectives"] = [{"measure": m} for m in ("discriminator_distance", "cycle_l1", "params")]
    values["evaluation"] = {"step2": {"validation": 8, "tune": {"epochs": 0.2}}}
    return values


@pytest.mark.ray
def test_generators_of_a_user_are_searched_on_actors_as_in_this_process(one_ray: None, tmp_path: Path) -> None:
    here = api.run_config(validate(own(tmp_path)), str(tmp_path / "here"))
    there = api.run_config(validate(own(tmp_path, execution={"backend": "ray", "workers": 2})), str(tmp_path / "there"))
    assert all(e.completed for e in there.evaluations) and rows(there.evaluations) == rows(here.evaluations)
    assert {e.candidate.role for e in there.evaluations} == {"a_to_b", "b_to_a"}
    assert any(e.worker.startswith("ray-") for e in there.evaluations)  # others are remembered
    smallest = min(there.front, key=lambda point: point.measures["params"])
    assert smallest.measures["params"] < there.baseline["params"] == 2 * parameters(Generator(6))
    there.pick(smallest.candidate_id).export(tmp_path / "out")
    assert all((tmp_path / "out" / direction / "card.json").is_file() for direction in DIRECTIONS)
