"""The state of an algorithm as an Arrow table of one row, driven by type hints; nothing is pickled.

A state is a frozen dataclass whose fields are int, float, str, bool, str enums, numpy arrays (bool, int, uint, float),
tuples and mappings of these, nested dataclasses, evaluations, and Optional of all of them. A field typed Any or by a
type variable takes the type of the value it holds, for which `decode` needs a state that is built alike.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa

from evo.candidates import Evaluation
from evo.storage import rows

T = TypeVar("T")
_WHOLE = "<state>"  # no field can be called so
_PRIMITIVES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def encode(state: Any) -> pa.Table:
    """One column per field of a dataclass; exact for every float, NaN and infinities included.

    Raises TypeError naming the field that cannot be stored.
    """
    packed = _pack(type(state), [state])
    metadata = {"format_version": str(rows.FORMAT_VERSION), "state_type": _name(type(state))}
    if not pa.types.is_struct(packed.type):
        return pa.table({_WHOLE: packed}).replace_schema_metadata(metadata)
    return pa.Table.from_struct_array(packed).replace_schema_metadata(metadata)


def decode(state_type: type[T], table: pa.Table, like: T | None = None) -> T:
    """The inverse of `encode`. `like` is any state built by the same algorithm, say a fresh one."""
    stored = (table.schema.metadata or {}).get(b"state_type", b"").decode()
    if stored != _name(state_type):
        raise ValueError(
            f"the stored state must belong to this algorithm ({_name(state_type)}), but got state_type={stored!r}; "
            "resume with the algorithm that the run was started with"
        )
    packed = table[_WHOLE].combine_chunks() if table.column_names == [_WHOLE] else _one(table.to_struct_array())
    try:
        state = _unpack(state_type, packed, like)[0]
        encode(state)  # refuses values that its fields do not have
        return cast(T, state)
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise ValueError(
            f"the stored state must have the fields of this version's {stored}, but got {type(error).__name__}: {error}; "
            "go on with the version that the run was started with, or start a new one"
        ) from error


def _one(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _pack(hint: Any, values: list[Any]) -> pa.Array:
    """All `values` of one type as one column; None becomes null."""
    first = next((v for v in values if v is not None), None)
    hint = _concrete(hint, first)
    return pa.array(values, pa.bool_()) if hint is type(None) else _codec(hint)[0](hint, values)


def _unpack(hint: Any, packed: pa.Array, like: Any = None) -> list[Any]:
    hint = _concrete(hint, like)
    present = packed.is_valid().to_pylist()
    if not any(present):
        return [None] * len(present)
    values = _codec(hint)[1](hint, packed, like)
    return [v if there else None for v, there in zip(values, present, strict=True)]


def _concrete(hint: Any, value: Any) -> Any:
    """The hint without Optional; where it says nothing, the type of the value."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        alternatives = [a for a in typing.get_args(hint) if a is not type(None)]
        hint = alternatives[0] if len(alternatives) == 1 else Any
    if hint is Any or hint is object or isinstance(hint, TypeVar):
        return type(value)
    return hint


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _pack_dataclass(kind: type, values: list[Any]) -> pa.Array:
    if not _hints(kind):  # Parquet has no struct without fields
        return pa.array([None if v is None else True for v in values], pa.bool_())
    columns = [_pack_field(kind, name, values) for name in _hints(kind)]
    return pa.StructArray.from_arrays(columns, names=list(_hints(kind)), mask=_nulls(values))


def _pack_field(kind: type, name: str, values: list[Any]) -> pa.Array:
    column = [None if v is None else getattr(v, name) for v in values]
    try:
        return _pack(_hints(kind)[name], column)
    except _StorageTypeError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise _StorageTypeError(
            f"every field of a state must be storable, but got {kind.__name__}.{name}: {error}; "
            "use numbers, strings, numpy arrays, tuples, mappings or dataclasses of them"
        ) from error


class _StorageTypeError(TypeError):
    """Already names its field."""


def _unpack_dataclass(kind: type, packed: pa.Array, like: Any) -> list[Any]:
    hints = _hints(kind)
    if not hints:
        return [kind() for _ in packed]
    examples = {name: getattr(like, name) if isinstance(like, kind) else None for name in hints}
    columns = [_unpack(hint, packed.field(name), examples[name]) for name, hint in hints.items()]
    present = packed.is_valid().to_pylist()
    return [
        kind(**dict(zip(hints, row, strict=True))) if there else None
        for row, there in zip(zip(*columns, strict=True), present, strict=True)
    ]


def _pack_evaluations(_: Any, values: list[Any]) -> pa.Array:
    if None in values:
        raise TypeError("an evaluation in a state is never None")
    return _one(rows.to_table(values).to_struct_array())


def _unpack_evaluations(_: Any, packed: pa.Array, __: Any) -> Sequence[Any]:
    return rows.from_table(pa.Table.from_struct_array(packed))


