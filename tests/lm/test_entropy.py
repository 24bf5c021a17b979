import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec
from audiotok.checkpoint import read_safetensors, write_safetensors
from audiotok.errors import CheckpointError, FitError, InputError
from audiotok.lm.entropy import EntropyModel, fit_entropy_model


def codes_of(*rows: list[list[int]], sizes: tuple[int, ...]) -> Codes:
    """Rows [K][F_i] as codes."""
    spec = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=sizes)
    tokens = [torch.tensor(row, dtype=torch.int64).reshape(1, len(sizes), -1) for row in rows]
    lengths = [row.shape[2] for row in tokens]
    return Codes.batch(
        [
            Codes(row, torch.tensor([length]), torch.tensor([320 * length]), spec)
            for row, length in zip(tokens, lengths, strict=True)
        ]
    )


def repeating(length: int, seed: int = 0) -> list[int]:
    """Tokens below 8 of which each is mostly one more than the one before."""
    random = np.random.default_rng(seed)
    steps = np.where(random.random(length) < 0.9, 1, random.integers(0, 8, length))
    return (np.cumsum(steps) % 8).tolist()


def test_tokens_are_counted_without_padding():
    codes = codes_of([[0, 2, 2], [1, 1, 0]], [[2], [0]], sizes=(4, 3))
    model = fit_entropy_model([codes, codes])
    assert [counts.tolist() for counts in model.counts] == [[2, 0, 6, 0], [4, 4, 0]]
    assert model.codebook_sizes == (4, 3)
    share = model.numbers(0) / model.numbers(0).sum()
    assert share == pytest.approx(15 / 16 * np.array([5, 1, 13, 1]) / 20 + 1 / 16 / 4, abs=1e-6)


def test_pairs_are_counted_within_rows_where_they_tell_something():
    rows = [repeating(400, seed) for seed in range(5)]
    noise = np.random.default_rng(9).integers(0, 8, (5, 400)).tolist()
    model = fit_entropy_model(codes_of(*([row, other] for row, other in zip(rows, noise, strict=True)), sizes=(8, 8)))
    pairs = model.pairs[0]
    assert model.pairs[1] is None  # noise
    wanted = np.zeros((9, 8), int)
    for row in rows:
        for context, token in zip([8, *row], row, strict=False):
            wanted[context, token] += 1
    found = np.zeros((9, 8), int)
    for context in range(9):
        successors, counts = pairs.row(context)
        found[context, successors] = counts
    assert found.tolist() == wanted.tolist()


def test_pairs_that_only_remember_are_left_out():
    random = np.random.default_rng(0)  # so many tokens that hardly a pair comes twice
    rows = [[random.integers(0, 1000, 300).tolist()] for _ in range(3)]
    assert fit_entropy_model([codes_of(*rows, sizes=(1000,))]).pairs == (None,)


