"""open_codes: what comes back, from which files, and who made them."""

import errno
import json
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

import audiotok
from audiotok import Spec
from audiotok.dataset import mapped
from audiotok.dataset.opened import open_codes
from audiotok.dataset.shards import Row, token_dtype
from audiotok.errors import CheckpointError, InputError

from .folders import COLUMNS, FINGERPRINT, SPEC, some_rows, write_folder


@st.composite
def _folders(draw: st.DrawFn) -> tuple[Spec, list[list[Row]], dict[str, str]]:
    """Shards of any tokenizer's tokens, with extras and carried columns or without."""
    sizes = draw(st.lists(st.sampled_from([2, 256, 257, 70_000]), min_size=1, max_size=4))
    spec = Spec("demo", 16000, 320, tuple(sizes))
    columns = draw(st.sampled_from([{}, {"text": "text", "weight": "float", "clean": "bool", "number": "int"}]))
    rank = draw(st.integers(0, 3))
    values = {
        "text": st.text(max_size=8),
        "weight": st.floats(allow_nan=False),
        "clean": st.booleans(),
        "number": st.integers(-(2**63), 2**63 - 1),
    }
    random, shards, number = np.random.default_rng(draw(st.integers(0, 99))), [], 0
    for count in draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)):
        rows = []
        for _ in range(count):
            frames = draw(st.integers(0, 12))
            tokens = np.stack([random.integers(0, size, frames) for size in sizes]).astype(token_dtype(spec))
            carried = {name: draw(st.none() | values[name]) for name in columns}
            shape = draw(st.tuples(*[st.integers(0, 3)] * rank))
            extras = {"scale": random.standard_normal(shape).astype(np.float32)} if rank else {}
            extras |= {"speaker": np.asarray(random.integers(-(2**62), 2**62, shape))} if rank > 1 else {}
            rows.append(Row(f"ü {number}", tokens, 320 * frames, number / 3, 0.02 * frames, carried, extras))
            number += 1
        shards.append(rows)
    return spec, shards, columns


@hypothesis.given(_folders())
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_what_was_written_comes_back_row_by_row_and_as_codes(folder):
    spec, shards, columns = folder
    with tempfile.TemporaryDirectory() as path:
        dataset = open_codes(write_folder(Path(path), shards, spec=spec, columns=columns))
        rows = [row for shard in shards for row in shard]
        assert len(dataset) == len(rows)
        assert (dataset.spec, dataset.fingerprint, dataset.columns) == (spec, FINGERPRINT, tuple(columns))
        assert dataset.lengths.tolist() == [row.tokens.shape[1] for row in rows]
        assert list(dataset.ids()) == [row.id for row in rows]
        for i, row in enumerate(rows):
            found, codes = dataset[i], dataset.codes(i)
            assert found.tokens.dtype == torch.int64
            assert np.array_equal(found.tokens, row.tokens)
            assert (found.id, found.num_samples, found.start, found.duration) == (
                row.id,
                row.num_samples,
                row.start,
                row.duration,
            )
            assert found.columns == row.columns
            assert found.extras.keys() == row.extras.keys()
            for name, value in row.extras.items():
                assert found.extras[name].dtype == torch.from_numpy(value).dtype
                assert np.array_equal(found.extras[name], value)
            assert torch.equal(codes.tokens[0], found.tokens)
            assert (codes.lengths.item(), codes.num_samples.item()) == (row.tokens.shape[1], row.num_samples)
            assert all(torch.equal(codes.extras[name][0], value) for name, value in found.extras.items())
            assert dataset.index(row.id) == i


