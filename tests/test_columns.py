"""Evaluations in columns behave like a tuple, and sums that are kept up to date like sums over all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_storage import EVALUATION
from toy import ALLELES, GENES, PROBLEM

from evo.archive import pareto_front, step_agreement
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Status
from evo.digests import DigestMap, GenomeSet, as_keys
from evo.loop import memory
from evo.loop.memory import MEMORY, Memory
from evo.loop.observers import Standing
from evo.loop.running import RunningAgreement, RunningFront
from evo.storage import columns
from evo.storage.columns import Archive
from evo.storage.rows import to_table


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """Parts of a few rows, so that few rows are many parts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(columns, "PART", 3)
        yield


def grown(batches: Sequence[Sequence[Evaluation]]) -> Archive:
    archive = Archive()
    for batch in batches:
        archive = archive.plus(to_table(batch))
    return archive


@given(st.lists(st.lists(EVALUATION, max_size=5), max_size=5), st.integers(0, 12), st.randoms())
def test_an_archive_is_the_tuple_of_its_evaluations(batches: list[list[Evaluation]], start: int, random) -> None:  # type: ignore[no-untyped-def]
    archive, rows = grown(batches), [e for batch in batches for e in batch]
    assert len(archive) == len(rows) and list(archive) == rows
    assert archive[start:] == tuple(rows[start:]) and archive[::-1] == tuple(rows[::-1])
    assert [e for part in archive.parts(start) for e in part] == rows[start:]
    assert [e for part in reversed(list(archive.backwards())) for e in part] == rows
    wanted = [random.randrange(-len(rows), len(rows)) for _ in range(4)] if rows else []
    assert [archive[i] for i in wanted] == [rows[i] for i in wanted]
    assert archive == Archive.of(iter(rows)) and (archive == Archive.of(rows[1:])) is (not rows)


def test_a_longer_archive_leaves_the_shorter_one_alone() -> None:
    rows = some(5, 8)
    archive = grown([rows[:5]])
    longer = archive.plus(to_table(rows[5:]))
    assert (list(archive), list(longer)) == (list(rows[:5]), list(rows))
    with pytest.raises(IndexError):
        archive[5]


@given(st.lists(st.dictionaries(st.integers(0, 30), st.floats(allow_nan=False))), st.lists(st.integers(0, 30)))
def test_digests_are_found_like_in_a_dictionary(added: list[dict[int, float]], asked: list[int]) -> None:
    known, numbers = dict[int, float](), DigestMap()
    for some_more in added:
        known = some_more | known
        numbers = numbers.plus(as_keys(some_more), np.array([*some_more.values()], dtype=float))
    there, found = numbers.find(as_keys(asked))
    assert there.tolist() == [key in known for key in asked]
    assert found.tolist() == [known[key] for key in asked if key in known]
    assert [numbers.get(key) for key in asked] == [known.get(key) for key in asked]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)))), st.tuples(st.integers(0, 2), st.integers(0, 2))
)
def test_genomes_are_found_like_in_a_set(added: list[list[tuple[int, int]]], asked: tuple[int, int]) -> None:
    known = GenomeSet()
    for genomes in added:
        known = known.plus(genomes)
    everything = {genome for genomes in added for genome in genomes}
    assert (asked in known) == (asked in everything) and len(known) == len(everything)


def some(seed: int, count: int, version: int = 0, start: int = 0) -> tuple[Evaluation, ...]:
    """Evaluations at both steps whose measures are a function of genome, step and version; some fail."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(start, start + count):
        genome, step = PROBLEM.space.repair(rng.integers(0, 2, GENES).tolist()), (STEP1, STEP2)[i % 2]
        values = np.random.default_rng([*genome, version]).random(3).round(2)
        status = Status.FAILED if values[2] < 0.2 else Status.COMPLETED
        measures = {"error": float(values[0]), "size": float(values[1])} if status is Status.COMPLETED else {}
        candidate = Candidate(f"c{i // 2:03d}", 0, genome, step)
        made.append(Evaluation(candidate, status, measures, weights_version=version))
    return tuple(made)


@pytest.mark.parametrize("versions", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_summed_up_round_by_round_is_what_all_evaluations_give(seed: int, versions: int) -> None:
    front, tau = RunningFront(PROBLEM, STEP2), RunningAgreement(STEP1, "error", STEP2, "size")
    archive, rows = Archive(), ()
    for number in range(8):
        batch = some(100 * seed + number, 10, number * versions // 8, 10 * number)
        archive, rows = archive.plus(to_table(batch)), (*rows, *batch)
        tau.add(batch)
        if number % 3 != 1:  # some rounds are read together with the next
            assert front.update(Standing(number, 0, 0.0, archive, batch)) == pareto_front(PROBLEM, rows, STEP2)
            assert pareto_front(PROBLEM, archive, STEP2) == pareto_front(PROBLEM, rows, STEP2)
            expected = step_agreement(rows, STEP1, STEP2, "error", "size")
            assert tau.value == pytest.approx(expected, nan_ok=True)


def test_work_that_is_committed_is_found_again_and_what_only_looks_like_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = some(0, 40)
    known, archive = Memory(PROBLEM.space), grown([rows])
    for part in archive.parts():
        known.committed(archive, part)
    for row in rows:
        again = known.find(Candidate("new", 3, row.candidate.genome, row.candidate.step))
        assert again is not None
        assert (again.measures, again.status, again.worker, again.seconds) == (row.measures, row.status, MEMORY, 0.0)
        assert known.find(row.candidate, weights_version=1) is None
    monkeypatch.setattr(memory, "of_genome", lambda genome: 7)
    clash, first = Memory(PROBLEM.space), grown([rows[:1]])
    clash.committed(first, rows[:1])
    assert clash.find(rows[0].candidate) is not None
    assert clash.find(Candidate("x", 0, (ALLELES - 1,) * GENES, rows[0].candidate.step)) is None
