import math

import fast_bss_eval
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.evaluate.metrics import Example, MetricError
from audiotok.evaluate.signal_metrics import sdr, si_snr, snr


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(wav: torch.Tensor, seed: int) -> torch.Tensor:
    """White noise without mean, as strong as wav, with nothing of it."""
    wav = wav.double() - wav.double().mean()
    found = noise(len(wav), seed)
    found = found - found.mean()
    found = found - (found @ wav) / (wav @ wav) * wav
    return found * wav.norm() / found.norm()


@given(st.floats(-20, 60), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_noise_at_so_many_decibels_gives_so_many_decibels(decibels, seed):
    wav = noise(4000, seed + 100)
    wav = wav - wav.mean()
    estimate = wav + orthogonal(wav, seed) / 10 ** (decibels / 20)
    assert si_snr(Example(wav, estimate, 16000)) == pytest.approx(decibels, abs=1e-6)
    assert snr(Example(wav, estimate, 16000)) == pytest.approx(decibels, abs=1e-4)  # the package rounds to float32 eps


def test_white_noise_at_10_db_on_speech(speech):
    wav = speech[0][0]
    example = Example(wav, wav + (orthogonal(wav, 0) / 10**0.5).float(), 16000)
    assert si_snr(example) == pytest.approx(10, abs=1e-3)
    assert snr(example) == pytest.approx(10, abs=1e-2)
    assert 10 < sdr(example) < 10.2  # 512 taps fit a little of 43,000 samples of noise


@given(st.floats(1e-3, 1e3), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_scaled_copy_has_no_distortion(scale, negative):
    wav = noise(3000, 1).float()
    copy = wav * (-scale if negative else scale)
    assert si_snr(Example(wav, copy, 16000)) == math.inf
    assert sdr(Example(wav, copy, 16000)) == math.inf


def test_a_scale_counts_in_the_snr(speech):
    wav = speech[0][0]
    assert snr(Example(wav, wav.clone(), 16000)) == math.inf
    assert snr(Example(wav, wav / 2, 16000)) == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert snr(Example(wav, torch.zeros_like(wav), 16000)) == pytest.approx(0, abs=1e-4)


def test_a_constant_offset_is_no_noise_to_si_snr(speech):
    wav = speech[0][0]
    assert si_snr(Example(wav, wav.double() + 0.1, 16000)) == math.inf


@pytest.mark.parametrize("level", [1e-6, 1e-4])
def test_a_faint_signal_beside_a_constant_is_measured_as_well_as_a_loud_one(level):
    wav = noise(4000, 5)
    wav = wav - wav.mean()
    estimate = wav + orthogonal(wav, 6) / 10**0.5
    assert si_snr(Example(0.9 + level * wav, 0.5 + level * estimate, 16000)) == pytest.approx(10, abs=1e-6)
    assert si_snr(Example(0.9 + level * wav, 0.5 + level * wav, 16000)) == math.inf


def test_a_single_click_may_be_as_soft_as_sound_can_be():
    click = torch.zeros(2000, dtype=torch.float64)
    click[1000] = 2e-7
    estimate = click + orthogonal(click, 7)
    loud = Example(click * 1e6, estimate * 1e6, 16000)
    assert sdr(Example(click, estimate, 16000)) == pytest.approx(sdr(loud), abs=1e-6)


@pytest.mark.parametrize(("delay", "expected"), [(511, math.inf), (512, 20 * math.log10(2))])
def test_an_echo_within_512_taps_is_no_distortion_to_sdr(delay, expected):
    wav = torch.nn.functional.pad(noise(200_000, 4), (0, 600))  # so that nothing of the echo is cut off
    example = Example(wav, wav + 0.5 * wav.roll(delay), 16000)
    assert sdr(example) == pytest.approx(expected, abs=0.05)
    assert si_snr(example) == pytest.approx(20 * math.log10(2), abs=0.05)


@pytest.mark.parametrize("level", [0.003, 0.03, 0.3])
def test_sdr_is_that_of_fast_bss_eval(speech, level):
    wav = speech[1][0].double()
    estimate = wav + level * noise(len(wav), 2)
    theirs = fast_bss_eval.sdr(wav[None].numpy(), estimate[None].numpy(), filter_length=512)
    assert sdr(Example(wav, estimate, 16000)) == pytest.approx(float(theirs[0]), abs=1e-6)  # dB


def test_signals_that_say_nothing_are_refused():
    wav = noise(4000, 3)
    with pytest.raises(MetricError, match="the reference is silent"):
        si_snr(Example(torch.zeros(4000), wav, 16000))
    with pytest.raises(MetricError, match="the estimate is silent"):
        sdr(Example(wav, torch.full((4000,), 0.5), 16000))
    with pytest.raises(MetricError, match="1000 samples are too few for a filter of 512 taps"):
        sdr(Example(wav[:1000], wav[:1000] + 1e-3, 16000))
