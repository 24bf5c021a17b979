import dataclasses

import pytest
import torch

from audiotok import Codes, Spec
from audiotok.errors import CheckpointError, CodesMismatchError, InputError

SPEC = Spec("demo", sample_rate=100, hop_length=10, codebook_sizes=(300, 5), nested=True)


@pytest.fixture
def codes() -> Codes:
    """Rows of 1.0 s and 0.55 s: 10 and 6 frames."""
    tokens = torch.arange(40).reshape(2, 2, 10) % 5
    tokens[1, :, 6:] = 0
    return Codes(
        tokens, torch.tensor([10, 6]), torch.tensor([100, 55]), SPEC, "abc", {"scale": torch.tensor([[1.0], [2.0]])}
    )


def same(one: Codes, other: Codes) -> bool:
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "lengths", "num_samples"))
        and (one.spec, one.fingerprint) == (other.spec, other.fingerprint)
        and one.extras.keys() == other.extras.keys()
        and all(torch.equal(value, other.extras[name]) for name, value in one.extras.items())
    )


def test_a_row_is_cut_to_its_own_length(codes):
    assert codes[1].tokens.shape == (1, 2, 6)
    assert torch.equal(codes[-1].tokens, codes.tokens[1:, :, :6])
    assert codes[1].extras["scale"].tolist() == [[2.0]]
    with pytest.raises(IndexError, match="row 2 of 2"):
        codes[2]


def test_unbatch_and_batch_are_inverse(codes):
    assert len(codes.unbatch()) == len(codes) == 2
    assert same(Codes.batch(codes.unbatch()), codes)


def test_joining_codes_of_different_tokenizers_is_refused(codes):
    with pytest.raises(CodesMismatchError, match="different tokenizers"):
        Codes.batch([codes, dataclasses.replace(codes, fingerprint="other")])
    with pytest.raises(CodesMismatchError, match="extras differ"):
        Codes.batch([codes, dataclasses.replace(codes, extras={})])
    with pytest.raises(InputError, match="nothing to join"):
        Codes.batch([])


def test_mask_marks_valid_frames(codes):
    assert codes.mask.sum(1).tolist() == [10, 6]
    assert codes.mask[1].tolist() == [True] * 6 + [False] * 4


def test_truncate_keeps_the_first_rows(codes):
    cut = codes.truncate(1)
    assert torch.equal(cut.tokens, codes.tokens[:, :1])
    assert cut.spec.codebook_sizes == (300,)


def test_a_slice_covers_its_seconds(codes):
    part = codes.slice(0.15, 0.52)  # frames 1 to 5
    assert torch.equal(part.tokens, codes.tokens[:, :, 1:6])
    assert part.lengths.tolist() == [5, 5]
    assert part.num_samples.tolist() == [50, 45]  # the second row ends at sample 55, and 10 are cut off in front
    assert same(codes.slice(0, 99), codes)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.9), (-1, 1), (0.5, 0.5)])
def test_a_slice_of_nothing_is_refused(codes, start, end):
    with pytest.raises(InputError):
        codes.slice(start, end)


def test_saved_codes_load_as_they_were(codes, tmp_path):
    codes.save(tmp_path / "a.codes")
    assert same(Codes.load(tmp_path / "a.codes"), codes)


@pytest.mark.parametrize(("size", "item"), [(256, 1), (257, 2), (65536, 2), (65537, 8)])
def test_tokens_are_stored_in_the_smallest_type(tmp_path, size, item):
    spec = dataclasses.replace(SPEC, codebook_sizes=(size,))
    tokens = torch.full((1, 1, 4000), size - 1)
    codes = Codes(tokens, torch.tensor([4000]), torch.tensor([40000]), spec)
    codes.save(tmp_path / "a.codes")
    assert 0 <= (tmp_path / "a.codes").stat().st_size - 4000 * item < 1000
    assert torch.equal(Codes.load(tmp_path / "a.codes").tokens, tokens)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": torch.zeros(2, 2, 10)},
        {"tokens": torch.zeros(2, 10, dtype=torch.int64)},
        {"tokens": torch.zeros(2, 3, 10, dtype=torch.int64)},
        {"lengths": torch.tensor([10])},
        {"num_samples": torch.tensor([1.0, 2.0])},
        {"extras": {"scale": torch.zeros(3)}},
    ],
)
def test_parts_that_do_not_fit_are_refused(codes, change):
    with pytest.raises(InputError):
        dataclasses.replace(codes, **change)


def test_a_file_that_is_not_codes_is_refused(tmp_path, small):
    small.save(tmp_path)
    with pytest.raises(CheckpointError, match="not a file of audiotok codes"):
        Codes.load(tmp_path / "model.safetensors")
    (tmp_path / "b.codes").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        Codes.load(tmp_path / "b.codes")


def test_a_file_whose_lengths_lie_is_refused(codes, tmp_path):
    dataclasses.replace(codes, lengths=torch.tensor([11, 6])).save(tmp_path / "a.codes")
    with pytest.raises(CheckpointError, match="lengths do not fit"):
        Codes.load(tmp_path / "a.codes")