def _pack_arrays(_: Any, values: list[Any]) -> pa.Array:
    present = [np.asarray(v) for v in values if v is not None]
    dtypes = sorted({str(v.dtype) for v in present})
    if len(dtypes) > 1 or any(v.dtype.kind not in "biuf" for v in present):
        raise TypeError(f"arrays of one field need one dtype, of bool, int, uint or float, but got {dtypes}")
    flat = np.concatenate([v.ravel() for v in present]) if present else np.empty(0)
    data = pa.ListArray.from_arrays(_offsets([0 if v is None else np.size(v) for v in values]), pa.array(flat))
    shape = pa.array([[] if v is None else list(np.shape(v)) for v in values], pa.list_(pa.int64()))
    return pa.StructArray.from_arrays([data, shape], names=["data", "shape"], mask=_nulls(values))


def _unpack_arrays(_: Any, packed: pa.Array, __: Any) -> list[Any]:
    data = packed.field("data")
    flat, ends = data.values.to_numpy(zero_copy_only=False), data.offsets.to_numpy().tolist()
    shapes = packed.field("shape").to_pylist()
    spans = zip(pairwise(ends), shapes, strict=True)
    return [flat[start:end].reshape(shape).copy() if end > start or shape else None for (start, end), shape in spans]


def _pack_lists(hint: Any, values: list[Any]) -> pa.Array:
    flat = _pack(typing.get_args(hint)[0], [item for v in values if v is not None for item in v])
    return pa.ListArray.from_arrays(_offsets([len(v or ()) for v in values]), flat, mask=_nulls(values))


def _unpack_lists(hint: Any, packed: pa.Array, _: Any) -> list[Any]:
    flat, ends = _unpack(typing.get_args(hint)[0], packed.values), packed.offsets.to_numpy().tolist()
    return [tuple(flat[start:end]) for start, end in pairwise(ends)]


def _pack_tuples(hint: Any, values: list[Any]) -> pa.Array:
    kinds = typing.get_args(hint)
    columns = [_pack(kind, [None if v is None else v[i] for v in values]) for i, kind in enumerate(kinds)]
    return pa.StructArray.from_arrays(columns, names=[str(i) for i in range(len(kinds))], mask=_nulls(values))


def _unpack_tuples(hint: Any, packed: pa.Array, _: Any) -> list[Any]:
    columns = [_unpack(kind, packed.field(i)) for i, kind in enumerate(typing.get_args(hint))]
    return list(zip(*columns, strict=True))


def _pack_mappings(hint: Any, values: list[Any]) -> pa.Array:
    return _pack_lists(_items(hint), [None if v is None else list(v.items()) for v in values])


def _unpack_mappings(hint: Any, packed: pa.Array, _: Any) -> list[Any]:
    return [dict(items) for items in _unpack_lists(_items(hint), packed, None)]


def _items(mapping: Any) -> Any:
    """The hint of a mapping's items: tuple[tuple[key, value], ...]."""
    return types.GenericAlias(tuple, (types.GenericAlias(tuple, typing.get_args(mapping)), ...))


def _pack_enums(_: Any, values: list[Any]) -> pa.Array:
    return pa.array([None if v is None else v.value for v in values], pa.string())


def _unpack_enums(hint: Any, packed: pa.Array, _: Any) -> list[Any]:
    return [None if v is None else hint(v) for v in packed.to_pylist()]


def _pack_primitives(hint: Any, values: list[Any]) -> pa.Array:
    kind = next(k for k in _PRIMITIVES if issubclass(hint, k))
    return pa.array(values, _PRIMITIVES[kind], from_pandas=False)


def _unpack_primitives(_: Any, packed: pa.Array, __: Any) -> list[Any]:
    return cast(list[Any], packed.to_pylist())


def _offsets(lengths: list[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int32())


def _nulls(values: list[Any]) -> pa.Array:
    return pa.array([v is None for v in values], pa.bool_())


_Codec = tuple[Callable[[Any, list[Any]], pa.Array], Callable[[Any, pa.Array, Any], Sequence[Any]]]


def _codec(hint: Any) -> _Codec:
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        args = typing.get_args(hint)
        return (_pack_lists, _unpack_lists) if len(args) == 2 and args[1] is ... else (_pack_tuples, _unpack_tuples)
    if not isinstance(origin, type):
        raise TypeError(f"no rule for {hint}")
    for kind, codec in _CODECS.items():
        if issubclass(origin, kind):
            return codec
    if dataclasses.is_dataclass(origin):
        return _pack_dataclass, _unpack_dataclass
    raise TypeError(f"no rule for {hint}")


_CODECS: Mapping[type, _Codec] = {
    Evaluation: (_pack_evaluations, _unpack_evaluations),
    Enum: (_pack_enums, _unpack_enums),
    np.ndarray: (_pack_arrays, _unpack_arrays),
    Mapping: (_pack_mappings, _unpack_mappings),
} | {kind: (_pack_primitives, _unpack_primitives) for kind in _PRIMITIVES}
