"""A user's own generators and discriminators: named in the configuration, trained, searched, tuned and exported."""

from __future__ import annotations

from pathlib import Path

from test_ccg_search import settings
from user_gan import Generator

from evaluators.count import parameters
from evaluators.gan.networks import DIRECTIONS
from evo import api
from evo.config.schema import validate


def test_generators_of_a_user_are_searched_and_exported(tmp_path: Path) -> None:
    """With batch normalisation and a concatenation, and judges that give one score per image."""
    values = settings(tmp_path)
    values["model"] = {"factory": "user_gan:generator", "kwargs": {"width": 6}}
    values["gan"]["discriminator"] = {"factory": "user_gan:judge"}
    values["space"] = {**values["space"], "shared_codes": [], "weight_bits": [], "compensate": True}
    values["objectives"] = [{"measure": m} for m in ("discriminator_distance", "cycle_l1", "params")]
    values["evaluation"] = {"step2": {"validation": 8, "tune": {"epochs": 0.2}}}
    result = api.run_config(validate(values), str(tmp_path / "run"))
    assert all(e.completed for e in result.evaluations)
    assert {e.candidate.role for e in result.evaluations} == set(DIRECTIONS)
    smallest = min(result.front, key=lambda point: point.measures["params"])
    assert smallest.measures["params"] < result.baseline["params"] == 2 * parameters(Generator(6))
    result.pick(smallest.candidate_id).export(tmp_path / "out")
    assert all((tmp_path / "out" / direction / "card.json").is_file() for direction in DIRECTIONS)
