"""Evaluations as Arrow rows: the public contract of `evaluations/*.parquet`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evo.candidates import Candidate, Evaluation, Status

FORMAT_VERSION = 1
MANY = 500  # rows

EVALUATIONS = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("generation", pa.int32()),
        ("round", pa.int32()),
        ("step", pa.string()),
        ("role", pa.string()),
        ("genome", pa.list_(pa.int32())),
        ("parents", pa.list_(pa.string())),
        ("opponents", pa.list_(pa.string())),
        ("predecessor", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("measures", pa.map_(pa.string(), pa.float64())),
        ("weights_version", pa.int64()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
    ],
    metadata={"format_version": str(FORMAT_VERSION)},
)

_PREDECESSOR = EVALUATIONS.get_field_index("predecessor")
_WITHOUT_PREDECESSOR = EVALUATIONS.remove(_PREDECESSOR)


def to_table(evaluations: Sequence[Evaluation], round_number: int = 0) -> pa.Table:
    """One row per evaluation, in the given order. `round_number` says in which round of a run they were made."""
    candidates = [e.candidate for e in evaluations]
    columns: dict[str, Any] = {
        "key": [c.key for c in candidates],
        "id": [c.id for c in candidates],
        "generation": [c.generation for c in candidates],
        "round": [round_number] * len(candidates),
        "step": [c.step for c in candidates],
        "role": [c.role for c in candidates],
        "genome": [c.genome for c in candidates],
        "parents": [c.parents for c in candidates],
        "opponents": [c.opponents for c in candidates],
        "predecessor": [c.predecessor for c in candidates],
        "status": [e.status.value for e in evaluations],
        "reason": [e.reason for e in evaluations],
        "measures": _maps([e.measures for e in evaluations]),
        "weights_version": [e.weights_version for e in evaluations],
        "seconds": [e.seconds for e in evaluations],
        "worker": [e.worker for e in evaluations],
    }
    return pa.table(columns, schema=EVALUATIONS)


def _maps(maps: list[Mapping[str, float]]) -> pa.MapArray:
    """Keys and values of all maps in one go each."""
    ends = pa.array(np.cumsum([0, *map(len, maps)]), pa.int32())
    keys = pa.array([name for each in maps for name in each], pa.string())
    return pa.MapArray.from_arrays(ends, keys, pa.array([v for each in maps for v in each.values()], pa.float64()))


def from_table(table: pa.Table) -> tuple[Evaluation, ...]:
    """The inverse of `to_table`, exact to the bit of every float; `round` is left out."""
    table = _current(table)
    column = {name: table[name].combine_chunks() for name in table.column_names}
    plain = {name: column[name].to_pylist() for name in _PLAIN}
    plain |= {name: list(map(sys.intern, plain[name])) for name in _FEW}  # one string for all rows that hold it
    candidates = map(
        Candidate,
        plain["id"],
        plain["generation"],
        _tuples(column["genome"], column["genome"].values.to_numpy().tolist()),
        plain["step"],
        _tuples(column["parents"], column["parents"].values.to_pylist()),
        plain["role"],
        _tuples(column["opponents"], column["opponents"].values.to_pylist()),
        plain["predecessor"],
    )
    measures = column["measures"]
    items = list(zip(map(sys.intern, measures.keys.to_pylist()), measures.items.to_numpy().tolist(), strict=True))
    return tuple(
        map(
            Evaluation,
            candidates,
            map(Status, plain["status"]),
            map(dict, _tuples(measures, items)),
            plain["reason"],
            plain["weights_version"],
            plain["seconds"],
            plain["worker"],
        )
    )


def to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # Where there is little to win, zstd only takes longer than Parquet's usual snappy.
    pq.write_table(table, sink, compression="zstd" if len(table) >= MANY else "snappy", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(data: bytes) -> pa.Table:
    """Raises pyarrow.ArrowException or OSError where the bytes are not a whole Parquet file."""
    return _current(pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read())


def _current(table: pa.Table) -> pa.Table:
    """Evaluations as they were written before candidates had predecessors, with none; everything else as it is."""
    if not table.schema.equals(_WITHOUT_PREDECESSOR):
        return table
    return table.add_column(_PREDECESSOR, EVALUATIONS.field(_PREDECESSOR), pa.array([""] * len(table), pa.string()))


_FEW = ("step", "role", "predecessor", "reason", "worker")
_PLAIN = ("id", "generation", "step", "role", "predecessor", "status", "reason", "weights_version", "seconds", "worker")


def _tuples(lists: pa.ListArray, flat: list[Any]) -> list[tuple[Any, ...]]:
    """The rows of a list array whose `flat` values were converted in one go, which is what makes reading fast."""
    ends = lists.offsets.to_numpy().tolist()
    return [tuple(flat[start:end]) for start, end in pairwise(ends)]