def test_counting_in_portions_gives_the_same(monkeypatch):
    codes = [codes_of([repeating(50, seed)], sizes=(8,)) for seed in range(20)]
    whole = fit_entropy_model(codes)
    monkeypatch.setattr("audiotok.lm.entropy._WAITING", 120)
    assert fit_entropy_model(iter(codes)).checksum == whole.checksum


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 5, 300]), min_size=1, max_size=4), st.integers(1, 60), st.integers(0, 99))
def test_save_and_load_are_inverse(tmp_path_factory, sizes, frames, seed):
    random = np.random.default_rng(seed)
    rows = [[(random.integers(0, size, frames) // 2).tolist() for size in sizes]]
    model = fit_entropy_model([codes_of(*rows, sizes=tuple(sizes))])
    path = tmp_path_factory.mktemp("table") / "table.safetensors"
    model.save(path)
    loaded = EntropyModel.load(path)
    assert loaded.checksum == model.checksum
    assert [counts.tolist() for counts in loaded.counts] == [counts.tolist() for counts in model.counts]
    assert [pairs is None for pairs in loaded.pairs] == [pairs is None for pairs in model.pairs]


def test_large_counts_are_saved_whole(tmp_path):
    model = fit_entropy_model([codes_of([repeating(400)], sizes=(8,))])
    model.pairs[0].counts[:] = 2**32
    model.save(tmp_path / "t")
    assert EntropyModel.load(tmp_path / "t").pairs[0].counts.tolist() == model.pairs[0].counts.tolist()


def test_the_checksum_says_which_counts(speech):
    codes = audiotok.load(num_codebooks=2).encode(speech)
    model, again = fit_entropy_model([codes]), fit_entropy_model(codes.unbatch())
    other = fit_entropy_model([codes[0], codes[1]])
    assert model.checksum == again.checksum != other.checksum
    model.counts[1][7] += 1
    assert EntropyModel(model.counts, model.pairs).checksum != again.checksum


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        ([], FitError, "not a single frame"),
        ([codes_of([[]], sizes=(4,))], FitError, "not a single frame"),
        ([codes_of([[1]], sizes=(4,)), codes_of([[1]], sizes=(5,))], InputError, "(5,) cannot be counted with"),
        ([codes_of([[4]], sizes=(4,))], InputError, "codebook 0 has tokens 0 to 3, not 4..4"),
        ([codes_of([[4]], sizes=(2**20 + 1,))], InputError, "may have 1048576 entries"),
    ],
)
def test_what_cannot_be_counted_is_refused(codes, error, message):
    with pytest.raises(error) as caught:
        fit_entropy_model(codes)
    assert message in str(caught.value)


def damaged(name: str, value: torch.Tensor):
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: {name: value for name, value in tensors.items() if name != "counts.0"},
        lambda tensors: {name: value for name, value in tensors.items() if name != "pair_counts.0"},
        damaged("counts.0", torch.full((8,), -1)),
        damaged("counts.0", torch.full((8,), 2**62)),
        damaged("counts.0", torch.full((8,), 2**37)),
        damaged("counts.0", torch.ones(8)),
        damaged("counts.0", torch.ones(2, 4, dtype=torch.int64)),
        damaged("counts.0", torch.ones(0, dtype=torch.int64)),
        damaged("counts.0", torch.ones(5000, dtype=torch.int64)),
        damaged("counts.1", torch.ones(8, dtype=torch.int64)),
        damaged("pairs.0", torch.arange(100, dtype=torch.int32)),
        damaged("pairs.0", torch.zeros(40, dtype=torch.int32)),
        damaged("pairs.0", torch.arange(40, dtype=torch.int32) + 40),
        damaged("pairs.0", torch.arange(40, dtype=torch.int32) - 1),
        damaged("pair_counts.0", torch.zeros(40, dtype=torch.int32)),
        damaged("pair_counts.0", torch.ones(40, dtype=torch.bfloat16)),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, damage):
    tensors = {
        "counts.0": torch.ones(8, dtype=torch.int64),
        "pairs.0": torch.arange(40, dtype=torch.int32),
        "pair_counts.0": torch.ones(40, dtype=torch.int32),
    }
    metadata = {"audiotok.entropy": json.dumps({"codebooks": 1})}
    write_safetensors(tmp_path / "good", tensors, metadata)
    assert EntropyModel.load(tmp_path / "good").codebook_sizes == (8,)
    write_safetensors(tmp_path / "bad", damage(tensors), metadata)
    with pytest.raises(CheckpointError, match="bad is not an entropy model of audiotok"):
        EntropyModel.load(tmp_path / "bad")


@pytest.mark.parametrize("metadata", [{}, {"audiotok.entropy": "x"}, {"audiotok.entropy": '{"codebooks": "many"}'}])
def test_another_kind_of_file_is_refused(tmp_path, metadata):
    write_safetensors(tmp_path / "a", {"counts.0": torch.ones(8, dtype=torch.int64)}, metadata)
    with pytest.raises(CheckpointError, match="is not an entropy model"):
        EntropyModel.load(tmp_path / "a")
    assert list(read_safetensors(tmp_path / "a")) == ["counts.0"]
    with pytest.raises(CheckpointError, match="no such file"):
        EntropyModel.load(tmp_path / "nowhere")