def test_real_codes_come_back_and_decode_to_the_same_audio(speech, tmp_path):
    tok = audiotok.load()
    codes = tok.encode(speech)
    rows = [
        Row(f"clip_{i}", row.tokens[0].numpy().astype(np.uint16), int(row.num_samples), 0.0, 1.0)
        for i, row in enumerate(codes)
    ]
    folder = write_folder(tmp_path, [rows[:2], rows[2:]], spec=tok.spec, fingerprint=tok.fingerprint, columns={})
    dataset = open_codes(folder)
    again = dataset.codes([0, 1, 2])
    assert torch.equal(again.tokens, codes.tokens)
    assert torch.equal(again.lengths, codes.lengths)
    assert torch.equal(tok.decode(again), tok.decode(codes))
    assert torch.equal(tok.decode(dataset.codes(2)), tok.decode(codes[2]))


def test_rows_are_asked_for_by_number_from_either_end_by_slice_and_by_list(tmp_path):
    dataset = open_codes(write_folder(tmp_path, [some_rows(4), some_rows(3, first=4)]))
    names = [f"utt_{i}" for i in range(7)]
    assert [dataset[i].id for i in range(-7, 7)] == names * 2
    assert dataset[np.int64(5)].id == dataset[torch.tensor(5)].id == "utt_5"
    assert [row.id for row in dataset[2:6:2]] == ["utt_2", "utt_4"]
    assert [row.id for row in dataset[[6, -7, 6]]] == ["utt_6", "utt_0", "utt_6"]
    assert [row.id for row in dataset] == names  # by IndexError at the end
    codes = dataset.codes(slice(3, 5))
    assert codes.lengths.tolist() == dataset.lengths[3:5].tolist()
    for wrong in (7, -8):
        with pytest.raises(IndexError, match=f"row {wrong} of 7"):
            dataset[wrong]
    with pytest.raises(InputError, match="at least one"):
        dataset.codes([])
    with pytest.raises(InputError, match="no item 'utt_7' among the 7 rows"):
        dataset.index("utt_7")
    with pytest.raises(ValueError, match="read-only"):
        dataset.lengths[0] = 1


def test_rows_have_the_carried_columns_that_were_asked_for(tmp_path):
    folder = write_folder(tmp_path, [some_rows(4)])
    assert open_codes(folder)[1].columns == {"text": "line 1", "speaker": 1}
    assert open_codes(folder, columns=["speaker"])[3].columns == {"speaker": None}
    assert open_codes(folder, columns=[])[3].columns == {}
    with pytest.raises(InputError, match="no column texts: carried along were text, speaker"):
        open_codes(folder, columns=["texts"])


def test_the_card_is_at_hand_and_not_needed(tmp_path):
    folder = write_folder(tmp_path, [some_rows(2)])
    assert open_codes(folder).card == json.loads((folder / "card.json").read_text())
    (folder / "card.json").unlink()
    dataset = open_codes(folder)
    assert (dataset.card, dataset.spec, dataset.fingerprint, len(dataset)) == ({}, SPEC, FINGERPRINT, 2)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_folder_that_grows_is_opened_with_what_is_there_and_only_new_shards_are_mapped(tmp_path):
    shards = [some_rows(4), some_rows(3, first=4)]
    folder = write_folder(tmp_path, shards[:1], finished=False)
    first = open_codes(folder)
    before = _files(folder / ".opened")
    second = open_codes(write_folder(tmp_path / "other", shards))
    shutil.copy(tmp_path / "other" / "data" / "tokens-00001.parquet", folder / "data")
    grown = open_codes(folder)
    after = _files(folder / ".opened")
    assert (len(first), len(grown), len(second)) == (4, 7, 7)
    assert after.keys() == {"tokens-00000.arrow", "tokens-00001.arrow"}
    assert after["tokens-00000.arrow"] == before["tokens-00000.arrow"]
    assert _files(folder / ".opened") == after


def test_a_folder_without_a_shard_yet_is_empty(tmp_path):
    dataset = open_codes(write_folder(tmp_path, [], finished=False))
    assert (len(dataset), dataset.lengths.shape, list(dataset), dataset.spec) == (0, (0,), [], SPEC)


