"""Whole searches on a real network, killed with SIGKILL at random moments and resumed: `make chaos` (several minutes)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from evo.candidates import FINAL
from evo.result import Result, load

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.chaos, pytest.mark.ray]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def config(tmp: Path, backend: str) -> Path:
    values = yaml.safe_load((ROOT / "configs" / "demo_digits.yaml").read_text())
    values["execution"] = {"backend": backend, "workers": 2, "threads": 1}
    values["model"]["pretrain"]["epochs"] = 3
    values["tracking"] = {"tracker": "none"}
    values["budget"] = {"generations": 6}
    values["algorithm"]["params"] = {"promote": 8, "cheap_rounds": 3}
    values["evaluation"]["final"]["tune"]["epochs"] = 1
    file = tmp / f"{backend}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def evo(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evo.cli", *arguments, "--quiet", "--json"]
    return subprocess.Popen(command, env=ENV, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def rows(result: Result) -> list[tuple[object, ...]]:
    """Everything about an evaluation but how long and where it ran."""
    found = [(e.candidate, e.status, dict(e.measures), e.reason, e.weights_version) for e in result.evaluations]
    return sorted(found, key=lambda row: row[0].key)


def measured(run: Path) -> set[str]:
    """Journaled and committed evaluation files."""
    return {file.name for file in run.glob("evaluations/*.parquet")}


def killed_once(run: Path, start: list[str], wait: float) -> bool:
    """Start or resume the search, SIGKILL its process group `wait` seconds after its next evaluation; False if it was over."""
    before = measured(run)
    process = evo(*start)
    limit = time.monotonic() + 240
    while process.poll() is None and measured(run) <= before and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(wait)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.parametrize(("backend", "kills"), [("local", 20), ("ray", 5)])
def test_a_search_killed_again_and_again_ends_with_the_archive_of_the_undisturbed_one(
    tmp_path: Path, backend: str, kills: int
) -> None:
    file, rng = config(tmp_path, backend), random.Random(7)
    whole, run = tmp_path / "whole", tmp_path / "killed"
    assert evo("search", str(file), "--run-dir", str(whole)).wait() == 0
    done, seen = 0, 0
    start = ["search", str(file), "--run-dir", str(run)]
    while done < kills:
        alive = killed_once(run, start, rng.uniform(0, 0.6))
        assert alive, f"the search was over after {done} kills"
        done += 1
        now = sum(e.candidate.step != FINAL for e in load(str(run)).evaluations)
        assert now >= seen, "an evaluation that was finished is gone"
        seen = now
        start = ["resume", str(run)]
    assert evo(*start).wait() == 0
    expected, got = load(str(whole)), load(str(run))
    assert rows(got) == rows(expected)
    assert got.to_json() == expected.to_json()
