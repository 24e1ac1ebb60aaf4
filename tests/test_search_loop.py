"""The loop: killed at any write and resumed, it ends with the archive of the uninterrupted search."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from toy import PROBLEM, ToyEvaluator, ToyScorer, ToySearch, ToySpace, begin, rows, search

from cluster.local import LocalBackend
from evo.candidates import STEP1, STEP2, Evaluation, Outcome, Status
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import Standing
from evo.storage.folder import Folder
from evo.storage.run_directory import StorageError


class Killed(BaseException):
    """Stands for the death of the process: nobody handles it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """Die at the `last`-th write or deletion, leaving half a file where it is a write."""
    write, delete, count = Folder.write, Folder.delete, Counter[str]()

    def tick() -> bool:
        count["changes"] += 1
        return count["changes"] > last

    def deadly_write(self: Folder, name: str, data: bytes) -> None:
        if tick():
            partial = Path(self.root, f"{name}.partial")
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data[: len(data) // 2])
            raise Killed
        write(self, name, data)

    def deadly_delete(self: Folder, name: str) -> None:
        if tick():
            raise Killed
        delete(self, name)

    monkeypatch.setattr(Folder, "write", deadly_write)
    monkeypatch.setattr(Folder, "delete", deadly_delete)


def evaluator(log: Path) -> ToyEvaluator:
    return ToyEvaluator(log)


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def every_evaluation_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """So each is journaled alone, as those are that take longer than a toy's."""
    monkeypatch.setattr("evo.loop.generations.JOURNAL_S", 0.0)


def test_killed_at_every_change_and_resumed_equals_uninterrupted(
    tmp_path: Path, every_evaluation_is_dear: None
) -> None:
    log = tmp_path / "calls.log"
    whole = rows(search(begin(tmp_path / "whole"), generations=3, make_evaluator=lambda: evaluator(log)))
    needed = calls(log)
    for moment in range(10_000):
        path, log = tmp_path / str(moment), tmp_path / f"{moment}.log"
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                search(begin(path), generations=3, make_evaluator=lambda log=log: evaluator(log))
                break  # nothing left to interrupt
            except Killed:
                pass
        assert rows(search(begin(path), generations=3, make_evaluator=lambda log=log: evaluator(log))) == whole, moment
        assert needed <= calls(log) <= needed + 1, "only the evaluation that was not journaled is repeated"
        assert not list(path.rglob("*.partial"))
    assert moment > 30


def test_killed_while_cheap_evaluations_are_journaled_together_it_is_the_same_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo.loop.generations.JOURNAL_ROWS", 4)
    whole = rows(search(begin(tmp_path / "whole"), generations=2))
    for moment in (*range(9), 10_000):
        path = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                search(begin(path), generations=2)
            except Killed:
                assert moment < 10_000
        assert rows(search(begin(path), generations=2)) == whole, moment


def test_equal_work_is_done_once_and_every_candidate_answered(tmp_path: Path) -> None:
    log = tmp_path / "calls.log"
    archive = search(begin(tmp_path / "run"), make_evaluator=lambda: evaluator(log))
    asked = [e for e in archive if e.candidate.step == STEP2]
    assert len({e.candidate.key for e in archive}) == len(archive) == 4 * 12
    assert calls(log) == len({ToySpace().repair(e.candidate.genome) for e in asked}) < len(asked)
    by_genome: dict[object, set[object]] = {}
    for e in asked:
        by_genome.setdefault(ToySpace().repair(e.candidate.genome), set()).add((e.status, str(e.measures), e.reason))
    assert all(len(answers) == 1 for answers in by_genome.values())


def test_failures_are_rows_with_a_reason_of_one_line(tmp_path: Path) -> None:
    archive = search(begin(tmp_path / "run"), generations=8)
    failed = [e for e in archive if not e.completed]
    assert failed
    assert {e.reason for e in failed} == {"ValueError: 20 bits are unlucky"}
    assert all(not e.measures for e in failed)


def test_a_larger_budget_continues_where_the_smaller_one_ended(tmp_path: Path) -> None:
    whole = search(begin(tmp_path / "whole"), generations=5)
    first = search(begin(tmp_path / "run"), generations=2)
    assert rows(first) == rows(whole[: len(first)])
    assert rows(search(begin(tmp_path / "run"), generations=5)) == rows(whole)
    assert rows(begin(tmp_path / "run").evaluations()) == rows(whole)


class Reversed:
    """A backend that answers last things first."""

    def __init__(self) -> None:
        self._inner = LocalBackend(ToyEvaluator)

    def evaluate(self, requests):  # type: ignore[no-untyped-def]
        yield from reversed(list(self._inner.evaluate(requests)))

    def close(self) -> None: ...


def test_the_order_of_completion_does_not_matter(tmp_path: Path) -> None:
    assert rows(search(begin(tmp_path / "a"), Reversed())) == rows(search(begin(tmp_path / "b")))


class Interrupting:
    """Raises as Ctrl-C does, in the middle of a round."""

    def __init__(self, after: int) -> None:
        self._left = after

    def evaluate(self, requests):  # type: ignore[no-untyped-def]
        for outcome in LocalBackend(ToyEvaluator).evaluate(requests):
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
            yield outcome

    def close(self) -> None: ...


class Recorder:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_start(self, standing: Standing) -> None:
        self.heard.append(("start", standing.round))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.heard.append(evaluation.candidate.key)

    def on_round(self, standing: Standing) -> None:
        self.heard.append(("round", standing.round, standing.generation, len(standing.evaluations), standing.done))

    def on_end(self, standing: Standing, status: str) -> None:
        self.heard.append(("end", status))


def test_an_interrupt_leaves_a_directory_that_resumes(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        search(begin(tmp_path / "run"), Interrupting(7), observers=[recorder])
    assert recorder.heard[-1] == ("end", "interrupted")
    assert rows(search(begin(tmp_path / "run"))) == rows(search(begin(tmp_path / "whole")))


def test_observers_hear_every_round_and_each_candidate_once(tmp_path: Path) -> None:
    recorder = Recorder()
    archive = search(begin(tmp_path / "run"), generations=2, observers=[recorder])
    events = [h for h in recorder.heard if isinstance(h, tuple)]
    assert events == [("start", 0), ("round", 1, 0, 12, 0.5), ("round", 2, 1, 24, 1.0), ("end", "finished")]
    assert sorted(h for h in recorder.heard if isinstance(h, str)) == sorted(e.candidate.key for e in archive)


def test_an_observer_that_raises_is_dropped_and_the_search_goes_on(tmp_path: Path) -> None:
    class Broken(Recorder):
        def on_round(self, standing: Standing) -> None:
            raise RuntimeError("the tracker is down")

    broken, healthy = Broken(), Recorder()
    with pytest.warns(RuntimeWarning, match="Broken failed .RuntimeError: the tracker is down. and is dropped"):
        archive = search(begin(tmp_path / "run"), observers=[broken, healthy])
    assert len(archive) == 48
    assert ("end", "finished") in healthy.heard
    assert ("end", "finished") not in broken.heard


def fail_writes(monkeypatch: pytest.MonkeyPatch, of: str, times: int) -> None:
    write, left = Folder.write, [times]

    def full(self: Folder, name: str, data: bytes) -> None:
        if name == of and left[0] > 0:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr("evo.storage.run_directory.RETRY_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(Folder, "write", full)


def test_a_write_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(begin(tmp_path / "whole"))
    fail_writes(monkeypatch, "state-000002.parquet", times=2)
    with pytest.warns(RuntimeWarning, match="state-000002.parquet failed .* trying again"):
        assert rows(search(begin(tmp_path / "run"))) == rows(whole)


def test_a_full_disk_ends_the_search_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, recorder = search(begin(tmp_path / "whole")), Recorder()
    fail_writes(monkeypatch, "state-000002.parquet", times=3)
    with pytest.warns(RuntimeWarning, match="trying again"), pytest.raises(StorageError) as raised:
        search(begin(tmp_path / "run"), observers=[recorder])
    assert "No space left on device" in str(raised.value)
    assert f"evo resume {tmp_path / 'run'}" in str(raised.value)
    assert recorder.heard[-1] == ("end", "failed")
    assert rows(search(begin(tmp_path / "run"))) == rows(whole)


@pytest.mark.parametrize("limit,expected", [(1, 6), (6, 6), (17, 12), (18, 18)])
def test_the_budget_of_evaluations_counts_what_workers_do(tmp_path: Path, limit: int, expected: int) -> None:
    budget, scorers = Budget(evaluations=limit), {STEP1: ToyScorer()}
    archive = run_search(
        PROBLEM, ToySearch(PROBLEM), LocalBackend(ToyEvaluator), scorers, begin(tmp_path / "run"), 7, budget
    )
    assert sum(e.candidate.step == STEP2 for e in archive) == expected


def test_a_search_that_only_scores_ends_at_its_budget_too(tmp_path: Path) -> None:
    budget, scorers = Budget(evaluations=30), {STEP1: ToyScorer(), STEP2: ToyScorer()}

    class NoSurvival(ToySearch):
        def tell(self, state, evaluations):  # type: ignore[no-untyped-def]
            return super().tell(state, ())

    archive = run_search(
        PROBLEM, NoSurvival(PROBLEM), LocalBackend(ToyEvaluator), scorers, begin(tmp_path / "run"), 7, budget
    )
    assert len(archive) == 24


def test_minutes_are_counted_over_all_sessions(tmp_path: Path) -> None:
    run, arguments = begin(tmp_path / "run"), ({STEP1: ToyScorer()},)
    backend = LocalBackend(lambda: ToyEvaluator(delay_s=0.02))
    first = run_search(PROBLEM, ToySearch(PROBLEM), backend, *arguments, run, 7, Budget(minutes=0.2 / 60))
    assert 12 <= len(first) < 12 * 20
    again = run_search(PROBLEM, ToySearch(PROBLEM), backend, *arguments, run, 7, Budget(minutes=0.2 / 60))
    assert rows(again)[: len(first)] == rows(first)
    assert len(again) <= len(first) + 12, "the last commit was made in time, so one more round may begin"


def test_a_backend_that_loses_a_request_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Reversed):
        def evaluate(self, requests):  # type: ignore[no-untyped-def]
            yield Outcome(requests[0].key, Status.FAILED, reason="odd")

    with pytest.raises(RuntimeError, match="must answer every request, but got none for key="):
        search(begin(tmp_path / "run"), Forgetful())