def test_a_shard_that_was_changed_is_mapped_again_and_datasets_of_the_old_one_say_so(tmp_path):
    folder = write_folder(tmp_path, [some_rows(4), some_rows(4, first=4)])
    old = open_codes(folder)
    new_rows = some_rows(4, first=100)
    write_folder(folder, [new_rows])
    write_folder(folder, [new_rows, some_rows(4, first=4)])
    os.utime(folder / "data" / "tokens-00000.parquet", ns=(0, 5))
    new = open_codes(folder)
    assert [row.id for row in new] == [row.id for row in new_rows] + [f"utt_{i}" for i in range(4, 8)]
    assert old[0].id == "utt_0"  # still mapped
    old.__setstate__(old.__getstate__())
    with pytest.raises(CheckpointError, match=r"tokens-00000\.parquet was changed after the dataset was opened"):
        old[0]


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0 but no more", None])
def test_a_damaged_arrow_file_is_made_again(damage, tmp_path):
    folder = write_folder(tmp_path, [some_rows(50)])
    rows = [row.tokens for row in open_codes(folder)]
    target = folder / ".opened" / "tokens-00000.arrow"
    target.write_bytes(target.read_bytes()[:-100] if damage is None else damage)
    assert all(torch.equal(row.tokens, tokens) for row, tokens in zip(open_codes(folder), rows, strict=True))


def test_the_arrow_files_may_lie_elsewhere_and_datasets_share_the_place(tmp_path):
    one = write_folder(tmp_path / "one", [some_rows(2)])
    two = write_folder(tmp_path / "two", [some_rows(3, first=2)])
    for _ in range(2):
        assert [row.id for row in open_codes(one, cache_dir=tmp_path / "cache")] == ["utt_0", "utt_1"]
        assert [row.id for row in open_codes(two, cache_dir=tmp_path / "cache")] == ["utt_2", "utt_3", "utt_4"]
    assert len(list((tmp_path / "cache").glob("*/*.arrow"))) == 2
    assert not (one / ".opened").exists()


