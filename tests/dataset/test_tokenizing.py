"""tokenize_dataset: the tokens of encode, whatever the workers, devices and batches; errors listed; misuse refused."""

import json
import sqlite3
import sys
from itertools import pairwise

import numpy as np
import pyarrow.parquet
import pytest
import torch

import audiotok
from audiotok.dataset import encoding
from audiotok.dataset.batches import Budget, split
from audiotok.dataset.ledger import Ledger
from audiotok.errors import CheckpointError, InputError, MissingDependencyError
from audiotok.sources import Batch, Item, open_source
from audiotok.spec import Spec

from .conftest import copied, tokens_of


def run(tokenizer, source, out, **options):
    options = {"num_workers": 0, "progress": False, **options}
    return audiotok.tokenize_dataset(tokenizer, source, out, **options)


@pytest.fixture(scope="module")
def tok():
    return audiotok.load()


def test_every_row_is_what_encode_file_gives(tok, corpus, tmp_path):
    source = corpus(40)
    report = run(tok, source, tmp_path / "out")
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "data").to_pylist()
    assert (report.rows, report.items, report.failed, report.finished) == (40, 40, 0, True)
    for row in rows:
        codes = tok.encode_file(source / row["id"])
        assert np.array_equal(np.reshape(row["tokens"], row["shape"]), codes.tokens[0])
        assert row["num_frames"] == codes.lengths[0]
        assert row["num_samples"] == codes.num_samples[0]
        assert row["start"] == 0
        assert row["duration"] == row["num_samples"] / 16000
    assert report.hours == pytest.approx(sum(row["duration"] for row in rows) / 3600)
    assert report.frames == sum(row["num_frames"] for row in rows)


def test_tokens_have_the_smallest_type(tok, small, corpus, tmp_path):
    source = corpus(3)
    for tokenizer, name in ((tok, "uint16"), (small, "uint8")):
        run(tokenizer, source, tmp_path / name)
        table = pyarrow.parquet.read_table(tmp_path / name / "data")
        assert str(table.schema.field("tokens").type.value_type) == name


def test_workers_devices_and_batches_change_nothing(small, corpus, tmp_path):
    source = corpus(60)
    run(small, source, tmp_path / "a")
    wanted = tokens_of(tmp_path / "a")
    run(small, source, tmp_path / "b", num_workers=2, batch_seconds=3.0, shard_bytes=1000)
    run(small, source, tmp_path / "c", devices=["cpu", "cpu"], num_workers=2, batch_seconds=3.0)
    assert tokens_of(tmp_path / "b") == tokens_of(tmp_path / "c") == wanted
    assert len(list((tmp_path / "b").glob("data/*.parquet"))) > 3


