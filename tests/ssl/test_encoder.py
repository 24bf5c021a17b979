"""The SSL encoder: equal to transformers, the same in any batch, in windows, in 16 bits."""

import pytest
import torch
from encoder_models import ARCHITECTURES, config_of, hidden_states, ours, theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.errors import InputError
from audiotok.quantize.nearest import SearchTable, nearest
from audiotok.ssl.encoder import SSLEncoder
from audiotok.ssl.encoder_weights import encoder_state

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scale_of(states):
    return float(states.abs().max().clamp(min=1))


@EVERY
def test_hidden_states_are_those_of_transformers(name):
    wav = 0.3 * noise(2, 12345) + 0.05
    want, got = hidden_states(name, wav), ours(name)(wav)
    assert list(got) == [0, 1, 2, 3]
    for layer, states in got.items():
        assert states.shape == want[layer].shape
        assert (states - want[layer]).abs().max() <= 1e-5 * scale_of(want[layer])


@EVERY
def test_in_float64_they_are_equal_to_eleven_digits(name):
    wav = (0.3 * noise(1, 20000) + 0.05).double()
    want = hidden_states(name, wav)
    encoder = ours(name).double()
    encoder.load_state_dict(encoder_state(theirs(name).state_dict(), config_of(name), [3], dtype=torch.float64))
    for layer, states in encoder(wav).items():
        assert states.dtype == torch.float64
        assert (states - want[layer]).abs().max() <= 1e-11 * scale_of(want[layer])


