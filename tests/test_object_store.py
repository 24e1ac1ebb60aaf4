"""A run directory on s3://, against a real server of that protocol on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs
from small_run import evo, settings, write_config
from toy import INFO, begin, rows, search

from evo.config.checks import check
from evo.config.schema import validate
from evo.storage.folder import Folder
from evo.storage.lease import Lease, claims
from evo.storage.run_directory import RunDirectory


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server_of = pytest.importorskip("moto.server")
    server = server_of.ThreadedMotoServer(port=0, ip_address="127.0.0.1", verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ACCESS_KEY_ID", "test"),
            ("SECRET_ACCESS_KEY", "testing"),
            ("EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(f"AWS_{name}", value)
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        store, _ = fs.FileSystem.from_uri(f"s3://runs?{options}&allow_bucket_creation=true")
        store.create_dir("runs")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"s3://runs/{{name}}?{options}"
    server.stop()


def test_a_search_on_an_object_store_is_the_same_and_can_be_continued(bucket: str, tmp_path: Path) -> None:
    run = RunDirectory.create(bucket.format(name="one"), "toy: true\n", INFO)
    assert run.local is None
    first = rows(search(run, generations=2))
    again = RunDirectory.open(run.uri)
    whole = rows(search(begin(tmp_path / "local"), generations=4))
    assert rows(search(again, generations=4)) == whole and whole[: len(first)] == first
    assert rows(RunDirectory.open(run.uri).evaluations()) == whole
    assert again.journal(again.latest()) == (), "small files are merged into one per round"


def test_damage_on_an_object_store_is_found(bucket: str) -> None:
    run = RunDirectory.create(bucket.format(name="two"), "toy: true\n", INFO)
    search(run, generations=2)
    run.folder.write("state-000002.parquet", b"half of i")
    with pytest.warns(RuntimeWarning, match="falling back to the commit of round 1"):
        assert RunDirectory.open(run.uri).latest().rounds == 1


def test_one_driver_at_a_time_on_an_object_store(bucket: str) -> None:
    uri = bucket.format(name="three")
    with Lease(Folder.at(uri), uri) as first:
        first.require()
        with pytest.raises(ValueError, match="one driver at a time"):
            Lease(Folder.at(uri), uri).__enter__()
        stolen = replace(first.claim, owner="thief", term=9)
        first.folder.write(stolen.name, stolen.to_json())
        first._beat()
        assert first._lost
    assert [c.owner for c in claims(Folder.at(uri))] == ["thief"]


def test_the_commands_take_a_run_directory_on_an_object_store(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = write_config(tmp_path / "search.yaml", settings(None)), bucket.format(name="four")
    assert evo(capsys, "search", config, "--run-dir", run, "--set", "budget.generations=1").code == 0
    assert evo(capsys, "resume", run, "--set", "budget.generations=2").code == 0
    assert "candidate_id" in evo(capsys, "front", run, "--json").out
    answer = evo(capsys, "verify", run)
    assert answer.code == 0, answer.err
    assert evo(capsys, "export", run, "--pick", "knee", "--out", tmp_path / "exported").code == 0


def test_credentials_in_an_address_are_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="must not hold credentials") as refused:
        Folder.at("s3://AKIA123:hunter2@runs/mine")
    assert "hunter2" not in str(refused.value) and "AKIA123" not in str(refused.value)
    with pytest.raises(ValueError, match="must not hold credentials") as refused:
        Folder.at("s3://runs/mine?secret_key=hunter2")
    assert "hunter2" not in str(refused.value)
    names = ["top1_error", "macs"]
    for uri in ("postgresql://me:hunter2@host/mlflow", "http://hunter2@host", "mysql://host/mlflow?password=hunter2"):
        with pytest.raises(ValueError, match=r"tracking\.uri must not hold a password or token") as refused:
            check(validate({**settings(None), "tracking": {"uri": uri}}), names)
        assert "hunter2" not in str(refused.value)
    check(validate({**settings(None), "tracking": {"uri": "postgresql://me:${WORD}@host/mlflow"}}), names)
