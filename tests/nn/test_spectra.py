import math

import librosa
import numpy as np
import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.spectra import MELS, RESOLUTIONS, WINDOWS, MultiResolutionStft, MultiScaleMel


@pytest.fixture
def pair(speech):
    """Speech [2, 30000], and the same with white noise."""
    target = torch.stack([row[0, :30000] for row in speech[:2]])
    return target + 0.01 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0)), target


def magnitudes(wav: np.ndarray, n_fft: int, hop: int, window: int) -> np.ndarray:
    """[B, N, F] by definition: both ends mirrored, a Hann window in the middle of each frame."""
    padded = np.pad(wav, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, ::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    before = (n_fft - window) // 2
    return np.abs(np.fft.rfft(frames * np.pad(hann, (before, n_fft - window - before)))).transpose(0, 2, 1)


def test_mel_distance_equals_a_second_implementation(pair):
    wav, target = (side.double().numpy() for side in pair)
    scales = []
    for window, count in zip(WINDOWS, MELS, strict=True):
        bands = librosa.filters.mel(sr=16000, n_fft=window, n_mels=count, dtype=np.float64)
        logs = [
            np.log10(np.maximum(bands @ magnitudes(one, window, window // 4, window), 1e-5)) for one in (wav, target)
        ]
        scales.append(np.abs(logs[0] - logs[1]).mean())
    assert float(MultiScaleMel(16000)(*pair)) == pytest.approx(np.mean(scales), rel=1e-4)


def test_stft_distance_equals_a_second_implementation(pair):
    wav, target = (side.double().numpy() for side in pair)
    distances = []
    for resolution in RESOLUTIONS:
        given, wanted = (np.maximum(magnitudes(side, *resolution), 3e-4) for side in (wav, target))
        convergence = np.linalg.norm(wanted - given) / np.linalg.norm(wanted)
        distances.append(convergence + np.abs(np.log(given) - np.log(wanted)).mean())
    assert float(MultiResolutionStft()(*pair)) == pytest.approx(np.mean(distances), rel=1e-4)


@pytest.mark.parametrize("make", [lambda: MultiScaleMel(16000), MultiResolutionStft])
class TestBoth:
    def test_equal_waveforms_have_no_distance(self, make, pair):
        assert float(make()(pair[1], pair[1])) == 0

    def test_silence_against_silence_is_nought_with_finite_gradients(self, make):
        wav = torch.zeros(1, 4000, requires_grad=True)
        distance = make()(wav, torch.zeros(1, 4000))
        distance.backward()
        assert float(distance.detach()) == 0
        assert torch.equal(wav.grad, torch.zeros(1, 4000))

    def test_gradients_descend_and_the_target_gets_none(self, make, pair):
        distance = make()
        wav, target = (side.clone().requires_grad_() for side in pair)
        before = distance(wav, target)
        before.backward()
        step = wav.detach() - 1e-3 * wav.grad.sign()
        assert target.grad is None
        assert wav.grad.isfinite().all()
        assert float(distance(step, target.detach())) < float(before.detach())

    def test_autocast_changes_nothing(self, make, pair):
        distance = make()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = distance(*pair)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, distance(*pair))

    def test_nothing_of_it_is_saved_with_a_model(self, make, pair):
        assert make().state_dict() == {}

    def test_a_batch_is_one_signal_seen_twice(self, make, pair):
        one, two = make()(pair[0][:1], pair[1][:1]), make()(pair[0][[0, 0]], pair[1][[0, 0]])
        assert float(one) == pytest.approx(float(two), rel=1e-5)

    @pytest.mark.parametrize("shapes", [((2, 3000), (1, 3000)), ((3000,), (3000,)), ((1, 1024), (1, 1024))])
    def test_shapes_that_cannot_be_compared_are_refused(self, make, shapes):
        with pytest.raises(InputError, match="wanted"):
            make()(*(torch.zeros(shape) for shape in shapes))


def test_a_tenth_of_the_level_is_one_in_log10_and_its_logarithm_in_the_stft_distance():
    wav = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    assert float(MultiScaleMel(16000)(wav / 10, wav)) == pytest.approx(1, rel=1e-4)
    assert float(MultiResolutionStft()(wav / 10, wav)) == pytest.approx(0.9 + math.log(10), rel=1e-3)


@pytest.mark.parametrize(("windows", "mels"), [((), ()), ((64,), (5, 10)), ((30,), (5,)), ((0,), (5,))])
def test_scales_that_make_no_sense_are_refused(windows, mels):
    with pytest.raises(InputError, match="multiple of 4"):
        MultiScaleMel(16000, windows, mels)


@pytest.mark.parametrize("resolutions", [(), ((512, 0, 240),), ((512, 300, 240),), ((512, 100, 600),)])
def test_resolutions_that_make_no_sense_are_refused(resolutions):
    with pytest.raises(InputError, match="n_fft, hop, window"):
        MultiResolutionStft(resolutions)
