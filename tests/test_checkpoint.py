"""Whatever an algorithm keeps as its state survives storage exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toy import PROBLEM, ToySearch, begin, search

from evo.candidates import Candidate, Evaluation, Status
from evo.storage.checkpoint import decode, encode
from evo.storage.rows import from_parquet, to_parquet


class Phase(str, Enum):
    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True)
class Point:
    x: float
    label: str | None = None


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class State:
    seed: int
    rate: float
    name: str
    done: bool
    phase: Phase
    values: np.ndarray
    maybe: np.ndarray | None
    ids: tuple[str, ...]
    counts: tuple[int, ...]
    genomes: tuple[tuple[int, ...], ...]
    pair: tuple[str, float]
    best: Point | None
    points: tuple[Point, ...]
    arrays: tuple[np.ndarray, ...]
    weights: Mapping[str, float]
    evaluations: tuple[Evaluation, ...]
    nothing: Nothing
    inner: Any = None


DTYPES = st.sampled_from(
    [np.dtype(d) for d in ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")]
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=5)
POINTS = st.builds(Point, st.floats(allow_nan=False), st.none() | TEXT)
EVALUATION = st.builds(
    lambda name, value: Evaluation(Candidate(name, 1, (1, 2), "step2", ("p",)), Status.COMPLETED, {"m": value}),
    TEXT,
    st.floats(allow_nan=False),
)
STATES = st.builds(
    State,
    seed=INT64,
    rate=st.floats(),
    name=TEXT,
    done=st.booleans(),
    phase=st.sampled_from(Phase),
    values=ARRAYS,
    maybe=st.none() | ARRAYS,
    ids=st.lists(TEXT, max_size=3).map(tuple),
    counts=st.lists(INT64, max_size=3).map(tuple),
    genomes=st.lists(st.lists(INT64, max_size=3).map(tuple), max_size=3).map(tuple),
    pair=st.tuples(TEXT, st.floats()),
    best=st.none() | POINTS,
    points=st.lists(POINTS, max_size=3).map(tuple),
    arrays=st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=3)), max_size=3).map(tuple),
    weights=st.dictionaries(TEXT, st.floats(), max_size=3),
    evaluations=st.lists(EVALUATION, max_size=3).map(tuple),
    nothing=st.just(Nothing()),
    inner=st.none() | POINTS,
)


def assert_same(a: Any, b: Any) -> None:
    """Equal in value and type, where NaN equals itself and -0.0 differs from 0.0."""
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_same(getattr(a, f.name), getattr(b, f.name))
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(
            np.signbit(a) if a.dtype.kind == "f" else a, np.signbit(b) if b.dtype.kind == "f" else b
        )
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, dict):
        assert_same(tuple(a.items()), tuple(b.items()))
    elif isinstance(a, float):
        assert (math.isnan(a) and math.isnan(b)) or (a, math.copysign(1, a)) == (b, math.copysign(1, b))
    else:
        assert a == b


@given(STATES)
def test_a_state_survives_storage_exactly(state: State) -> None:
    stored = from_parquet(to_parquet(encode(state)))
    assert_same(decode(State, stored, like=state), state)


def test_an_empty_state_survives_too() -> None:
    assert decode(Nothing, from_parquet(to_parquet(encode(Nothing())))) == Nothing()


def test_the_state_of_a_search_survives_in_its_directory(tmp_path: Any) -> None:
    run = begin(tmp_path)
    archive = search(run, generations=2)
    algorithm = ToySearch(PROBLEM)
    state = algorithm.init(7)
    for generation in range(2):
        state = algorithm.tell(state, [e for e in archive if e.candidate.generation == generation])
    stored = run.state(run.latest())
    assert stored is not None
    back = decode(type(state), stored)
    assert [e.candidate for e in back.parents] == [e.candidate for e in state.parents]
    np.testing.assert_array_equal(back.mean, state.mean)


@dataclass(frozen=True)
class Odd:
    nested: tuple[Point, ...] = ()
    generator: Any = field(default_factory=lambda: np.random.default_rng(0))


@dataclass(frozen=True)
class Mixed:
    arrays: tuple[np.ndarray, ...]


@pytest.mark.parametrize(
    "state,message",
    [
        (Odd(), "got Odd.generator: no rule for"),
        (Mixed((np.zeros(1), np.zeros(1, dtype=int))), "got Mixed.arrays: arrays of one field need one dtype"),
        (Point(x="high"), "got Point.x: "),  # type: ignore[arg-type]
        (Odd(nested=(Point(1.0, 3),)), "got Point.label: "),  # type: ignore[arg-type]
    ],
)
def test_a_field_that_cannot_be_stored_is_named(state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        encode(state)


def older(**columns: list[Any]) -> pa.Table:
    """A stored Point with other fields."""
    return pa.table(columns).replace_schema_metadata(encode(Point(1.0)).schema.metadata)


@pytest.mark.parametrize(
    "table", [older(x=[1.0]), older(x=[[1.0, 2.0]], label=["a"]), older(x=["high"], label=["a"]), older(y=[1.0])]
)
def test_a_state_with_other_fields_is_refused_in_a_sentence(table: pa.Table) -> None:
    with pytest.raises(
        ValueError, match=r"must have the fields of this version's .*Point, but got .*; go on with the version"
    ):
        decode(Point, table)


def test_the_state_of_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must belong to this algorithm .*State.*, but got state_type='.*Point'"):
        decode(State, encode(Point(1.0)))
