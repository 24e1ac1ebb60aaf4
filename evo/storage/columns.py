"""All evaluations of a search in compressed columns: memory grows by tens of bytes an evaluation, not by kilobytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evo.candidates import Evaluation
from evo.storage.rows import EVALUATIONS, from_parquet, from_table, to_parquet, to_table

PART = 4096  # rows that are compressed, and made into objects, together
FEW = 100
OPENED = 4  # parts that stay uncompressed after somebody asked for one row of them
NOTHING: pa.Table = EVALUATIONS.empty_table()


@dataclass(frozen=True, eq=False)
class _Sealed:
    """Rows as a Parquet file in memory: 60 genes and 3 measures take some 70 bytes, less than as plain numbers."""

    data: bytes
    rows: int


@lru_cache(maxsize=OPENED)
def _opened(part: _Sealed) -> pa.Table:
    return from_parquet(part.data)


class Archive(Sequence[Evaluation]):
    """Evaluations in the order in which they were committed. A value: `plus` gives a longer one, which shares what both hold.

    An Evaluation is made when it is asked for and forgotten after that: go through `parts`, which makes some thousands at a
    time, or take the rows that are needed by `take`.
    """

    __slots__ = ("_last", "_sealed", "_starts")

    def __init__(self, sealed: tuple[_Sealed, ...] = (), last: pa.Table = NOTHING) -> None:
        self._sealed, self._last = sealed, last
        self._starts = np.cumsum([0, *(part.rows for part in sealed)])

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation]) -> Archive:
        if isinstance(evaluations, Archive):
            return evaluations
        archive, rows = cls(), iter(evaluations)
        while some := tuple(islice(rows, PART)):
            archive = archive.plus(to_table(some))
        return archive

    def plus(self, table: pa.Table) -> Archive:
        """With further rows, in the columns of `evo.storage.rows`."""
        last = pa.concat_tables([self._last, table])
        if len(last) < PART:
            return Archive(self._sealed, last.combine_chunks())
        return Archive((*self._sealed, _Sealed(to_parquet(last), len(last))))

    def __len__(self) -> int:
        return int(self._starts[-1]) + len(self._last)

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Evaluation, ...]: ...
    def __getitem__(self, index: int | slice) -> Evaluation | tuple[Evaluation, ...]:
        wanted = range(len(self))[index]
        return self.take((wanted,))[0] if isinstance(wanted, int) else self.take(wanted)

    def __iter__(self) -> Iterator[Evaluation]:
        for part in self.parts():
            yield from part

    def __reversed__(self) -> Iterator[Evaluation]:
        for end in range(len(self), 0, -FEW):
            yield from reversed(self.take(range(max(0, end - FEW), end)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Archive):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return len(self)

    def __repr__(self) -> str:
        return f"Archive of {len(self)} evaluations"

    def take(self, positions: Sequence[int]) -> tuple[Evaluation, ...]:
        """The evaluations at these positions, in their order."""
        at = np.asarray(positions, dtype=np.int64)
        holder = np.searchsorted(self._starts, at, side="right") - 1
        made: dict[int, Evaluation] = {}
        for part in np.unique(holder).tolist():
            inside = at[holder == part]
            table = self._kept_table(part).take(inside - self._starts[part])
            made |= dict(zip(inside.tolist(), from_table(table), strict=True))
        return tuple(made[position] for position in at.tolist())

    def named(self, key: str) -> Evaluation | None:
        """The evaluation of this key, which is unique within a run."""
        for part in reversed(range(len(self._sealed) + 1)):
            at: int = pc.index(self._kept_table(part)["key"], key).as_py()
            if at >= 0:
                return self.take((int(self._starts[part]) + at,))[0]
        return None

    def parts(self, start: int = 0) -> Iterator[tuple[Evaluation, ...]]:
        """All evaluations from a position on, some thousands at a time."""
        for part in range(len(self._sealed) + 1):
            skipped = max(0, start - int(self._starts[part]))
            if len(table := self._table(part).slice(skipped)):
                yield from_table(table)

    def backwards(self) -> Iterator[tuple[Evaluation, ...]]:
        """The same parts, the newest first; inside a part the order stays."""
        return filter(None, (from_table(self._table(part)) for part in reversed(range(len(self._sealed) + 1))))

    def tables(self) -> Iterator[pa.Table]:
        """All rows in the columns of `evo.storage.rows`."""
        return map(self._table, range(len(self._sealed) + 1))

    def _table(self, part: int) -> pa.Table:
        return from_parquet(self._sealed[part].data) if part < len(self._sealed) else self._last

    def _kept_table(self, part: int) -> pa.Table:
        return _opened(self._sealed[part]) if part < len(self._sealed) else self._last


EMPTY = Archive()