def test_where_nothing_can_be_written_the_error_asks_for_another_place(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "tokens", [some_rows(2)])
    (folder / ".opened").write_bytes(b"")  # no folder can be made here, whoever asks
    with pytest.raises(InputError, match=r"cannot write to .*\.opened.* give open_codes a cache_dir"):
        open_codes(folder)
    assert len(open_codes(folder, cache_dir=tmp_path / "cache")) == 2

    def fails(number: int) -> object:
        def write(path: Path) -> None:
            raise OSError(number, os.strerror(number), str(path))

        return write

    monkeypatch.setattr(mapped, "atomic_write", fails(errno.EROFS))
    with pytest.raises(InputError, match="Read-only file system; give open_codes a cache_dir"):
        open_codes(folder, cache_dir=tmp_path / "third")
    monkeypatch.setattr(mapped, "atomic_write", fails(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device; give open_codes a cache_dir") as full:
        open_codes(folder, cache_dir=tmp_path / "third")
    assert full.value.errno == errno.ENOSPC


def _open_and_tell(folder: Path, log: Path, barrier: object) -> None:
    """Opens a folder at the same moment as others; writes down which shards it mapped and what it read."""
    real = mapped._write

    def noted(shard: Path, *rest: object) -> object:
        with log.open("a") as file:
            file.write(f"{shard.name}\n")
        return real(shard, *rest)

    mapped._write = noted
    barrier.wait()
    dataset = open_codes(folder)
    with log.with_suffix(".sums").open("a") as file:
        file.write(f"{sum(int(row.tokens.sum()) for row in dataset)}\n")


def test_many_processes_that_open_at_once_map_each_shard_once_and_read_the_same(tmp_path):
    shards = [some_rows(200, first=1000 * i) for i in range(6)]
    folder, context = write_folder(tmp_path / "tokens", shards), multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    children = [context.Process(target=_open_and_tell, args=(folder, tmp_path / "log", barrier)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert sorted((tmp_path / "log").read_text().split()) == [f"tokens-{i:05d}.parquet" for i in range(6)]
    right = sum(int(row.tokens.sum()) for shard in shards for row in shard)
    assert (tmp_path / "log.sums").read_text().split() == [str(right)] * 4


def test_a_shard_that_another_process_maps_is_left_to_it_until_the_end(tmp_path):
    folder = write_folder(tmp_path, [some_rows(2)])
    shard = folder / "data" / "tokens-00000.parquet"
    with shard.open("rb") as one, shard.open("rb") as two:
        with mapped._turn(one, wait=True) as first, mapped._turn(two, wait=False) as second:
            assert (first, second) == (True, False)
        one.close()
        with mapped._turn(two, wait=False) as third:
            assert third


def test_shards_that_are_missing_are_named(tmp_path):
    folder = write_folder(tmp_path / "a", [some_rows(2, first=i) for i in (0, 2, 4)])
    (folder / "data" / "tokens-00001.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"tokens-00001\.parquet is missing"):
        open_codes(folder)
    folder = write_folder(tmp_path / "b", [some_rows(2, first=i) for i in (0, 2, 4)])
    (folder / "data" / "tokens-00002.parquet").unlink()  # the last: only the card knows of it
    with pytest.raises(CheckpointError, match=r"tokens-00002\.parquet is missing"):
        open_codes(folder)
    with pytest.raises(CheckpointError, match=r"nowhere is no dataset of tokens: it has neither data/tokens-00000"):
        open_codes(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spec", "fingerprint"), [(SPEC, "e" * 64), (SPEC.truncate(2), FINGERPRINT), (Spec("x", 8000, 80, (1000,)), "e")]
)
def test_shards_of_two_tokenizers_in_one_folder_are_refused(spec, fingerprint, tmp_path):
    folder = write_folder(tmp_path / "a", [some_rows(2), some_rows(2, first=2)])
    open_codes(folder)
    other = write_folder(tmp_path / "b", [some_rows(2, spec=spec)], spec=spec, fingerprint=fingerprint)
    shutil.copy(other / "data" / "tokens-00000.parquet", folder / "data" / "tokens-00001.parquet")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"tokens-00001\.parquet holds tokens of another tokenizer"):
            open_codes(folder)
        (folder / "card.json").unlink(missing_ok=True)


def test_a_card_of_another_tokenizer_is_refused_also_after_the_folder_was_opened(tmp_path):
    folder = write_folder(tmp_path, [some_rows(2)])
    open_codes(folder)
    card = json.loads((folder / "card.json").read_text())
    card["tokenizer"]["fingerprint"] = "e" * 64
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"tokens-00000\.parquet holds tokens of another tokenizer"):
        open_codes(folder)


@pytest.mark.parametrize("card", ["[]", "{", '{"tokenizer": 3}', '{"tokenizer": {"spec": [], "fingerprint": ""}}'])
def test_a_card_that_says_no_tokenizer_is_named(card, tmp_path):
    folder = write_folder(tmp_path, [some_rows(2)])
    (folder / "card.json").write_text(card)
    with pytest.raises(CheckpointError, match=r"card\.json"):
        open_codes(folder)


def test_shards_with_other_columns_than_the_first_are_refused(tmp_path):
    folder = write_folder(tmp_path / "a", [some_rows(2), some_rows(2, first=2)])
    other = write_folder(tmp_path / "b", [some_rows(2)], columns={"text": "text"})
    shutil.copy(other / "data" / "tokens-00000.parquet", folder / "data" / "tokens-00001.parquet")
    with pytest.raises(CheckpointError, match=r"tokens-00001\.parquet has other columns than the first shard"):
        open_codes(folder)
    assert COLUMNS.keys() == {"text", "speaker"}
