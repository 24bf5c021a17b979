"""Shards that are broken or lie are named and refused, and nothing is left of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from audiotok import Spec
from audiotok.dataset import mapped
from audiotok.dataset.opened import open_codes
from audiotok.dataset.shards import Row
from audiotok.errors import CheckpointError

from .folders import SPEC, some_rows, write_folder

Change = Callable[[Any], Any]


def _with(name: str, column: Callable[[Any], Any]) -> Change:
    """A table with a column replaced."""
    return lambda table: table.set_column(table.column_names.index(name), name, column(table[name]))


def _edited(name: str, row: int, value: Any) -> Change:
    """A table with one value replaced."""

    def edit(column: Any) -> Any:
        values = column.to_pylist()
        values[row] = value
        return pa.array(values, column.type)

    return _with(name, edit)


_PAIR = pa.list_(pa.int32(), 2)
LIES: dict[str, tuple[str, Change]] = {
    "a shape that is not the list's": ("shapes of tokens", _edited("shape", 2, [3, 1000])),
    "a shape that wraps around": ("shapes of tokens", _edited("shape", 0, [3, 2**31 - 1])),
    "negative frames": ("shapes of tokens", _edited("shape", 0, [3, -4])),
    "negative codebooks": ("3 codebooks of demo", _edited("shape", 0, [-3, -4])),
    "other codebooks": ("3 codebooks of demo", _edited("shape", 0, [1, 3])),
    "no shape": ("column shape has empty rows", _edited("shape", 1, None)),
    "half a shape": ("empty values", _edited("shape", 1, [3, None])),
    "a token that is none": ("tokens that demo does not have", _edited("tokens", 0, [1000] * 36)),
    "no tokens": ("column tokens has empty rows", _edited("tokens", 0, None)),
    "a token missing": ("empty values", _edited("tokens", 0, [None] * 36)),
    "another number of frames": ("num_frames is not", _edited("num_frames", 3, 7)),
    "negative samples": ("num_samples is negative", _edited("num_samples", 3, -1)),
    "a start that is no number": ("start is not finite", _edited("start", 3, float("nan"))),
    "an endless duration": ("duration is not finite", _edited("duration", 3, float("inf"))),
    "no id": ("column id has empty rows", _edited("id", 3, None)),
    "an id that is no text": ("UTF8", _with("id", lambda ids: pa.array([b"\xff"] * len(ids)).view(pa.string()))),
    "tokens of another type": ("tokens cannot be", _with("tokens", lambda c: c.cast(pa.list_(pa.int64())))),
    "tokens that are texts": ("tokens cannot be", _with("tokens", lambda c: pa.array(["1"] * len(c)))),
    "shapes of another type": ("shape cannot be", _with("shape", lambda c: c.cast(pa.list_(pa.int64(), 2)))),
    "shapes of three": (
        "shape cannot be",
        _with("shape", lambda c: pa.array([[3, 1, 1]] * len(c), pa.list_(pa.int32(), 3))),
    ),
    "an id that is a number": ("id cannot be", _with("id", lambda c: pa.array(range(len(c))))),
    "a carried list": ("text cannot be", _with("text", lambda c: pa.array([["a"]] * len(c)))),
    "a missing column": ("column start is missing", lambda table: table.drop_columns("start")),
    "a column twice": ("column id is missing, or there twice", lambda table: table.append_column("id", table["id"])),
}


def _refused(folder: Path, reason: str) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"tokens-00000\.parquet.*{reason}"):
            open_codes(folder)
    assert list((folder / ".opened").glob("*")) == []


@pytest.mark.parametrize("name", LIES)
def test_a_shard_that_lies_is_named_with_the_reason(name, tmp_path):
    reason, change = LIES[name]
    rows = some_rows(5, frames=(12, 13))
    folder = write_folder(tmp_path, [rows])
    assert len(open_codes(folder, cache_dir=tmp_path / "cache")) == 5
    path = folder / "data" / "tokens-00000.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)
    _refused(folder, reason)


@pytest.mark.parametrize(("shape", "value"), [([-2, -1], [1.0, 2.0]), ([3, 1], [1.0]), ([65536, 65536], [])])
def test_extras_whose_shape_is_not_that_of_their_values_are_refused(shape, value, tmp_path):
    rows = [
        Row(row.id, row.tokens, row.num_samples, 0.0, 1.0, {}, {"scale": np.ones((1, 2), np.float32)})
        for row in some_rows(3)
    ]
    folder = write_folder(tmp_path, [rows], columns={})
    path = folder / "data" / "tokens-00000.parquet"
    table = pyarrow.parquet.read_table(path)
    changed = _edited("extra_scale_shape", 1, shape)(_edited("extra_scale", 1, value)(table))
    pyarrow.parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    _refused(folder, "shapes of extra_scale are not those of its lists")


def test_each_codebook_has_its_own_size(tmp_path):
    spec = Spec("demo", 16000, 320, (2, 300, 4))
    right = np.array([[1, 0, 1], [299, 299, 0], [3, 3, 3]], np.uint16)
    rows = [Row(f"{i}", right[:, : i % 4], 1, 0.0, 1.0) for i in range(9)]
    assert open_codes(write_folder(tmp_path / "a", [rows], spec=spec, columns={}))[3].tokens.tolist() == right.tolist()
    for codebook, wrong in enumerate([2, 300, 4]):
        tokens = right.copy()
        tokens[codebook, 2] = wrong
        bad = [*rows, Row("bad", tokens, 1, 0.0, 1.0)]
        folder = write_folder(tmp_path / f"{codebook}", [bad], spec=spec, columns={})
        _refused(folder, r"tokens that demo does not have: its codebooks have \(2, 300, 4\) entries")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_shard_is_named(keep, tmp_path):
    folder = write_folder(tmp_path, [some_rows(200)])
    path = folder / "data" / "tokens-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    _refused(folder, "")


def test_a_shard_truncated_after_the_folder_was_opened_is_named(tmp_path):
    folder = write_folder(tmp_path, [some_rows(200)])
    open_codes(folder)
    path = folder / "data" / "tokens-00000.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"tokens-00000\.parquet"):
        open_codes(folder)


def test_a_shard_with_any_byte_changed_opens_to_tokens_of_the_tokenizer_or_is_named(tmp_path):
    folder = write_folder(tmp_path, [some_rows(100)])
    path = folder / "data" / "tokens-00000.parquet"
    data, random, errors = path.read_bytes(), np.random.default_rng(0), []
    # Anywhere, and in the footer, where an error of the reader may end the process.
    for place in [*random.integers(0, len(data), 100), *random.integers(len(data) - 2500, len(data), 200)]:
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            rows = open_codes(folder)[:]
        except CheckpointError as error:
            errors.append(str(error))
        else:
            assert all(row.tokens.shape[0] == SPEC.num_codebooks and int(row.tokens.max()) < 1000 for row in rows)
    assert len(errors) > 10
    assert all(path.name in error for error in errors)


def test_a_row_group_that_claims_more_than_any_has_is_not_read(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, [some_rows(100)])
    monkeypatch.setattr(mapped, "MAX_GROUP_BYTES", 100)
    _refused(folder, "row group 0 claims")


def test_an_arrow_file_whose_contents_were_changed_is_refused_where_it_points_outside(tmp_path):
    folder = write_folder(tmp_path, [some_rows(100)])
    open_codes(folder)
    path = folder / ".opened" / "tokens-00000.arrow"
    reader = pa.ipc.open_file(path)
    batch = reader.get_batch(0)
    offsets = batch.column("tokens").offsets.to_numpy()
    data = path.read_bytes().replace(offsets.tobytes(), (offsets * 1000).tobytes())
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tokens-00000\.arrow is broken: .*; delete it, and open again"):
        open_codes(folder)[0]
