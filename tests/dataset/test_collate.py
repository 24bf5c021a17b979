"""Batches for a model: padding, sampling by length, and DataLoaders in every way they start."""

import gc
import pickle
import resource
import tracemalloc
from itertools import pairwise
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from audiotok import Spec
from audiotok.dataset import codes_dataset, mapped, shards
from audiotok.dataset.codes_dataset import CodesDataset, CodesRow
from audiotok.dataset.collate import CodesBatch, Collate
from audiotok.dataset.length_batches import LengthBatchSampler
from audiotok.dataset.opened import open_codes
from audiotok.errors import InputError

from .folders import SPEC, some_rows, write_folder


def _row(frames: int, codebooks: int = 3, **more: object) -> CodesRow:
    tokens = torch.randint(0, 1000, (codebooks, frames), generator=torch.Generator().manual_seed(frames))
    return CodesRow(f"{frames} frames", tokens, 320 * frames, 0.0, 0.02 * frames, **more)


@hypothesis.given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.sampled_from([None, -100, 5000]))
@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
def test_what_is_not_padding_is_the_rows_and_what_is_padding_is_the_pad_id(frames, pad_id):
    rows = [_row(count) for count in frames]
    batch = pickle.loads(pickle.dumps(Collate(SPEC, pad_id)))(rows)
    assert batch.tokens.shape == (len(rows), 3, max(frames))
    assert batch.lengths.tolist() == batch.mask.sum(1).tolist() == frames
    assert batch.ids == [row.id for row in rows]
    assert batch.num_samples.tolist() == [row.num_samples for row in rows]
    for i, row in enumerate(rows):
        assert torch.equal(batch.tokens[i][:, batch.mask[i]], row.tokens)
        assert bool((batch.tokens[i][:, ~batch.mask[i]] == (1000 if pad_id is None else pad_id)).all())


def test_columns_become_lists_and_extras_tensors_filled_up_with_zeros():
    rows = [
        _row(2, columns={"text": "a", "n": None}, extras={"scale": torch.ones(1, 2), "gain": torch.tensor(0.5)}),
        _row(4, columns={"text": "b", "n": 3}, extras={"scale": torch.ones(1, 3), "gain": torch.tensor(0.25)}),
    ]
    batch = Collate(SPEC)(rows)
    assert batch.columns == {"text": ["a", "b"], "n": [None, 3]}
    assert batch.extras["scale"].tolist() == [[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]]
    assert batch.extras["gain"].tolist() == [0.5, 0.25]


def test_a_pad_id_that_is_a_token_must_be_meant():
    spec = Spec("demo", 16000, 320, (10, 500))
    for pad_id in (0, 10, 499):
        with pytest.raises(InputError, match=f"pad_id {pad_id} is also a token of demo, which has 0 to 499: take 500"):
            Collate(spec, pad_id)
        assert Collate(spec, pad_id, allow_token=True)([_row(1, 2), _row(2, 2)]).tokens[0, 0, 1] == pad_id
    assert Collate(spec).pad_id == Collate(spec, 500).pad_id == 500


def test_rows_that_make_no_batch_are_refused():
    with pytest.raises(InputError, match="equally many codebooks"):
        Collate(SPEC)([])
    with pytest.raises(InputError, match=r"\[\[3, 2\], \[1, 2\]\]"):
        Collate(SPEC)([_row(2), _row(2, 1)])


_LENGTHS = st.lists(st.integers(0, 30), max_size=60)


@hypothesis.given(_LENGTHS, st.integers(1, 100), st.integers(0, 3), st.booleans(), st.integers(1, 4))
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
def test_every_row_comes_in_every_epoch_within_the_budget(lengths, max_frames, epoch, shuffle, world):
    samplers = [
        LengthBatchSampler(lengths, max_frames, shuffle=shuffle, seed=3, rank=rank, world_size=world)
        for rank in range(world)
    ]
    batches = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) == len(samplers[0])
        assert list(sampler) == list(sampler)
        batches += list(sampler)
    assert {row for batch in batches for row in batch} == set(range(len(lengths)))
    twice = len(batches) - len({tuple(batch) for batch in batches})
    assert twice < world
    assert sum(map(len, {tuple(batch) for batch in batches})) == len(lengths)
    for batch in batches:
        assert len(batch) * max(lengths[row] for row in batch) <= max_frames or len(batch) == 1


def test_epochs_and_seeds_differ_and_little_is_padding():
    lengths = np.random.default_rng(0).integers(50, 1500, 2000)

    def epoch(number: int, seed: int = 0) -> list[list[int]]:
        sampler = LengthBatchSampler(lengths, 20_000, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    first = epoch(0)
    assert first == epoch(0)
    assert len(first) == len(epoch(1)) == len(epoch(0, seed=1))
    assert first != epoch(1)
    assert first != epoch(0, seed=1)
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in epoch(1)}
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert lengths.sum() > 0.98 * padded
    in_order = [lengths[batch].max() for batch in LengthBatchSampler(lengths, 20_000, shuffle=False)]
    assert all(before <= after for before, after in pairwise(in_order))