@EVERY
@settings(max_examples=12, derandomize=True, deadline=None)
@given(lengths=st.lists(st.integers(720, 15000), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_row_in_a_padded_batch_is_the_row_alone(name, lengths, seed):
    encoder = ours(name)
    alone = [encoder(0.1 * noise(1, size, seed=seed + i)) for i, size in enumerate(lengths)]
    batch = 50 * noise(len(lengths), max(lengths) + 333, seed=seed)  # loud noise in the padding
    batch[:, -7:] = torch.nan
    for i, size in enumerate(lengths):
        batch[i, :size] = 0.1 * noise(1, size, seed=seed + i)[0]
    book = {layer: SearchTable.of(states[0, ::2]) for layer, states in alone[0].items()}
    for row_by_row in (None, False):
        encoder.row_by_row = row_by_row
        together = encoder(batch, torch.tensor(lengths))
        for layer, states in together.items():
            assert states.shape[1] == encoder.num_frames(batch.shape[1])
            for one, row in zip(alone, states, strict=True):
                want, frames = one[layer][0], one[layer].shape[1]
                assert not row[frames:].any()
                if row_by_row is None:  # on a CPU rows go one by one
                    assert torch.equal(row[:frames], want)
                assert (row[:frames] - want).abs().max() <= 1e-5 * scale_of(want)
                assert torch.equal(nearest(row[:frames], book[layer]), nearest(want, book[layer]))


@EVERY
def test_rows_of_one_length_are_the_rows_alone(name):
    encoder, wav = ours(name), 0.1 * noise(3, 8000)
    encoder.row_by_row = False
    for layer, states in encoder(wav).items():
        for i in range(3):
            assert (states[i] - encoder(wav[i : i + 1])[layer][0]).abs().max() <= 1e-5 * scale_of(states)


@EVERY
def test_what_is_not_asked_for_is_not_built(name):
    def size(*layers):
        return sum(parameter.numel() for parameter in SSLEncoder(config_of(name), layers).parameters())

    block = sum(parameter.numel() for parameter in ours(name).blocks[0].parameters())
    relative = 32 * 4 if "wavlm" in name else 0
    assert size(1) == size(1, 0) == size(0) + block + relative
    assert size(3) == size(0, 3, 1) == size(1) + 2 * block
    some, every = ours(name, (2, 0)), ours(name)
    wav = noise(1, 5000)
    assert list(some(wav)) == [2, 0]
    assert all(torch.equal(states, every(wav)[layer]) for layer, states in some(wav).items())


@EVERY
def test_its_numbers(name):
    encoder = ours(name, (0,))
    hop = 640 if "25hz" in name else 320
    assert encoder.hop_length == hop
    assert encoder.min_samples == 400 + hop - 320
    assert encoder.num_frames(encoder.min_samples - 1) == 0
    for size in (encoder.min_samples, 1999, 2000, 16000, 16001):
        assert encoder(noise(1, size))[0].shape == (1, encoder.num_frames(size), 48)


@EVERY
def test_in_windows_layer_0_is_exact_and_blocks_see_the_window(name):
    encoder, wav = ours(name), 0.1 * noise(1, 60001)
    whole = encoder(wav)
    encoder.max_window_seconds, encoder.overlap_seconds = 1.0, 0.2
    frames = encoder.num_frames(wav.shape[1])
    plan = encoder._plan(frames)
    assert len(plan) > 5
    windowed = encoder(wav)
    assert (windowed[0] - whole[0]).abs().max() <= 1e-5 * scale_of(whole[0])
    # The blocks start from layer 0, in a post-norm network after its norm.
    encoder.norm = None
    for start, stop, keep, end in plan:
        want = encoder._blocks(whole[0][:, start:stop], None)[3][:, keep - start : end - start]
        assert (windowed[3][:, keep:end] - want).abs().max() <= 3e-5 * scale_of(want)


@settings(max_examples=50, deadline=None)
@given(frames=st.integers(1, 20000), window=st.integers(9, 400), overlap=st.integers(0, 3))
def test_windows_cover_every_frame_once(frames, window, overlap):
    encoder = ours("hubert-base", (0,))
    encoder.max_window_seconds, encoder.overlap_seconds = window * 0.02, overlap * 0.02
    plan = encoder._plan(frames)
    assert [frame for _, _, keep, end in plan for frame in range(keep, end)] == list(range(frames))
    for start, stop, keep, end in plan:
        assert 0 <= start <= keep < end <= stop <= frames
        assert stop - start <= window
        assert start == max(0, keep - overlap) or len(plan) == 1
        assert stop == min(frames, end + overlap)


def test_a_long_row_does_not_change_the_short_ones_beside_it():
    encoder = ours("wavlm-large")
    encoder.max_window_seconds, encoder.overlap_seconds = 1.0, 0.2
    wav, lengths = 0.1 * noise(3, 40000), [9000, 40000, 4000]
    for row_by_row in (True, False):
        encoder.row_by_row = row_by_row
        together = encoder(wav, torch.tensor(lengths))
        for i, size in enumerate(lengths):
            alone = encoder(wav[i : i + 1, :size])[3][0]
            assert (together[3][i, : len(alone)] - alone).abs().max() <= 1e-5 * scale_of(alone)


def test_pieces_of_a_long_row_make_up_the_whole():
    encoder = ours("wav2vec2-base", (3, 1))
    encoder.max_window_seconds, encoder.overlap_seconds = 1.0, 0.2
    wav, at = noise(50000), 0
    whole = encoder(wav[None])
    for start, piece in encoder.windows(wav):
        assert start == at
        assert torch.equal(piece[3], whole[3][0, at : at + len(piece[3])])
        at += len(piece[3])
    assert at == encoder.num_frames(50000)


def test_autocast_changes_nothing_and_is_left_as_it_was():
    encoder, wav = ours("hubert-large"), noise(1, 30000)
    encoder.max_window_seconds, encoder.overlap_seconds = 1.0, 0.2
    want = encoder(wav)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(wav)[3], want[3])
        for _ in encoder.windows(wav[0]):
            assert torch.is_autocast_enabled("cpu")


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_norms_and_sums_stay_in_float32(name, dtype):
    encoder, wav = ours(name), 0.1 * noise(2, 9000)
    want = encoder(wav)
    encoder.to(dtype)
    kinds = {key: value.dtype for key, value in encoder.state_dict().items()}
    assert all((kind == torch.float32) == ("norm" in key or "first" in key) for key, kind in kinds.items())
    encoder.row_by_row = False
    for layer, states in encoder(wav, torch.tensor([9000, 5000])).items():
        assert states.dtype == torch.float32
        error = (states[0] - want[layer][0]).norm() / want[layer][0].norm()
        assert 1e-6 < error < (0.05 if dtype == torch.bfloat16 else 0.006)


def test_silence_and_a_constant_give_finite_states():
    for name in ARCHITECTURES:
        for level in (0.0, 0.5):
            assert all(states.isfinite().all() for states in ours(name)(torch.full((1, 4000), level)).values())


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "at least one"), ([1, 1], "different"), ([4], "0..3"), ([-1], "0..3"), ([True], "whole"), (["1"], "whole")],
)
def test_layers_that_do_not_exist(layers, message):
    with pytest.raises(InputError, match=message):
        SSLEncoder(config_of("hubert-base"), layers)


def test_input_that_does_not_fit():
    encoder = ours("hubert-base", (0,))
    for wav in (noise(5000), noise(1, 1, 5000), torch.zeros(1, 5000, dtype=torch.int16), noise(0, 5000)):
        with pytest.raises(InputError, match="float tensor \\[B, T\\]"):
            encoder(wav)
    for lengths in ([399, 5000], [5001, 5000], [5000]):
        with pytest.raises(InputError, match="pad shorter audio with zeros to 400 samples"):
            encoder(noise(2, 5000), torch.tensor(lengths))
    with pytest.raises(InputError, match="one row"):
        next(encoder.windows(noise(1, 5000)))
    encoder.max_window_seconds = 1.0
    with pytest.raises(InputError, match="twice overlap_seconds"):
        encoder(noise(1, 50000))
