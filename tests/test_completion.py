"""What <Tab> offers, asked as a shell asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import evo

from evaluators.export import FORMATS as EXPORTS
from evo.cli.completion import FORMATS
from evo.config.schema import parse
from evo.registry import ALGORITHMS, MEASURES, TABLES


@pytest.fixture
def offered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_EVO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return evo(capsys).out.split()

    return ask


def test_names_of_tables_and_measures(offered) -> None:  # type: ignore[no-untyped-def]
    assert offered("evo list al") == ["algorithms"]
    assert set(offered("evo list ")) == set(TABLES)
    assert set(offered("evo init --objective ")) == set(MEASURES)
    assert offered("evo export r --format o") == ["onnx"] and set(FORMATS) == set(EXPORTS)


def test_keys_of_a_configuration_and_their_values(offered) -> None:  # type: ignore[no-untyped-def]
    assert offered("evo search c.yaml --set budget.g") == ["budget.generations="]
    assert set(offered("evo search c.yaml --set algorithm.inner.name=")) >= {
        f"algorithm.inner.name={n}" for n in ALGORITHMS
    }
    assert offered("evo search c.yaml --set execution.asynchronous=t") == ["execution.asynchronous=true"]
    base = "{model: {factory: digits_cnn}, data: {factory: digits}}"
    for key in ("execution.device", "space.criteria", "space.factor_metric", "tracking.tracker"):
        for override in offered(f"evo search c.yaml --set {key}="):
            parse(base, [override])  # is accepted as it stands


def test_files_runs_and_points(offered, small_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "a.txt"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(small_search)
    assert offered("evo doctor a") == ["a.yaml"]
    assert offered("evo front ") == ["runs/", "runs/mine"]
    assert offered("evo front runs/m") == ["runs/mine"]
    points = offered("evo export runs/mine --pick ")
    assert points[0] == "knee" and len(points) > 1
