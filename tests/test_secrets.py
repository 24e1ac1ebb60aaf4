"""Passwords and tokens of the environment and of addresses are in no file, log line or store that a search leaves."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import evo, settings, write_config

from evo.addresses import secrets_of, without_secrets

SECRET = "hunter2/is=no&word"
OF_THE_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
AWAY = "http://me:${WORD}@127.0.0.1:9"  # the port of the discard service, where nothing listens


def leaking(folder: Path, *words: str) -> list[str]:
    """Files that hold a word, as bytes or as text in a column."""
    found = []
    for file in filter(Path.is_file, folder.rglob("*")):
        text = file.read_bytes().decode(errors="replace")
        if file.suffix == ".parquet":
            text += str(pq.ParquetFile(file).read().to_pylist())
        found += [f"{file.name}: {word}" for word in words if word in text]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", ["sqlite:///{folder}/store/mlflow.db", AWAY])
def test_no_secret_is_left_behind(
    uri: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in OF_THE_ENVIRONMENT:
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    monkeypatch.setenv("WORD", quote(SECRET, safe=""))
    (tmp_path / "store").mkdir()
    values = {
        **settings(None),
        "budget": {"generations": 1},
        "tracking": {"uri": uri.replace("{folder}", str(tmp_path))},
    }
    values["objectives"] = values["objectives"][:1]  # a front of one network, so that there is one model to store
    config = write_config(tmp_path / "search.yaml", values)
    caplog.set_level(logging.DEBUG, logger="evo")
    answer = evo(capfd, "search", config, "--run-dir", tmp_path / "run")
    assert answer.code == 0, answer.err
    told = answer.out + answer.err + caplog.text
    assert ("goes on without MLflow at http://me:***@127.0.0.1:9" in told) == (uri == AWAY)
    words = (SECRET, quote(SECRET, safe=""))
    assert [word for word in words if word in told] == []
    assert leaking(tmp_path, *words) == []
    assert (tmp_path / "store" / "mlflow.db").exists() == (uri != AWAY)


def test_a_leak_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"connecting with {SECRET}")
    pq.write_table(pa.table({"reason": [SECRET] * 100}), tmp_path / "rows.parquet", compression="zstd")
    assert sorted(leaking(tmp_path, SECRET)) == [f"log: {SECRET}", f"rows.parquet: {SECRET}"]


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("postgresql://me:p%40ss@host/db", "postgresql://me:***@host/db"),
        ("https://abc123@host/x", "https://***@host/x"),
        ("mysql://host/db?user=me&password=p%40ss&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_secrets_of_an_address_are_hidden_as_written_and_as_meant(address: str, hidden: str) -> None:
    assert without_secrets(address, address) == hidden
    assert ("p@ss" in secrets_of(address)) == ("p%40ss" in address)
