import itertools

import hypothesis
import pytest
import torch

import audiotok
from audiotok import Codes, Spec
from audiotok.errors import InputError
from audiotok.lm import deduplicate, expand
from tests.lm.random_codes import batches, valid

SETTINGS = hypothesis.settings(max_examples=200, deadline=None, derandomize=True)


@SETTINGS
@hypothesis.given(batches())
def test_units_and_durations_give_the_codes_back(codes):
    units, durations = deduplicate(codes)
    back = expand(units, durations)
    assert valid(back) == valid(codes)
    assert torch.equal(back.lengths, codes.lengths)
    for one in (units, back):
        assert torch.equal(one.num_samples, codes.num_samples)
        assert (one.spec, one.fingerprint) == (codes.spec, codes.fingerprint)


@SETTINGS
@hypothesis.given(batches())
def test_runs_are_those_of_itertools(codes):
    """Against a second implementation, and never over padding."""
    units, durations = deduplicate(codes)
    assert durations.shape == (len(codes), units.tokens.shape[2])
    for row, frames in enumerate(valid(codes)):
        runs = [(frame, len(list(run))) for frame, run in itertools.groupby(zip(*frames, strict=True))]
        count = len(runs)
        assert int(units.lengths[row]) == count
        assert list(zip(*valid(units)[row], strict=True)) == [frame for frame, _ in runs]
        assert durations[row].tolist() == [length for _, length in runs] + [0] * (durations.shape[1] - count)
        assert not units.tokens[row, :, count:].any()


def test_one_codebook_written_out():
    spec = Spec("units", 16000, 320, (100,))
    tokens = torch.tensor([[[5, 5, 5, 9, 9, 5, 0, 0]], [[3, 3, 8, 0, 0, 0, 0, 0]]])
    codes = Codes(tokens, torch.tensor([8, 4]), torch.tensor([2600, 1280]), spec, extras={"gain": torch.ones(2)})
    units, durations = deduplicate(codes)
    assert units.tokens.tolist() == [[[5, 9, 5, 0]], [[3, 8, 0, 0]]]
    assert durations.tolist() == [[3, 2, 1, 2], [2, 1, 1, 0]]  # one frame of 0 in the second row, four of padding
    assert units.lengths.tolist() == [4, 3]
    assert units.extras["gain"].tolist() == [1, 1]


def test_a_frame_repeats_only_where_all_codebooks_do():
    spec = Spec("pair", 16000, 320, (10, 10))
    codes = Codes(torch.tensor([[[1, 1, 1, 1], [2, 2, 3, 3]]]), torch.tensor([4]), torch.tensor([1280]), spec)
    units, durations = deduplicate(codes)
    assert units.tokens.tolist() == [[[1, 1], [2, 3]]]
    assert durations.tolist() == [[2, 2]]


def test_real_audio_decodes_as_before(speech):
    tok = audiotok.load()
    codes = tok.encode(speech)
    for count in (1, 8):
        cut = codes.truncate(count)
        units, durations = deduplicate(cut)
        assert int(units.lengths.sum()) < int(cut.lengths.sum()) or count == 8
        assert torch.equal(durations.sum(1), cut.lengths)
        assert torch.equal(expand(units, durations).tokens, cut.tokens)
        for row in range(len(cut)):
            alone = torch.unique_consecutive(cut[row].tokens[0], dim=1, return_counts=True)
            assert torch.equal(units[row].tokens[0], alone[0])
            assert torch.equal(durations[row, : alone[1].numel()], alone[1])


@pytest.mark.parametrize(
    ("durations", "message"),
    [
        (torch.ones(1, 3, dtype=torch.int64), r"durations must be \[1, 2\] whole numbers, not \[1, 3\] torch.int64"),
        (torch.ones(1, 2), r"durations must be \[1, 2\] whole numbers, not \[1, 2\] torch.float32"),
        (torch.ones(1, 2, dtype=torch.bool), "not .1, 2. torch.bool"),
        (torch.tensor([[2, 0]]), "every unit must last at least 1 frame"),
        (torch.tensor([[-1, 2]]), "every unit must last at least 1 frame"),
    ],
)
def test_durations_that_cannot_be_are_refused(durations, message):
    spec = Spec("units", 16000, 320, (100,))
    units = Codes(torch.tensor([[[5, 9]]]), torch.tensor([2]), torch.tensor([1280]), spec)
    with pytest.raises(InputError, match=message):
        expand(units, durations)


def test_durations_beyond_a_row_are_not_read():
    spec = Spec("units", 16000, 320, (100,))
    units = Codes(torch.tensor([[[5, 9]], [[3, 0]]]), torch.tensor([2, 1]), torch.tensor([960, 320]), spec)
    back = expand(units, torch.tensor([[1, 2], [1, -7]], dtype=torch.int32))
    assert valid(back) == [[[5, 9, 9]], [[3]]]
