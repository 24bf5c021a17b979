"""datasets, pandas, DuckDB, Ray and PyArrow read a folder of tokens as it is: the calls of docs/codes_datasets.md."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiotok.dataset.codes_dataset import CodesDataset
from audiotok.dataset.opened import open_codes

from .folders import some_rows, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tokens", [some_rows(20), some_rows(15, first=20)])


def _same(rows: Iterable[Mapping[str, Any]], dataset: CodesDataset) -> None:
    """Each row, by its id, is that of the dataset."""
    count = 0
    for row in rows:
        ours = dataset[dataset.index(row["id"])]
        tokens = np.asarray(row["tokens"]).reshape(tuple(row["shape"]))
        assert np.array_equal(tokens, ours.tokens)
        assert (row["num_frames"], row["num_samples"]) == (ours.tokens.shape[1], ours.num_samples)
        assert (row["start"], row["duration"], row["text"]) == (ours.start, ours.duration, ours.columns["text"])
        count += 1
    assert count == len(dataset)


@pytest.mark.parametrize("call", ["folder", "parquet", "files", "streaming"])
def test_hugging_face_datasets_reads_it(call, folder, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    open_codes(folder)  # .opened is no concern of theirs
    arguments = {
        "folder": (str(folder),),
        "parquet": ("parquet", None, str(folder / "data")),
        "files": ("parquet", None, None, str(folder / "data" / "*.parquet")),
        "streaming": (str(folder),),
    }
    streaming = call == "streaming"
    found = datasets.load_dataset(
        *arguments[call], split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming
    )
    assert streaming or found.column_names[:3] == ["id", "tokens", "shape"]
    assert str(found.features["tokens"]) == "List(Value('uint16'))"
    _same(found, open_codes(folder))
    if not streaming:
        _same(found.with_format("torch"), open_codes(folder))


def test_pandas_reads_it(folder):
    import pandas

    table = pandas.read_parquet(folder / "data")
    _same(table.to_dict("records"), open_codes(folder))
    assert table["speaker"].isna().sum() == 12


def test_duckdb_reads_it(folder):
    import duckdb

    with duckdb.connect() as connection:
        relation = connection.sql(f"SELECT * FROM '{folder}/data/*.parquet'")
        _same((dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()), open_codes(folder))
        frames = connection.sql(f"SELECT sum(num_frames), sum(len(tokens)) FROM '{folder}/data/*.parquet'").fetchall()[
            0
        ]
    assert frames == (open_codes(folder).lengths.sum(), 3 * open_codes(folder).lengths.sum())


def test_pyarrow_reads_it_a_few_rows_at_a_time(folder):
    import pyarrow.dataset

    scanned = pyarrow.dataset.dataset(folder / "data").to_batches(batch_size=4)
    _same((row for batch in scanned for row in batch.to_pylist()), open_codes(folder))


_RAY = """
import json, sys
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
for row in ray.data.read_parquet(sys.argv[1] + "/data").iter_rows():
    row["tokens"], row["shape"] = [int(token) for token in row["tokens"]], [int(size) for size in row["shape"]]
    print("row", json.dumps(row))
"""


def test_ray_reads_it(folder):
    """In a process of its own, as Ray starts others and keeps them."""
    run = subprocess.run([sys.executable, "-c", _RAY, folder], capture_output=True, text=True, check=True)
    rows = [json.loads(line.removeprefix("row ")) for line in run.stdout.splitlines() if line.startswith("row ")]
    _same(rows, open_codes(folder))


def test_nothing_is_left_in_the_way_of_other_readers(folder):
    """Beside the shards, data/ holds nothing, whatever was done with the folder."""
    open_codes(folder)
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "tokens-00000.parquet",
        "tokens-00001.parquet",
    ]
