"""Property tests look at the same examples on every machine, however slow it is; one small finished search for all to read."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


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
