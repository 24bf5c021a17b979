"""The same five recordings as every kind of source, each written by the library that its users write it with."""

import csv
import json
import multiprocessing
from pathlib import Path

import datasets
import lhotse
import pyarrow
import pytest
import torch
import webdataset
from pyarrow import parquet

from audiotok import audio
from audiotok.sources import open_source

ENDINGS = (".flac", ".wav", ".ogg", ".flac", ".mp3")
KINDS = ("files", "dicts", "jsonl", "csv", "tsv", "kaldi", "cuts", "tars", "parquet", "huggingface", "saved")


@pytest.fixture(autouse=True)
def quiet_datasets(tmp_path, monkeypatch):
    """No progress bars, and nothing kept outside of the test's folder."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def start_processes():
    """start_processes("spawn") makes processes start that way for a test."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def rows(tmp_path, clips):
    """Five short recordings in tmp_path/data, mono and stereo, 16 and 44.1 kHz: dicts of id, path, text, speaker."""
    found = []
    for number, ending in enumerate(ENDINGS):
        wav, rate = audio.load(clips[3 * number - 1 if number else 0], start=0.25 * number, end=0.25 * number + 0.6)
        path = tmp_path / "data" / f"clip {number}{ending}"
        path.parent.mkdir(exist_ok=True)
        audio.save(path, wav * torch.tensor([1.0, 0.5])[: len(wav), None], rate)
        found.append(
            {"id": f"clip{number}", "path": str(path), "text": f"Größe, “{number}”", "speaker": f"s{number % 2}"}
        )
    return found


@pytest.fixture
def make(tmp_path, rows):
    """make(kind) -> what a user hands to open_source."""
    return lambda kind: globals()[f"_{kind}"](rows, tmp_path / kind)


@pytest.fixture
def expected(rows):
    """wav [1, T] of each recording at 16 kHz by id, straight from its file."""
    return {row["id"]: audio.load(row["path"], sample_rate=16000, channels=1)[0] for row in rows}


def read_all(source):
    """{id: wav} of every item of a source, which must have unique ids."""
    items = list(source.items())
    found = {item.id: source.read(item, 16000, 1) for item in items}
    assert len(found) == len(items)
    return found


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def _relative(rows):
    return [{**row, "path": "../data/" + Path(row["path"]).name} for row in rows]


def _files(rows, folder):
    return [row["path"] for row in rows]


def _dicts(rows, folder):
    return rows


def _jsonl(rows, folder):
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _relative(rows)))
    return folder / "train.jsonl"


def _table(rows, folder, ending, dialect):
    folder.mkdir()
    with (folder / f"train{ending}").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], dialect=dialect)
        writer.writeheader()
        writer.writerows(_relative(rows))
    return folder / f"train{ending}"


def _csv(rows, folder):
    return _table(rows, folder, ".csv", "excel")


def _tsv(rows, folder):
    return _table(rows, folder, ".tsv", "excel-tab")


def _kaldi(rows, folder):
    folder.mkdir()
    for name, key in (("wav.scp", "path"), ("utt2spk", "speaker"), ("text", "text")):
        (folder / name).write_text("".join(f"{row['id']} {row[key]}\n" for row in rows))
    return folder


def cuts_of(rows):
    """A CutSet of whole recordings."""
    cuts = []
    for row in rows:
        cut = lhotse.Recording.from_file(row["path"], recording_id=row["id"]).to_cut()
        cut.supervisions = [
            lhotse.SupervisionSegment(row["id"], row["id"], 0.0, cut.duration, text=row["text"], speaker=row["speaker"])
        ]
        cuts.append(cut)
    return lhotse.CutSet.from_cuts(cuts)


def _cuts(rows, folder):
    folder.mkdir()
    cuts_of(rows).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def _tars(rows, folder):
    folder.mkdir()
    pattern = str(folder / "shard-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for row in rows:
            path = Path(row["path"])
            carried = {"text": row["text"], "speaker": row["speaker"]}
            writer.write({"__key__": row["id"], path.suffix[1:]: path.read_bytes(), "json": carried})
    return str(folder / "shard-{000..002}.tar")


def cells(rows):
    return [{"bytes": Path(row["path"]).read_bytes(), "path": Path(row["path"]).name} for row in rows]


def _parquet(rows, folder):
    folder.mkdir()
    kept = {name: [row[name] for row in rows] for name in ("id", "text", "speaker")}
    parquet.write_table(pyarrow.table({**kept, "audio": cells(rows)}), folder / "a.parquet", row_group_size=2)
    return folder / "a.parquet"


def _huggingface(rows, folder):
    kept = {name: [row[name] for row in rows] for name in ("id", "text", "speaker")}
    table = datasets.Dataset.from_dict({**kept, "audio": [row["path"] for row in rows]})
    return table.cast_column("audio", datasets.Audio())


def _saved(rows, folder):
    kept = {name: [row[name] for row in rows] for name in ("id", "text", "speaker")}
    table = datasets.Dataset.from_dict({**kept, "audio": cells(rows)})
    table.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(folder)
    return folder


@pytest.fixture(params=KINDS)
def source(request, make):
    """Each kind in turn."""
    return open_source(make(request.param))
