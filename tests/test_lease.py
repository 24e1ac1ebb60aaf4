"""One driver per run directory: who may write, who is refused, and who takes over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs
from toy import begin, rows, search

from evo.failures import StorageError
from evo.storage.folder import Folder
from evo.storage.lease import PREFIX, Claim, Lease, claims

HOLDER = """
import sys, time
from evo.storage.folder import Folder
from evo.storage.lease import Lease
with Lease(Folder.at(sys.argv[1]), sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def lease(folder: Path, **settings: float) -> Lease:
    return Lease(Folder.at(str(folder)), str(folder), **settings)  # type: ignore[arg-type]


def elsewhere(folder: Path, beat: int = 3) -> Claim:
    """A claim of another machine, whose process id means nothing here."""
    claim = replace(Claim.mine(), place="another machine", host="far", pid=os.getpid(), term=4, beat=beat)
    Folder.at(str(folder)).write(claim.name, claim.to_json())
    return claim


def test_a_living_driver_keeps_others_out_and_a_killed_one_is_replaced_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on .* evo resume {tmp_path}"):
        lease(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    began = time.monotonic()
    with lease(tmp_path) as held:
        held.require()
        assert [c.owner for c in claims(held.folder)] == [held.claim.owner], "the dead claim is cleared away"
    assert time.monotonic() - began < 2
    assert not list(tmp_path.iterdir())


def test_another_machine_is_believed_while_its_heart_beats_whatever_its_clock_says(tmp_path: Path) -> None:
    claim, folder = elsewhere(tmp_path), Folder.at(str(tmp_path))
    pulse = threading.Timer(0.1, lambda: folder.write(claim.name, replace(claim, beat=4).to_json()))
    pulse.start()
    with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on far"):
        lease(tmp_path, heartbeat_s=0.1, patience_s=5.0).__enter__()
    pulse.join()
    notes: list[str] = []
    with Lease(folder, str(tmp_path), notes.append, heartbeat_s=0.1, patience_s=0.5) as held:
        assert held.claim.term == 5
    assert "in use by process" in notes[0] and "waiting 0.5 s" in notes[0]


def test_of_many_who_claim_at_once_one_holds(tmp_path: Path) -> None:
    held, refused, inside = [], [], threading.Barrier(6, timeout=60)

    def claim() -> None:
        try:
            with lease(tmp_path) as mine:
                held.append(mine)
                inside.wait()
        except ValueError as error:
            refused.append(str(error))
            inside.wait()

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) <= 1 and len(held) + len(refused) == 6
    assert all("must have one driver at a time" in text for text in refused)


def test_a_driver_that_was_given_up_writes_nothing_more(tmp_path: Path) -> None:
    run = begin(tmp_path)
    with lease(tmp_path, heartbeat_s=0.05, patience_s=60.0) as first:
        guarded = replace(run, guard=first.require)
        guarded.write("allowed.txt", b"")
        taker = replace(Claim.mine(), pid=123, host="far", term=first.claim.term + 1)
        first.folder.write(taker.name, taker.to_json())
        deadline = time.monotonic() + 10
        while not first._lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(StorageError, match="taken over by process 123 on far"):
            guarded.write("refused.txt", b"")
    assert not (tmp_path / "refused.txt").exists()


def test_a_driver_that_slept_asks_before_it_writes(tmp_path: Path) -> None:
    with lease(tmp_path, heartbeat_s=1000.0, patience_s=60.0) as first:
        first.folder.delete(first.claim.name)
        first.require()
        first._beaten -= 31.0
        with pytest.raises(StorageError, match="taken over"):
            first.require()


def test_a_lease_needs_no_rename_and_no_local_path(tmp_path: Path) -> None:
    remote = Folder(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket")
    with Lease(remote, "s3://bucket") as first:
        with pytest.raises(ValueError, match="one driver at a time"):
            Lease(remote, "s3://bucket").__enter__()
        first.require()
    assert not claims(remote)


def test_a_search_under_a_lease_is_the_same(tmp_path: Path) -> None:
    with lease(tmp_path / "run") as held:
        run = replace(begin(tmp_path / "run"), guard=held.require)
        assert rows(search(run)) == rows(search(begin(tmp_path / "whole")))
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(PREFIX)]
