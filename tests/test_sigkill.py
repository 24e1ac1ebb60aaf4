"""A real process killed by SIGKILL at random moments, the short form; `make chaos` runs the long one on real networks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from toy import begin, rows, search

TESTS = Path(__file__).resolve().parent


def start(folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(TESTS / "toy.py"), str(folder)], env=env, start_new_session=True)


def kill_after_progress(folder: Path, seconds: float) -> None:
    before = set(folder.glob("evaluations/*"))
    process = start(folder)
    deadline = time.monotonic() + 60
    while set(folder.glob("evaluations/*")) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the search was over before it was killed"


def test_sigkill_at_random_moments_ends_with_the_same_archive(tmp_path: Path) -> None:
    rng, folder = random.Random(11), tmp_path / "run"
    folder.mkdir()
    for _ in range(3):
        kill_after_progress(folder, rng.uniform(0, 0.15))
    assert start(folder).wait() == 0
    whole = search(begin(tmp_path / "whole"), generations=8)
    assert rows(begin(folder).evaluations()) == rows(whole)
    evaluated = (folder / "calls.log").read_text().split()
    assert len(evaluated) <= len(set(evaluated)) + 3, "a kill costs at most the evaluation under way"
