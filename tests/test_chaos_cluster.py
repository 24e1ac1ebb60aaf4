"""Searches on a real cluster of several nodes, disturbed in every way that `benchmarks.chaos` knows: minutes, by `make chaos`."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from toy import apart, begin, rows, search

from benchmarks.chaos import AT_LEAST, Verdict, available, losses, run, schedule
from benchmarks.chaos_faults import KINDS
from evo.candidates import Evaluation
from evo.loop.observers import Standing


def test_the_faults_are_a_function_of_the_seed_and_every_kind_comes() -> None:
    plans = schedule(30, 0, list(KINDS))
    assert plans == schedule(30, 0, list(KINDS)) != schedule(30, 1, list(KINDS))
    met = Counter(fault.kind for faults in plans for fault in faults)
    assert met.keys() == KINDS.keys() and min(met.values()) >= AT_LEAST
    assert all(len({fault.kind for fault in faults}) == 2 for faults in plans)


def test_what_has_to_be_begun_again_is_counted_for_the_process_that_had_it() -> None:
    log = [["begin", 1, 10, 0], ["begin", 2, 11, 0], ["end", 1, 10, 0], ["begin", 2, 10, 0], ["begin", 3, 12, 0]]
    assert losses(log) == {11: 1}
    assert losses([*log, ["begin", 1, 12, 0], ["begin", 3, 13, 0], ["begin", 3, 14, 0]]) == {10: 1, 11: 1, 12: 1, 13: 1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where it may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "evo-test", folder], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class Filler:
    """Fills the disk after the first round, and makes room again a while later."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "filler"

    def on_start(self, standing: Standing) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_end(self, standing: Standing, status: str) -> None: ...
    def on_round(self, standing: Standing) -> None:
        if standing.round == 1:
            with open(self._file, "wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
                while stream.write(bytes(4096)) == 4096:
                    pass
                stream.write(bytes(4096))
            threading.Timer(0.6, self._file.unlink).start()


def test_a_disk_that_is_full_for_a_while_costs_only_time(small_disk: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"No space left on device.*; trying again in 0.2 s"):
        archive = search(begin(small_disk / "run"), observers=[Filler(small_disk)])
    assert time.monotonic() - began > 0.5
    assert rows(archive) == rows(search(begin(tmp_path / "undisturbed")))


def disturbed(searches: int, seed: int, kinds: Sequence[str]) -> list[Verdict]:
    return list(run(searches, seed, kinds))


@pytest.mark.chaos
@pytest.mark.ray
def test_every_kind_of_fault_on_a_real_cluster() -> None:
    kinds = available()
    verdicts = apart(disturbed, (len(kinds) + 1) // 2, 3, kinds)
    assert {fault.partition("@")[0] for v in verdicts for fault in v.faults} == set(kinds)
    assert [v for v in verdicts if not v.sound] == []
