"""Property tests look at the same examples on every machine, however slow it is; one small finished search for all to read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """One private Ray for all that use it, started as a search would start it."""
    from cluster.ray_session import connect

    token = Path.home() / ".ray" / "auth_token"
    before = token.exists()
    with pytest.MonkeyPatch.context() as patch:  # GPUs and others that are only said to be there
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"GPU": 1, "small": 4}))
        ray, started = connect(None, cpus=4)
    yield
    assert started
    assert token.exists() == before, "a private cluster leaves no token behind"
    ray.shutdown()


@pytest.fixture(scope="session")
def small_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a search like those of test_cli, with one pick finished at the last step; not to be written to."""
    from small_run import settings as small_settings

    from evo import api
    from evo.config.schema import validate

    run = tmp_path_factory.mktemp("small") / "run"
    values = small_settings(None)
    values["model"]["pretrain"] = {"epochs": 2, "batch": 20}
    values["space"] |= {"factors": ["svd"], "factor_shares": [0.5], "keep": ["head"]}
    values["evaluation"]["final"]["picks"] = ["knee"]
    api.run_config(validate(values), str(run))
    return run
