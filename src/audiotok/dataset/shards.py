"""Shards: Parquet files of tokens that pandas, DuckDB, `datasets` and Ray read without any code of ours.

A row is one item. Its columns: id; tokens, [K, F] row by row as one list of the smallest unsigned integer type; shape,
(K, F); num_frames, F; num_samples, at the tokenizer's rate; start and duration in the recording, in seconds; for each
extra NAME of the codes, extra_NAME (int64 or float32) and extra_NAME_shape; then the columns that the source carried
along.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, InputError, MissingDependencyError
from ..files import atomic_write
from ..spec import Spec

#: In a folder of their own, since readers of a folder of Parquet want nothing else in it.
PATTERN = "data/tokens-*.parquet"
OWN_COLUMNS = ("id", "tokens", "shape", "num_frames", "num_samples", "start", "duration")
_ROW_GROUP_BYTES, _ROW_GROUP_ROWS = 4 << 20, 4096  # of tokens: what a reader that wants one row must read
_METADATA = b"audiotok"

#: Types of carried columns as the ledger names them, by what they become in Parquet.
COLUMN_TYPES = {"bool": "bool_", "int": "int64", "float": "float64", "text": "string"}


@dataclass(frozen=True)
class Row:
    """One item's tokens [K, F] and what is stored beside them; `columns` are the carried ones."""

    id: str
    tokens: npt.NDArray[np.unsignedinteger[Any]]
    num_samples: int
    start: float
    duration: float
    columns: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def pyarrow() -> Any:
    """The package, with its Parquet part.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("datasets of tokens need pyarrow: pip install 'audiotok[dataset]'") from error
    return pyarrow


def token_dtype(spec: Spec) -> npt.DTypeLike:
    """The smallest unsigned integer type that holds every token."""
    return np.min_scalar_type(max(spec.codebook_sizes) - 1)


def shard_name(number: int) -> str:
    """The file of shard `number`, below the folder of the dataset."""
    return f"data/tokens-{number:05d}.parquet"


def write_shard(path: Path, rows: Iterable[Row], spec: Spec, fingerprint: str, columns: Mapping[str, str]) -> None:
    """Writes rows as a whole file or not at all; no more of them are in memory than a reader must read for one.

    Args:
        path: of the file.
        rows: at least one.
        spec: of the tokenizer, with the codebooks in use.
        fingerprint: of the tokenizer.
        columns: name -> one of `COLUMN_TYPES`, of the carried columns.

    Raises:
        OSError: it cannot be written.
    """
    pa = pyarrow()
    facts = json.dumps({"spec": spec.to_dict(), "fingerprint": fingerprint}, sort_keys=True)
    tables = (
        _table(pa, group, spec, columns).replace_schema_metadata({_METADATA: facts}) for group in _row_groups(rows)
    )
    first = next(tables)
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file, pa.parquet.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=len(table))


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += row.tokens.nbytes
        if size >= _ROW_GROUP_BYTES or len(group) == _ROW_GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(pa: Any, rows: Sequence[Row], spec: Spec, columns: Mapping[str, str]) -> Any:
    dtype = np.dtype(token_dtype(spec))
    data = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "tokens": _lists(pa, [row.tokens.astype(dtype, copy=False).reshape(-1) for row in rows], dtype),
        "shape": _shapes(pa, [row.tokens.shape for row in rows], 2),
        "num_frames": pa.array([row.tokens.shape[1] for row in rows], pa.int32()),
        "num_samples": pa.array([row.num_samples for row in rows], pa.int64()),
        "start": pa.array([row.start for row in rows], pa.float64()),
        "duration": pa.array([row.duration for row in rows], pa.float64()),
    }
    for name in rows[0].extras:
        values = [row.extras[name] for row in rows]
        data[f"extra_{name}"] = _lists(pa, [value.reshape(-1) for value in values], values[0].dtype)
        data[f"extra_{name}_shape"] = _shapes(pa, [value.shape for value in values], values[0].ndim)
    for name, kind in columns.items():
        data[name] = pa.array([row.columns.get(name) for row in rows], getattr(pa, COLUMN_TYPES[kind])())
    return pa.table(data)


def read_shard_facts(path: str | os.PathLike[str]) -> tuple[Spec, str]:
    """The spec and the fingerprint that a shard was written with.

    Raises:
        CheckpointError: it is no shard of ours, or broken.
    """
    pa = pyarrow()
    try:
        metadata = pa.parquet.read_schema(path).metadata or {}
        facts = json.loads(metadata[_METADATA])
        return Spec.from_dict(facts["spec"]), str(facts["fingerprint"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no shard of audiotok tokens: {error}") from error


def column_type(seen: str | None, value: object) -> str | None:
    """The type of a carried column that holds `value` beside values of type `seen` (None: only empty ones so far).

    Example:
        >>> column_type(None, 3), column_type("int", 0.5), column_type("int", "x"), column_type("bool", None)
        ('int', 'float', 'text', 'bool')
    """
    if value is None:
        return seen
    kind = {bool: "bool", int: "int", float: "float", str: "text"}.get(type(value))
    if kind is None:
        raise InputError(f"a column to carry along holds a {type(value).__name__}: text, numbers and booleans can be")
    if kind == "int" and not -(2**63) <= value < 2**63:  # type: ignore[operator]
        kind = "text"
    if seen in (None, kind):
        return kind
    return "float" if {seen, kind} == {"int", "float"} else "text"


def as_column(value: object, kind: str) -> object:
    """A value as a column of that type holds it."""
    if value is None or kind == "bool":
        return value
    if kind == "float":
        return float(value)  # type: ignore[arg-type]
    if kind == "int":
        return value
    return value if isinstance(value, str) else json.dumps(value)


def _lists(pa: Any, values: Sequence[npt.NDArray[Any]], dtype: np.dtype[Any]) -> Any:
    offsets = np.cumsum([0] + [len(value) for value in values])
    if offsets[-1] >= 2**31:
        raise InputError("a shard holds at most 2^31 tokens: lower shard_bytes")
    flat = np.concatenate(values) if values else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.from_numpy_dtype(dtype)))


def _shapes(pa: Any, shapes: Sequence[tuple[int, ...]], rank: int) -> Any:
    flat = pa.array(np.asarray(shapes, np.int32).reshape(-1))
    if rank == 0:
        return pa.array([[] for _ in shapes], pa.list_(pa.int32()))
    return pa.FixedSizeListArray.from_arrays(flat, rank)
