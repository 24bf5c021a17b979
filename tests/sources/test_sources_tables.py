"""Parquet and Hugging Face datasets."""

import json
import pickle
import sys
from pathlib import Path

import datasets
import pyarrow
import pytest
import torch
from pyarrow import parquet

from audiotok.errors import AudioFileError, HubError, InputError, MissingDependencyError
from audiotok.sources import open_source, read_ahead, with_lengths
from audiotok.sources.parquet import ParquetSource
from tests.sources.conftest import cells, read_all, same


@pytest.fixture
def sound(rows):
    return [Path(row["path"]).read_bytes() for row in rows]


def write(path, columns, size=2):
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=size)
    return path


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_bare_bytes_and_default_ids(tmp_path, sound, expected, kind):
    for name in ("test/0.parquet", "train/0.parquet"):
        write(tmp_path / name, {"wav": pyarrow.array(sound, kind)})
    source = open_source([tmp_path / "test/0.parquet", tmp_path / "train/0.parquet"])
    items = list(source.items())
    assert [item.id for item in items] == [f"{split}/0:{row}" for split in ("test", "train") for row in range(5)]
    assert [item.block for item in items] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    found = [source.read(item, 16000, 1) for item in items]
    assert all(torch.equal(wav, wanted) for wav, wanted in zip(found, [*expected.values()] * 2, strict=True))


def test_plain_columns_are_carried_and_others_are_not(tmp_path, rows):
    columns = {
        "audio": cells(rows),
        "utt_id": pyarrow.array([f"u{i}" for i in range(5)]),
        "kind": pyarrow.array(["a", "b", "a", None, "b"]).dictionary_encode(),
        "n": pyarrow.array(range(5), pyarrow.int8()),
        "x": pyarrow.array([0.5] * 5, pyarrow.float32()),
        "yes": [True] * 5,
        "vector": [[1.0, 2.0]] * 5,
        "none": pyarrow.nulls(5),
    }
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "a.parquet", columns)
    items = list(open_source(tmp_path / "d").items())
    assert [item.id for item in items] == [f"u{i}" for i in range(5)]
    assert items[3].columns == {"kind": None, "n": 3, "x": 0.5, "yes": True}


def test_a_block_is_read_once_for_its_items_and_once_for_their_lengths(make, monkeypatch):
    source = open_source(make("parquet"))
    read = []
    whole = parquet.ParquetFile.read_row_group

    def counted(self, group, *args, **kwargs):
        read.append((group, kwargs["columns"]))
        return whole(self, group, *args, **kwargs)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    items = list(with_lengths(source, source.items()))
    assert read == [(0, ["audio"]), (1, ["audio"]), (2, ["audio"])]
    assert all(item.seconds for item in items)
    read.clear()
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000
    for item in items:
        copy.read(item, 16000, 1)
    assert [group for group, _ in read] == [0, 1, 2]


def test_cells_may_name_files_or_be_empty(tmp_path, rows, expected):
    audio = [{"bytes": None, "path": "../data/" + Path(rows[0]["path"]).name}, {"bytes": None, "path": None}, None]
    path = write(tmp_path / "t" / "a.parquet", {"audio": [*audio, {"bytes": b"x", "path": None}]})
    source = open_source(path)
    (batch,) = read_ahead(source, [list(source.items())], sample_rate=16000, channels=1)
    assert torch.equal(batch.rows[0], expected["clip0"])
    assert [failure.item.id for failure in batch.failures] == ["a:1", "a:2", "a:3"]
    assert "there is no audio in row 0:0:1: neither bytes nor a path" in batch.failures[0].reason


def test_the_column_of_the_audio_is_named_where_there_are_two(tmp_path, rows, expected):
    path = write(tmp_path / "t" / "a.parquet", {"a": cells(rows), "b": cells(rows[::-1]), "n": range(5)})
    with pytest.raises(InputError, match="several columns that may hold audio: give column=, one of a, b"):
        open_source(path)
    with pytest.raises(InputError, match=r"several columns .*, named 'n': give column=, one of a, b"):
        open_source(path, column="n")
    first = next(iter(read_all(open_source(path, column="b")).values()))
    assert torch.equal(first, expected["clip4"])
    with pytest.raises(InputError, match=r"no column of bytes, or of \{bytes, path\}: give column=, one of n"):
        open_source(write(tmp_path / "t" / "b.parquet", {"n": range(5)}))


def test_broken_parquet(tmp_path, make):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 rubbish PAR1" * 9)
    with pytest.raises(InputError, match=r"cannot read .*a.parquet as Parquet"):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(AudioFileError, match=r"no such file: .*gone.parquet"):
        open_source("gone.parquet")
    path = make("parquet")
    meta = parquet.ParquetFile(path).metadata.row_group(1).column(3)
    assert meta.path_in_schema == "audio.bytes"
    data = bytearray(path.read_bytes())
    data[meta.data_page_offset : meta.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    source = open_source(path)
    (batch,) = read_ahead(source, [list(source.items())], sample_rate=16000, channels=1)
    assert [item.id for item in batch.items] == ["clip0", "clip1", "clip4"]
    assert all("as Parquet" in failure.reason for failure in batch.failures)
    with pytest.raises(InputError, match="there are no rows in"):
        list(open_source(write(tmp_path / "t" / "e.parquet", {"audio": pyarrow.array([], pyarrow.binary())})).items())


def test_a_packages_absence_is_named(make, monkeypatch):
    path, folder = make("parquet"), make("saved")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pyarrow", "datasets")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow: pip install 'audiotok\[dataset\]'"):
        ParquetSource([path])
    with pytest.raises(MissingDependencyError, match=r"needs datasets: pip install 'audiotok\[hf\]'"):
        open_source(folder)