@pytest.mark.parametrize(("max_frames", "rank", "world"), [(0, 0, 1), (10, 1, 1), (10, -1, 2), (10, 0, 0)])
def test_a_sampler_refuses_what_cannot_be(max_frames, rank, world):
    with pytest.raises(InputError, match="max_frames of at least 1 and 0 <= rank < world_size"):
        LengthBatchSampler([1, 2], max_frames, rank=rank, world_size=world)


def _dataset(folder: Path) -> CodesDataset:
    return open_codes(write_folder(folder, [some_rows(30), some_rows(25, first=30)]))


@pytest.mark.parametrize(("start", "workers"), [(None, 0), ("fork", 2), ("spawn", 1)])
def test_a_data_loader_gives_every_row_as_it_is(start, workers, tmp_path):
    dataset = _dataset(tmp_path)
    assert dataset[40].id == "utt_40"  # files are open when workers are forked
    loader = DataLoader(
        dataset,
        batch_sampler=LengthBatchSampler(dataset.lengths, 200),
        collate_fn=Collate(dataset.spec, -100),
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=workers > 0,
    )
    for _ in range(2):
        seen = []
        for batch in loader:
            assert isinstance(batch, CodesBatch)
            for i, name in enumerate(batch.ids):
                number = int(name.removeprefix("utt_"))
                assert torch.equal(batch.tokens[i][:, batch.mask[i]], dataset[number].tokens)
                assert batch.columns["text"][i] == f"line {number}"
                seen.append(number)
        assert sorted(seen) == list(range(55))


def test_a_dataset_sent_to_another_process_is_small_whatever_it_holds(tmp_path):
    dataset = _dataset(tmp_path)
    list(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 3000
    assert [row.id for row in copy] == list(dataset.ids())
    assert np.array_equal(copy.lengths, dataset.lengths)


def _repeated(folder: Path, one: Path, count: int) -> Path:
    """A dataset that is the shard of another, over and over: symbolic links."""
    write_folder(folder, [])
    (folder / "data").mkdir(exist_ok=True)
    for number in range(count):
        (folder / shards.shard_name(number)).symlink_to(one / shards.shard_name(0))
    return folder


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_memory_and_open_files_do_not_grow_with_the_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_dataset, "_MAX_OPEN_SHARDS", 4)
    one = write_folder(tmp_path / "one", [some_rows(60, frames=(1500, 1600))])  # 0.5 MB of tokens
    grown = {}
    for count in (8, 64):
        dataset = open_codes(_repeated(tmp_path / f"{count}", one, count))
        order = np.random.default_rng(0).permutation(len(dataset))
        files, arrow = _open_files(), pa.total_allocated_bytes()
        tracemalloc.start()
        for start in range(0, len(order), 16):
            rows = dataset[order[start : start + 16].tolist()]
        assert int(max(row.tokens.max() for row in rows)) < 1000
        del rows
        gc.collect()
        grown[count] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert _open_files() - files <= 4
        assert pa.total_allocated_bytes() - arrow < 10_000
    (kept, peak), (kept_of_many, peak_of_many) = grown[8], grown[64]
    assert peak < 2_000_000  # 16 rows are 0.6 MB as int64; the 64 shards hold 34 MB
    assert kept_of_many - kept < 50_000
    assert peak_of_many - peak < 100_000


def test_a_dataset_of_more_shards_than_files_may_be_open_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_dataset, "_MAX_OPEN_SHARDS", 4)
    folder = _repeated(tmp_path / "many", write_folder(tmp_path / "one", [some_rows(5)]), 64)
    gc.collect()
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/dev/fd").iterdir()}
    twelve_more = [number for number in range(len(used) + 13) if number not in used][12]
    resource.setrlimit(resource.RLIMIT_NOFILE, (twelve_more, usual[1]))
    try:
        dataset = open_codes(folder)
        assert dataset.lengths.tolist() == [row.tokens.shape[1] for row in dataset]
        assert list(dataset.ids()) == [f"utt_{i}" for i in range(5)] * 64
        with pytest.raises(InputError, match="no item"):
            dataset.index("nobody")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def test_mapping_a_shard_takes_memory_for_a_row_group_not_for_the_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 1 << 20)
    folder = write_folder(tmp_path, [some_rows(2000, frames=(1500, 1600))])
    (folder / "card.json").unlink()  # reading JSON takes more than all that is measured here
    before, held, check = pa.total_allocated_bytes(), [], mapped.check_rows

    def watched(*arguments: object) -> None:
        held.append(pa.total_allocated_bytes() - before)
        check(*arguments)

    monkeypatch.setattr(mapped, "check_rows", watched)
    tracemalloc.start()
    dataset = open_codes(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert int(dataset.lengths.sum()) * 3 * 2 > 18e6
    assert len(held) == 18
    assert max(held) + peak < 5e6
