"""What holds for every kind of source."""

import multiprocessing
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from audiotok import audio
from audiotok.sources import open_source, read_ahead, with_lengths
from tests.sources.conftest import KINDS, read_all, same


def named(source, found):
    """Files have no ids but their names: "clip 0.flac" is clip0."""
    return {Path(name).stem.replace(" ", ""): wav for name, wav in found.items()} if "paths" in source.label else found


def test_every_kind_gives_the_samples_of_the_files(source, expected):
    assert same(named(source, read_all(source)), expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "files"])
def test_every_kind_carries_its_columns_along(make, kind, rows):
    wanted = {row["id"]: (row["text"], row["speaker"]) for row in rows}
    items = list(open_source(make(kind)).items())
    assert {item.id: (item.columns["text"], item.columns["speaker"]) for item in items} == wanted
    assert all(item.columns.keys() == {"text", "speaker"} for item in items)


def test_lengths_come_from_headers_in_the_order_of_the_items(source, expected):
    items = list(with_lengths(source, source.items()))
    assert [item.id for item in items] == [item.id for item in source.items()]
    for item, wav in zip(items, expected.values(), strict=True):
        assert item.seconds == pytest.approx(wav.shape[1] / 16000, abs=1e-3)


def test_a_copy_for_another_process_reads_the_same(source):
    assert same(read_all(pickle.loads(pickle.dumps(source))), read_all(source))
    assert pickle.loads(pickle.dumps(source)).identity() == source.identity()


def test_forked_worker_processes_read_the_same(start_processes, source, expected):
    start_processes("fork")
    items = list(source.items())
    batches = [items[:2], items[2:]]
    found = list(read_ahead(source, batches, sample_rate=16000, channels=1, num_workers=2))
    assert [batch.items for batch in found] == batches
    rows = [row for batch in found for row in batch.rows]
    assert all(torch.equal(row, wav) for row, wav in zip(rows, expected.values(), strict=True))


def test_spawned_worker_processes_read_every_kind(start_processes, make, expected):
    start_processes("spawn")
    with multiprocessing.Pool(1) as pool:
        for kind in KINDS:
            source = open_source(make(kind))
            assert same(named(source, pool.apply(read_all, (source,))), expected), kind


def test_spawned_workers_of_a_loader_read_parquet(start_processes, make, expected):
    start_processes("spawn")
    source = open_source(make("parquet"))
    items = list(source.items())
    found = read_ahead(source, [items[:3], items[3:]], sample_rate=16000, channels=1, num_workers=2)
    rows = [row for batch in found for row in batch.rows]
    assert all(torch.equal(row, wav) for row, wav in zip(rows, expected.values(), strict=True))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "tars", "parquet", "saved"])
def test_identity_is_the_same_in_another_folder_and_another_one_without_a_row(make, kind, tmp_path, rows):
    before = open_source(make(kind)).identity()
    (tmp_path / "moved").mkdir()
    for name in (kind, "data"):
        shutil.copytree(tmp_path / name, tmp_path / "moved" / name)
    given = make_again(kind, tmp_path / "moved" / kind)
    assert open_source(given).identity() == before
    shutil.rmtree(tmp_path / kind)
    rows.pop()
    make(kind)
    assert open_source(make_again(kind, tmp_path / kind)).identity() != before


def make_again(kind, folder):
    names = {"jsonl": "train.jsonl", "csv": "train.csv", "tsv": "train.tsv", "parquet": "a.parquet"}
    return folder / names[kind] if kind in names else folder


@pytest.mark.parametrize("kind", ["dicts", "kaldi", "cuts", "huggingface"])
def test_identity_of_paths_changes_with_the_rows(make, kind, tmp_path, rows):
    before = open_source(make(kind)).identity()
    shutil.rmtree(tmp_path / kind, ignore_errors=True)
    assert open_source(make(kind)).identity() == before
    shutil.rmtree(tmp_path / kind, ignore_errors=True)
    rows[2]["text"] = "other words"
    assert open_source(make(kind)).identity() != before


@pytest.mark.parametrize("kind", ["files", "jsonl", "tars", "parquet", "saved"])
def test_what_is_no_audio_becomes_a_failure_with_its_reason(make, kind, rows, expected):
    Path(rows[1]["path"]).write_bytes(b"this is no audio" * 100)
    source = open_source(make(kind))
    items = list(with_lengths(source, source.items()))
    assert [bool(item.seconds) for item in items] == [True, False, True, True, True]
    (batch,) = read_ahead(source, [items], sample_rate=16000, channels=1)
    assert [item.id for item in batch.items] == [items[i].id for i in (0, 2, 3, 4)]
    (failure,) = batch.failures
    assert (failure.item.id, failure.kind) == (items[1].id, "AudioFileError")
    assert "Format not recognised" in failure.reason
    assert torch.equal(batch.rows[-1], expected["clip4"])


def test_a_source_is_opened_as_it_is(source):
    assert open_source(source) is source


def test_stereo_is_copied_and_channels_are_chosen(rows):
    stereo = next(row for row in rows if audio.info(row["path"]).channels == 2)
    left, right = audio.load(stereo["path"])[0]
    source = open_source([{**stereo, "channel": 1}, {**stereo, "id": "third", "channel": 2}])
    second, third = source.items()
    rate = audio.info(stereo["path"]).sample_rate
    assert torch.equal(source.read(second, rate, 1), right[None])
    assert torch.equal(source.read(second, rate, 2), torch.stack([right, right]))
    with pytest.raises(ValueError, match="third: there is no channel 2, the recording has 2"):
        source.read(third, rate, 1)
    assert not torch.equal(left, right)