def test_rows_without_an_id_are_numbered_and_labels_are_numbers(rows):
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["no", "yes"]), "v": datasets.List(datasets.Value("int8"))}
    )
    table = datasets.Dataset.from_dict({"label": [0, 1] * 6, "v": [[1]] * 12}, features=features)
    table = table.add_column("sound", [row["path"] for row in rows * 3][:12]).cast_column("sound", datasets.Audio())
    items = list(open_source(table).items())
    assert [item.id for item in items] == [f"{row:02d}" for row in range(12)]
    assert items[11].columns == {"label": 1}


def test_chosen_and_shuffled_rows(make, expected):
    table = make("huggingface")
    found = read_all(open_source(table.select([3, 1])))
    assert list(found) == ["clip3", "clip1"]
    assert same(found, {name: expected[name] for name in ("clip3", "clip1")})
    assert open_source(table.shuffle(seed=1)).identity() != open_source(table).identity()
    assert same(read_all(open_source(table.shuffle(seed=1))), expected)


def test_identity_of_a_dataset_does_not_depend_on_how_it_came_about(make, tmp_path):
    saved = make("saved")
    one = open_source(datasets.load_from_disk(saved))
    again = open_source(datasets.load_from_disk(saved).select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0]))
    assert one.identity() == again.identity()
    table = datasets.load_from_disk(saved)
    assert open_source(table.select(range(4))).identity() != one.identity()
    other = table.map(
        lambda row: {"audio": {**row["audio"], "bytes": row["audio"]["bytes"] + b"x"}}, load_from_cache_file=False
    )
    assert open_source(other).identity() != one.identity()


def test_a_dataset_on_the_disk_is_pickled_by_name(make, sound):
    assert len(pickle.dumps(open_source(make("saved")))) < min(map(len, sound)) + 4000


def test_splits_streams_and_columns_are_asked_for(make, tmp_path):
    table = make("huggingface")
    splits = datasets.DatasetDict(train=table, test=table)
    with pytest.raises(InputError, match="a Hugging Face dataset has several splits: choose one of train, test"):
        open_source(splits)
    splits.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match=r"splits has several splits: choose one of train, test"):
        open_source(tmp_path / "splits")
    with pytest.raises(InputError, match="is a IterableDataset, which has no rows to come back to: load it with"):
        open_source(table.to_iterable_dataset())
    with pytest.raises(
        InputError, match="no Audio column, but id, text: make one of a path's with dataset.cast_column"
    ):
        open_source(table.select_columns(["id", "text"]))
    two = table.add_column("b", list(make("files"))[::-1]).cast_column("b", datasets.Audio())
    with pytest.raises(InputError, match="several Audio columns, but audio, b: give column="):
        open_source(two)
    with pytest.raises(InputError, match="several Audio columns named 'c', but audio, b"):
        open_source(two, column="c")
    assert torch.equal(
        read_all(open_source(two, column="b"))["clip4"], read_all(open_source(two, column="audio"))["clip0"]
    )


def test_names_for_load_dataset(make, tmp_path, expected, monkeypatch):
    path = make("parquet")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "repo").mkdir()
    path.rename(tmp_path / "repo" / "train.parquet")
    card = {"configs": [{"config_name": "clean", "data_files": [{"split": "train", "path": "train.parquet"}]}]}
    (tmp_path / "repo" / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    repository = f"hf:{tmp_path / 'repo'}"
    with pytest.raises(InputError, match=r"has several splits: give hf:.*/repo:train"):
        open_source(repository)
    with pytest.raises(InputError, match=r"cannot load .*:nothing: "):
        open_source(f"{repository}:nothing")
    assert same(read_all(open_source(f"{repository}:clean:train")), expected)
    with pytest.raises(InputError, match='is "hf:user/repo:split" or "hf:user/repo:config:split", not'):
        open_source("hf:a/b::c")
    with pytest.raises(HubError, match=r"cannot load hf:nobody/nothing:train"):
        open_source("hf:nobody/nothing:train")


def test_forked_workers_read_after_this_process_did(start_processes, make, expected):
    start_processes("fork")
    for kind in ("parquet", "saved"):
        source = open_source(make(kind))
        items = list(with_lengths(source, source.items()))
        batches = read_ahead(source, [items[:2], items[2:]], sample_rate=16000, channels=1, num_workers=2)
        rows = [row for batch in batches for row in batch.rows]
        assert all(torch.equal(row, wav) for row, wav in zip(rows, expected.values(), strict=True))
