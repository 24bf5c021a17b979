import math

import numpy as np
import pytest
import torch

from audiotok.errors import InputError
from audiotok.spec import Spec
from audiotok.ssl.logmel import LogMel
from audiotok.ssl.logmel_kmeans import LogMelKMeans

MEL = LogMel()


def second_implementation(mel: LogMel, wav: np.ndarray) -> np.ndarray:
    """Log-mel frames by definition, one frame and one band at a time, in NumPy."""
    frames = math.ceil(len(wav) / mel.hop_length)
    left = (mel.n_fft - mel.hop_length) // 2
    padded = np.concatenate([np.zeros(left), wav.astype(np.float64), np.zeros(2 * mel.n_fft)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.n_fft) / mel.n_fft)
    top = 2595 * math.log10(1 + mel.sample_rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (mel.n_mels + 1) / 2595) - 1) for i in range(mel.n_mels + 2)]
    hertz = np.arange(mel.n_fft // 2 + 1) * mel.sample_rate / mel.n_fft
    out = np.empty((mel.n_mels, frames))
    for frame in range(frames):
        start = frame * mel.hop_length
        magnitude = np.abs(np.fft.rfft(padded[start : start + mel.n_fft] * window))
        for band in range(mel.n_mels):
            low, middle, high = edges[band : band + 3]
            weight = np.interp(hertz, [low, middle, high], [0, 1, 0], left=0, right=0)
            out[band, frame] = math.log(max(mel.floor, (weight @ magnitude) / weight.sum()))
    return out


def test_frames_equal_a_second_implementation(speech):
    wav = speech[0][:, :5003]
    error = np.abs(MEL(wav)[0].numpy() - second_implementation(MEL, wav[0].numpy())).max()
    assert error < 1e-6


@pytest.mark.parametrize("count", [1, 319, 320, 321, 16000])
def test_there_are_as_many_frames_as_hops_begun(count):
    assert MEL(torch.zeros(2, count)).shape == (2, 80, math.ceil(count / 320))


def test_silence_is_the_floor():
    assert torch.equal(MEL(torch.zeros(1, 1600)), torch.full((1, 80, 5), math.log(1e-4)))


def test_a_row_padded_with_zeros_has_the_same_frames(speech):
    alone = MEL(speech[1])
    padded = MEL(torch.nn.functional.pad(speech[1], (0, 12345)))
    batch = MEL(torch.nn.utils.rnn.pad_sequence([row[0] for row in speech], batch_first=True))
    assert torch.equal(padded[:, :, : alone.shape[2] - 2], alone[:, :, :-2])
    assert torch.equal(batch[1:2, :, : alone.shape[2]], padded[:, :, : alone.shape[2]])


def test_a_frame_depends_on_its_reach_and_no_more(speech):
    left, right = MEL.reach
    frame, wav = 20, speech[0].clone()
    before = MEL(wav)[0, :, frame]
    changed = wav.clone()
    changed[:, : frame * 320 - left] = 0.3
    changed[:, (frame + 1) * 320 + right :] = -0.2
    assert torch.equal(MEL(changed)[0, :, frame], before)
    for edge in (frame * 320 - left + 1, (frame + 1) * 320 + right - 1):  # the periodic window begins with a zero
        changed = wav.clone()
        changed[:, edge] += 0.5
        assert not torch.equal(MEL(changed)[0, :, frame], before)


def test_inverted_frames_are_close_to_the_frames(speech):
    wav = speech[0]
    frames = MEL(wav)
    again = MEL(MEL.invert(frames)[:, : wav.shape[1]])
    assert float((again - frames).abs().mean()) < 0.25  # natural log: about 2 dB


def test_inversion_gives_whole_hops_and_repeats_itself():
    frames = MEL(torch.randn(2, 3333, generator=torch.Generator().manual_seed(0)) * 0.1)
    wav = MEL.invert(frames)
    assert wav.shape == (2, 11 * 320)
    assert torch.equal(wav, MEL.invert(frames))


def test_pieces_with_enough_overlap_invert_as_the_whole(speech):
    mel = LogMel()
    frames = torch.cat([mel(row) for row in speech], dim=2)
    whole = mel.invert(frames, iterations=4)
    margin = mel.invert_reach * 5
    start, end = 100, 140
    piece = mel.invert(frames[:, :, start - margin : end + margin], iterations=4)
    error = (whole[:, start * 320 : end * 320] - piece[:, margin * 320 : (margin + end - start) * 320]).abs().max()
    assert float(error) < 1e-4


@pytest.mark.parametrize("mel", [MEL, LogMel(n_fft=960), LogMel(n_fft=320)])
@pytest.mark.parametrize("iterations", [0, 1])
def test_a_frame_is_heard_as_far_as_its_reach_and_no_further(speech, mel, iterations):
    frames = mel(speech[0][:, : 320 * 40])
    changed = frames.clone()
    changed[:, :, 20] += 1
    differs = (mel.invert(changed, iterations=iterations) != mel.invert(frames, iterations=iterations))[0]
    heard = differs.view(-1, 320).any(1).nonzero()[:, 0]
    reach = mel.invert_reach * iterations + (mel.n_fft > 320)  # and its own window, on both sides of its hop
    assert heard.tolist() == list(range(20 - reach, 20 + reach + 1))


@pytest.mark.parametrize("iterations", [-1, 10**9, 2.5])
def test_so_many_iterations_are_refused(iterations):
    spec = Spec(name="mel", sample_rate=16000, hop_length=320, codebook_sizes=(4,))
    with pytest.raises(InputError, match="iterations must be a whole number from 0 to 1024"):
        LogMelKMeans(spec, MEL, iterations=iterations)


@pytest.mark.parametrize(
    "values",
    [
        {"hop_length": 2048},
        {"n_fft": 2**17},
        {"f_max": 9000.0},
        {"f_min": 8000.0},
        {"n_mels": 0},
        {"n_mels": 513},
        {"floor": 0.0},
        {"n_fft": 720.0},
    ],
)
def test_values_that_make_no_sense_are_refused(values):
    with pytest.raises(InputError):
        LogMel(**values)