def test_the_card_names_what_made_the_tokens(small, corpus, tmp_path):
    source = corpus(5, corrupt=1)
    run(small, source, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["tokenizer"]["fingerprint"] == small.fingerprint
    assert Spec.from_dict(card["tokenizer"]["spec"]) == small.spec
    assert card["audiotok"] == audiotok.__version__
    assert card["counts"]["rows"] == 5
    assert (card["counts"]["items"], card["counts"]["failed"], card["finished"]) == (6, 1, True)
    assert card["source"]["label"] == str(source)


def test_each_failure_is_listed_with_its_reason_and_tried_again(small, corpus, clips, tmp_path):
    source = corpus(10, corrupt=5)
    report = run(small, source, tmp_path / "out")
    assert (report.rows, report.failed) == (10, 5)
    lines = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert sorted(reasons) == ["bad_0.flac", "bad_1.flac", "bad_2.flac", "bad_3.wav", "bad_4.wav"]
    assert "bad_0.flac" in reasons["bad_0.flac"]
    assert "NaN" in reasons["bad_3.wav"]
    assert "no samples" in reasons["bad_4.wav"]
    assert {line["error"] for line in lines} == {"AudioFileError", "InputError"}
    (source / "bad_0.flac").write_bytes(clips[0].read_bytes())  # mended
    report = run(small, source, tmp_path / "out")
    assert (report.rows, report.failed, report.done_before) == (11, 4, 10)
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 4


def test_a_finished_folder_is_left_as_it_is(small, corpus, tmp_path):
    source = corpus(8)
    run(small, source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/data/*")}
    report = run(small, source, tmp_path / "out")
    assert (report.hours, report.done_before, report.rows, report.finished) == (0, 8, 8, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/data/*")} == before


def test_another_tokenizer_source_or_cut_is_refused(tok, small, corpus, tmp_path):
    source, out = corpus(4), tmp_path / "out"
    run(small, source, out)
    with pytest.raises(InputError, match="begun with other tokenizer: name .* fingerprint"):
        run(tok, source, out)
    with pytest.raises(InputError, match="other options"):
        run(small, source, out, max_seconds=0.5)
    with pytest.raises(InputError, match="begun already"):
        run(small, source, out, resume=False)
    other = copied(source, "other")
    run(small, other, out)  # the same files elsewhere are the same source
    (other / "more.flac").write_bytes(next(source.rglob("*.flac")).read_bytes())
    with pytest.raises(InputError, match="other source: files were added"):
        run(small, other, out)
    assert len(tokens_of(out)) == 4


def test_two_runs_in_one_folder_are_refused(small, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    first = Ledger(tmp_path / "out", small.spec, small.fingerprint)
    with pytest.raises(InputError, match="another run is writing"):
        run(small, corpus(2), tmp_path / "out")
    first.close()
    assert run(small, corpus(2), tmp_path / "out").rows == 2


def test_a_folder_with_other_things_is_refused(small, corpus, tmp_path):
    out, source = tmp_path / "out", corpus(2)
    run(small, source, out)
    (out / "progress.sqlite").unlink()
    with pytest.raises(InputError, match=r"without its progress\.sqlite"):
        run(small, source, out)
    (out / "progress.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(CheckpointError, match="no ledger"):
        run(small, source, out)


def test_a_missing_shard_is_noticed(small, corpus, tmp_path):
    source = corpus(2)
    run(small, source, tmp_path / "out")
    (tmp_path / "out" / "data" / "tokens-00000.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"tokens-00000\.parquet is missing"):
        run(small, source, tmp_path / "out")


def test_a_shard_finished_by_a_run_that_died_is_entered_not_written_again(small, corpus, tmp_path, monkeypatch):
    source, out = corpus(12), tmp_path / "out"

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_enter", die)  # between the rename and the entry
        with pytest.raises(KeyboardInterrupt):
            run(small, source, out)
    shard = out / "data" / "tokens-00000.parquet"
    before = shard.stat().st_mtime_ns
    report = run(small, source, out)
    assert (report.rows, report.shards) == (12, 1)
    assert shard.stat().st_mtime_ns == before
    assert len(tokens_of(out)) == 12


def test_half_a_shard_of_a_killed_run_is_deleted(small, corpus, tmp_path):
    source, out = corpus(4), tmp_path / "out"
    run(small, source, out)
    (out / "data" / ".tokens-00001.parquet.0123456789abcdef.tmp").write_bytes(b"half")
    run(small, source, out)
    assert [path.name for path in (out / "data").iterdir()] == ["tokens-00000.parquet"]


def test_the_same_id_twice_is_found(small, clips, tmp_path):
    class Twice(type(open_source(clips))):
        def items(self):
            yield from super().items()
            yield from list(super().items())[:2]

    with pytest.raises(InputError, match="an id must occur once, but 'effect_"):
        run(small, Twice(clips), tmp_path / "out")
    with sqlite3.connect(tmp_path / "out" / "progress.sqlite") as base:
        assert base.execute("SELECT count(*) FROM items").fetchone() == (0,)


def test_long_recordings_are_cut_into_whole_frames(small, clips, tmp_path):
    clip = max(clips, key=lambda path: audiotok.audio.info(path).seconds)
    whole, _ = audiotok.audio.load(clip, sample_rate=16000, channels=1)
    report = run(small, [clip], tmp_path / "out", max_seconds=0.5)
    rows = sorted(pyarrow.parquet.read_table(tmp_path / "out" / "data").to_pylist(), key=lambda row: row["start"])
    assert report.rows == len(rows) == -(-whole.shape[1] // 8000)
    assert [row["id"].split("#")[0] for row in rows] == [clip.name] * len(rows)
    assert [row["start"] for row in rows] == [i * 0.5 for i in range(len(rows))]
    assert sum(row["num_samples"] for row in rows) == whole.shape[1]
    for row in rows:
        first = round(row["start"] * 16000)
        piece = whole[:, first : first + row["num_samples"]]
        changed = np.reshape(row["tokens"], row["shape"]) != small.encode(piece).tokens[0].numpy()
        assert changed.mean() <= 0.02  # resampled apart, the samples differ by float rounding


def test_pieces_join_without_gap_or_overlap():
    spec = Spec("x", sample_rate=24000, hop_length=320, codebook_sizes=(8,))
    item = Item("a", "a", seconds=10.0, start=2.0, end=12.0)
    pieces = list(split([item], 3.3, spec))
    assert [piece.id for piece in pieces] == ["a#0", "a#1", "a#2", "a#3"]
    assert pieces[0].start == 2.0
    assert pieces[-1].end == 12.0
    assert all(a.end == b.start for a, b in pairwise(pieces))
    frames = [(piece.start - 2.0) * 75 for piece in pieces]
    assert frames == pytest.approx([0, 247, 494, 741])
    assert sum(piece.seconds for piece in pieces) == pytest.approx(10.0)
    assert list(split([item], 10.0, spec)) == [item]
    with pytest.raises(InputError, match="must hold a frame"):
        list(split([item], 0.01, spec))


def test_carried_columns_keep_their_types(small, clips, tmp_path):
    class Described(type(open_source(clips))):
        def items(self):
            for i, item in enumerate(super().items()):
                extra = {
                    "speaker": f"s{i}",
                    "age": i,
                    "score": i / 2 if i else 1,
                    "clean": i % 2 == 0,
                    "mixed": [i, "x"][i % 2],
                }
                yield Item(item.id, item.place, columns=extra if i != 3 else {})

    run(small, Described(clips), tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "data")
    types = {name: str(table.schema.field(name).type) for name in ("speaker", "age", "score", "clean", "mixed")}
    assert types == {"speaker": "string", "age": "int64", "score": "double", "clean": "bool", "mixed": "string"}
    found = {row["id"]: row for row in table.to_pylist()}
    names = [item.id for item in open_source(clips).items()]
    assert [found[name]["age"] for name in names] == [0, 1, 2, None, *range(4, len(names))]
    assert found[names[0]]["mixed"] == "0"
    run(small, Described(clips), tmp_path / "two", columns=["age", "clean"])
    assert pyarrow.parquet.read_schema(next(tmp_path.glob("two/data/*"))).names[-2:] == ["age", "clean"]


def test_a_column_with_one_of_our_names_is_refused(small, clips, tmp_path):
    class Bad(type(open_source(clips))):
        def items(self):
            for item in super().items():
                yield Item(item.id, item.place, columns={"tokens": "x"})

    with pytest.raises(InputError, match="has columns tokens, which are names of our own"):
        run(small, Bad(clips), tmp_path / "out")


class Greedy:
    """The tokenizer, on a device that holds `limit` seconds."""

    def __init__(self, tokenizer, limit, error):
        self.tokenizer, self.limit, self.error, self.calls = tokenizer, limit, error, []
        self.spec = tokenizer.spec

    def encode_rows(self, rows):
        self.calls.append(len(rows))
        if sum(row.shape[1] for row in rows) / self.spec.sample_rate > self.limit:
            raise self.error
        return self.tokenizer.encode_rows(rows)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("you have not enough memory"), MemoryError()]
)
def test_out_of_memory_halves_the_batch(small, speech, error):
    items = [Item(str(i), "") for i in range(8)]
    rows = [speech[0][:, :16000]] * 8
    greedy = Greedy(small, 2.5, error)
    encoded = encoding.encode_batch(greedy, Batch(items, rows, []))
    assert sorted(item.id for item, _ in encoded.done) == [item.id for item in items]
    assert all(torch.equal(codes.tokens, small.encode(rows[0]).tokens) for _, codes in encoded.done)
    assert sorted(greedy.calls) == [2, 2, 2, 2, 4, 4, 8]
    budget = Budget(60.0)
    assert encoded.too_much == 4.0
    budget.halve(encoded.too_much)
    assert budget.seconds == 2.0
    alone = encoding.encode_batch(Greedy(small, 0.5, error), Batch(items[:1], rows[:1], []))
    assert alone.done == []
    assert "1.0 s alone do not fit in memory: cut long recordings with max_seconds" in alone.failures[0].reason


def test_one_bad_row_does_not_spoil_its_batch(small, speech):
    rows = [speech[0], torch.full((1, 16000), float("nan")), speech[1]]
    encoded = encoding.encode_batch(small, Batch([Item(str(i), "") for i in range(3)], rows, []))
    assert sorted(item.id for item, _ in encoded.done) == ["0", "2"]
    assert [(failure.item.id, failure.kind) for failure in encoded.failures] == [("1", "InputError")]


def test_longest_first_in_batches_of_like_length(small, tmp_path):
    book = Ledger(tmp_path, small.spec, small.fingerprint)
    random = np.random.default_rng(0)
    book.plan((Item(str(i), "", seconds=float(random.uniform(1, 20))) for i in range(500)), {}, None)
    batches = list(book.batches(Budget(60.0)))
    lengths = [[item.seconds for item in batch] for batch in batches]
    assert sum(map(len, batches)) == len({item.id for batch in batches for item in batch}) == 500
    assert all(len(batch) * max(batch) <= 60 for batch in lengths)
    assert [s for batch in lengths for s in batch] == sorted((s for b in lengths for s in b), reverse=True)
    padding = 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)
    assert padding < 0.02
    book.close()


def test_blocks_stay_together_in_lanes(small, tmp_path):
    book = Ledger(tmp_path, small.spec, small.fingerprint)
    book.plan((Item(str(i), "", seconds=1.0 + i % 3, block=i // 10) for i in range(60)), {}, None)
    batches = [[int(item.id) for item in batch] for batch in book.batches(Budget(6.0), lanes=2)]
    assert sorted(n for batch in batches for n in batch) == list(range(60))
    assert all(len({n // 10 for n in batch}) == 1 for batch in batches)
    for lane in (batches[::2], batches[1::2]):
        blocks = [batch[0] // 10 for batch in lane]
        assert blocks == sorted(blocks)
        assert len(set(blocks)) == 3
    book.close()


def test_wrong_arguments(small, clips, tmp_path):
    for options, message in (
        ({"batch_seconds": -1.0}, "batch_seconds must be above 0"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"shard_bytes": 0}, "shard_bytes must be at least 1"),
        ({"engine": "spark"}, 'engine must be "local" or "ray"'),
        ({"max_seconds": 0.001}, "must hold a frame"),
        ({"devices": ["gpu:7"]}, "gpu:7"),
    ):
        with pytest.raises(InputError, match=message):
            run(small, clips, tmp_path / "out", **options)


def test_extras_are_stored_beside_the_tokens(corpus, tmp_path):
    """EnCodec 48 kHz: a scale for each segment."""
    from tests.backends.cases import cases

    case = next(case for case in cases("encodec-native") if "48" in case.id)
    tok = audiotok.convert("encodec", case.folder)
    source = corpus(3, seconds=(0.5, 1.5))
    run(tok, source, tmp_path / "out")
    for row in pyarrow.parquet.read_table(tmp_path / "out" / "data").to_pylist():
        codes = tok.encode_file(source / row["id"])
        for name, value in codes.extras.items():
            stored = np.reshape(np.asarray(row[f"extra_{name}"], value.numpy().dtype), row[f"extra_{name}_shape"])
            assert np.array_equal(stored, value[0].numpy())
    types = pyarrow.parquet.read_schema(next(tmp_path.glob("out/data/*"))).types
    assert {"list<element: int64>", "list<element: float>"} <= set(map(str, types))


def test_a_missing_pyarrow_is_named_before_anything_is_done(small, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'audiotok\[dataset\]'"):
        run(small, clips, tmp_path / "out")
    assert not (tmp_path / "out").exists()
