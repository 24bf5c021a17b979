"""The shard format: what is written is what any reader of Parquet finds."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet
import pytest

from audiotok import Spec
from audiotok.dataset import shards
from audiotok.dataset.shards import Row, as_column, column_type, read_shard_facts, shard_name, token_dtype, write_shard
from audiotok.errors import CheckpointError, InputError

from .folders import COLUMNS, FINGERPRINT, SPEC, some_rows


def test_every_reader_of_parquet_finds_the_columns_that_the_page_names(tmp_path):
    rows = some_rows(5)
    write_shard(tmp_path / "one.parquet", rows, SPEC, FINGERPRINT, COLUMNS)
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet")
    types = {field.name: str(field.type).replace("element: ", "") for field in table.schema}
    assert types == {
        "id": "string",
        "tokens": "list<uint16>",
        "shape": "fixed_size_list<int32>[2]",
        "num_frames": "int32",
        "num_samples": "int64",
        "start": "double",
        "duration": "double",
        "text": "string",
        "speaker": "int64",
    }
    for row, read in zip(rows, table.to_pylist(), strict=True):
        assert read == {
            "id": row.id,
            "tokens": row.tokens.reshape(-1).tolist(),
            "shape": list(row.tokens.shape),
            "num_frames": row.tokens.shape[1],
            "num_samples": row.num_samples,
            "start": row.start,
            "duration": row.duration,
            **row.columns,
        }
    assert read_shard_facts(tmp_path / "one.parquet") == (SPEC, FINGERPRINT)


def test_extras_keep_their_types_and_shapes_one_number_a_vector_or_none(tmp_path):
    extras = [
        {
            "gain": np.float32(i / 2),
            "scale": np.arange(2 * i, dtype=np.float32).reshape(2, i),
            "speaker": np.array([2**60 + i, -i]),
        }
        for i in range(3)
    ]
    rows = [
        Row(row.id, row.tokens, row.num_samples, row.start, row.duration, extras=extra)
        for row, extra in zip(some_rows(3), extras, strict=True)
    ]
    write_shard(tmp_path / "one.parquet", rows, SPEC, FINGERPRINT, {})
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet")
    types = [str(table[f"extra_{name}"].type.value_type) for name in extras[0]]
    assert types == ["float", "float", "int64"]
    for read, extra in zip(table.to_pylist(), extras, strict=True):
        for name, value in extra.items():
            found = np.asarray(read[f"extra_{name}"], value.dtype).reshape(read[f"extra_{name}_shape"])
            assert np.array_equal(found, value)


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_tokens_lie_in_the_smallest_type_that_holds_the_largest_codebook(size, dtype, tmp_path):
    spec = Spec("demo", 16000, 320, (2, size))
    assert np.dtype(token_dtype(spec)) == dtype
    tokens = np.array([[1, 0], [size - 1, 0]], dtype)
    write_shard(tmp_path / "one.parquet", [Row("a", tokens, 640, 0.0, 0.04)], spec, "", {})
    read = pyarrow.parquet.read_table(tmp_path / "one.parquet")["tokens"]
    assert str(read.type.value_type) == dtype
    assert read.to_pylist() == [[1, 0, size - 1, 0]]


def test_row_groups_hold_about_as_many_tokens_as_they_should(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 10_000)
    rows = some_rows(300, frames=(50, 51))  # 300 bytes each
    write_shard(tmp_path / "one.parquet", rows, SPEC, FINGERPRINT, {})
    file = pyarrow.parquet.ParquetFile(tmp_path / "one.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(sizes) == 300
    assert all(25 <= size <= 34 for size in sizes[:-1])


def test_a_shard_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "one.parquet"
    write_shard(path, some_rows(2), SPEC, FINGERPRINT, {})
    before = path.read_bytes()
    with pytest.raises(pyarrow.ArrowInvalid):  # a value that its column cannot hold
        write_shard(path, some_rows(3), SPEC, FINGERPRINT, {"text": "int"})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["one.parquet"]


def test_shards_are_numbered_so_that_readers_sort_them():
    assert [shard_name(number) for number in (0, 12, 123456)] == [
        "data/tokens-00000.parquet",
        "data/tokens-00012.parquet",
        "data/tokens-123456.parquet",
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"audiotok": "no json"},
        {"audiotok": "[]"},
        {"audiotok": '{"spec": [], "fingerprint": ""}'},
        {"audiotok": '{"spec": {"name": "demo"}, "fingerprint": ""}'},
        {"audiotok": "[" * 100_000},
    ],
)
def test_a_parquet_file_of_something_else_is_named_and_refused(metadata, tmp_path):
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}).replace_schema_metadata(metadata), path)
    with pytest.raises(CheckpointError, match=r"other\.parquet is no shard"):
        read_shard_facts(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.parquet"):
        read_shard_facts(tmp_path / "nothing.parquet")


_VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))


@hypothesis.given(st.lists(_VALUES, min_size=1, max_size=5))
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
def test_a_carried_column_holds_whatever_came_in_as_it_was_or_as_text(values):
    kind = None
    for value in values:
        kind = column_type(kind, value)
    if kind is None:
        assert values == [None] * len(values)
        return
    arrow = getattr(pyarrow, shards.COLUMN_TYPES[kind])()
    read = pyarrow.array([as_column(value, kind) for value in values], arrow).to_pylist()
    for value, found in zip(values, read, strict=True):
        if value is None or kind != "text" or isinstance(value, str):
            assert found == value if kind != "float" or value is None else found == float(value)
        else:
            assert isinstance(found, str)


def test_a_column_of_something_else_cannot_be_carried():
    with pytest.raises(InputError, match="holds a list"):
        column_type(None, [1])
