"""The run directory: what is damaged is found, what can be recovered is, and the rest is refused in a sentence."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs
from toy import INFO, begin, rows, search

from evo.candidates import Candidate, Evaluation, Status
from evo.storage.folder import Folder
from evo.storage.manifest import Manifest, RunInfo
from evo.storage.rows import EVALUATIONS, from_parquet, from_table, to_parquet, to_table
from evo.storage.run_directory import RunDirectory, StorageError

TEXT = st.text(max_size=8)
CANDIDATES = st.builds(
    Candidate,
    id=TEXT,
    generation=st.integers(0, 10**6),
    genome=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    step=TEXT,
    parents=st.lists(TEXT, max_size=3).map(tuple),
    role=TEXT,
    opponents=st.lists(TEXT, max_size=3).map(tuple),
)
EVALUATION = st.builds(
    Evaluation,
    candidate=CANDIDATES,
    status=st.sampled_from(Status),
    measures=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=4),
    reason=TEXT,
    weights_version=st.integers(0, 10**6),
    seconds=st.floats(0, 1e6),
    worker=TEXT,
)


def made(count: int, start: int = 0) -> tuple[Evaluation, ...]:
    candidates = [Candidate(f"c{i}", 0, (i, 1), "step2") for i in range(start, start + count)]
    return tuple(Evaluation(c, Status.COMPLETED, {"error": 0.5}) for c in candidates)


def grown(path: Path, rounds: int) -> tuple[RunDirectory, Manifest]:
    """A run with three evaluations a round and a state that is the number of the round."""
    run, manifest = begin(path), Manifest()
    for number in range(rounds):
        run.append(made(1, 3 * number), number + 1)
        state = pa.table({"round": [number + 1]})
        manifest = run.commit(manifest, to_table(made(3, 3 * number), number + 1), state, seconds=float(number))
    return run, manifest


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def keys(evaluations: tuple[Evaluation, ...]) -> list[str]:
    return [e.candidate.key for e in evaluations]


@given(st.lists(EVALUATION, max_size=5))
def test_rows_round_trip_exactly_through_parquet(evaluations: list[Evaluation]) -> None:
    assert from_table(from_parquet(to_parquet(to_table(evaluations, 3)))) == tuple(evaluations)


def test_nan_and_infinity_stay_what_they_are() -> None:
    values = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "zero": -0.0}
    (back,) = from_table(from_parquet(to_parquet(to_table([replace(made(1)[0], measures=values)]))))
    assert math.isnan(back.measures["nan"])
    assert (back.measures["inf"], back.measures["minus"]) == (math.inf, -math.inf)
    assert math.copysign(1, back.measures["zero"]) == -1


def test_the_journal_is_a_data_set_that_others_can_read(tmp_path: Path) -> None:
    search(begin(tmp_path / "run"), generations=2)
    table = pq.read_table(tmp_path / "run" / "evaluations")
    assert table.schema.equals(EVALUATIONS)
    assert table.schema.metadata[b"format_version"] == b"1"
    assert table["round"].unique().to_pylist() == [1, 2]


def test_a_commit_replaces_the_journal_and_keeps_the_last_states(tmp_path: Path) -> None:
    run, manifest = grown(tmp_path, 5)
    assert run.latest() == manifest
    assert [n for n in run.folder.names() if n.startswith("state")] == [f"state-00000{i}.parquet" for i in (3, 4, 5)]
    assert not [n for n in run.folder.names("evaluations") if "pending" in n]
    assert keys(run.committed(manifest)) == keys(made(15))
    assert run.journal(manifest) == ()


def test_what_finished_after_the_commit_comes_from_the_journal(tmp_path: Path) -> None:
    run, manifest = grown(tmp_path, 2)
    run.append(made(1, 6), 3)
    run.append(made(2, 7), 3)
    run.record("final", made(1, 20))
    assert sorted(keys(run.journal(run.latest()))) == sorted(keys(made(3, 6) + made(1, 20)))
    run.commit(manifest, to_table(made(3, 6), 3), pa.table({"round": [3]}), 3.0)
    assert keys(run.journal(run.latest())) == keys(made(1, 20)), "what was recorded apart outlives commits"


@pytest.mark.parametrize("fault", [damage, lambda p: p.write_bytes(p.read_bytes()[:-40]), Path.unlink])
def test_a_damaged_state_falls_back_to_the_commit_before(tmp_path: Path, fault) -> None:  # type: ignore[no-untyped-def]
    run, _ = grown(tmp_path, 4)
    fault(tmp_path / "state-000004.parquet")
    with pytest.warns(RuntimeWarning, match=r"state-000004.parquet .* falling back to the commit of round 3"):
        manifest = run.latest()
    assert run.state(manifest) == pa.table({"round": [3]})
    assert keys(run.committed(manifest)) + keys(run.journal(manifest)) == keys(made(12))


def test_a_damaged_manifest_falls_back_too(tmp_path: Path) -> None:
    run, _ = grown(tmp_path, 3)
    (tmp_path / "manifest-000003.json").write_text('{"rounds": 3, "se')
    with pytest.warns(RuntimeWarning, match="manifest-000003.json is damaged .* falling back to the commit of round 2"):
        assert run.latest().rounds == 2


def test_the_round_after_a_fallback_is_searched_again_with_the_same_result(tmp_path: Path) -> None:
    whole = rows(search(begin(tmp_path / "run")))
    damage(tmp_path / "run" / "evaluations" / "round-000004.parquet")
    with pytest.warns(RuntimeWarning) as caught:
        assert rows(search(begin(tmp_path / "run"))) == whole
    assert ["falling back" in str(w.message) or "left out" in str(w.message) for w in caught] == [True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(begin(tmp_path / "run").evaluations()) == whole


def test_damage_that_every_commit_shares_is_an_error_naming_the_file(tmp_path: Path) -> None:
    run, _ = grown(tmp_path, 4)
    damage(tmp_path / "evaluations" / "round-000001.parquet")
    with pytest.raises(
        StorageError, match=r"evaluations/round-000001.parquet does not match .* restore that file"
    ) as e:
        run.latest()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1 and no more", to_parquet(to_table(made(1)))[:-9], to_parquet(pa.table({"key": ["foreign"]}))],
    ids=["empty", "no parquet", "truncated", "other columns"],
)
def test_a_journal_file_that_is_not_whole_is_left_out_with_a_warning(tmp_path: Path, content: bytes) -> None:
    run, manifest = grown(tmp_path, 1)
    run.append(made(1, 3), 2)
    (tmp_path / "evaluations" / "pending-000002-0123456789abcdef.parquet").write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"pending-000002-0123456789abcdef.parquet .* evaluated again"):
        assert keys(run.journal(manifest)) == keys(made(1, 3))


def test_a_search_through_a_remote_file_system_is_the_same(tmp_path: Path) -> None:
    class Unrenamed(Folder):
        """A store without rename or local path, as object stores are."""

    remote = Unrenamed(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket")
    run = RunDirectory(remote, "s3://bucket")
    run.write("run.json", INFO.to_json())
    assert run.local is None
    archive = rows(search(run, generations=2))
    assert rows(search(run, generations=3))[: len(archive)] == archive
    assert rows(search(begin(tmp_path / "local"), generations=3)) == rows(run.evaluations())


def test_a_used_directory_is_refused_and_an_unused_one_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold a run\.json"):
        RunDirectory.open(str(tmp_path))
    (tmp_path / "evo.log").touch()
    run = RunDirectory.create(str(tmp_path), "seed: 7\n", INFO)
    assert (run.config, run.info) == ("seed: 7\n", INFO)
    with pytest.raises(ValueError, match=f"evo resume {tmp_path}"):
        RunDirectory.create(str(tmp_path), "", INFO)


def test_an_address_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a local path or a URI such as s3://bucket/run, but got 'ftp://x/y'"):
        Folder.at("ftp://x/y")


def test_another_space_objective_or_seed_is_refused() -> None:
    INFO.require_same(replace(INFO, baseline={}))
    for change in ({"space_digest": "other"}, {"objectives": ("min error",)}, {"seed": 8}):
        with pytest.raises(ValueError, match=f"must keep the {next(iter(change))} it was started with"):
            INFO.require_same(replace(INFO, **change))


def test_a_directory_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    run = begin(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**json.loads(INFO.to_json()), "format_version": 99}))
    with pytest.raises(ValueError, match="format_version=99"):
        _ = run.info
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.json must be intact"):
        _ = run.info


def test_run_info_round_trips() -> None:
    assert RunInfo.from_json(INFO.to_json()) == INFO
