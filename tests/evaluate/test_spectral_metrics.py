import math

import pytest
import torch

from audiotok.evaluate.metrics import METRICS, Example, MetricError
from audiotok.nn.spectra import MultiResolutionStft, MultiScaleMel

MEL, STFT = METRICS["mel_distance"], METRICS["stft_distance"]


def test_they_are_the_losses_of_training(speech):
    wav = speech[0][0]
    example = Example(wav, wav.roll(3), 16000)
    assert MEL.measure(example) == float(MultiScaleMel(16000)(wav.roll(3)[None], wav[None]))
    assert STFT.measure(example) == float(MultiResolutionStft()(wav.roll(3)[None], wav[None]))


def test_a_tenth_of_the_level_is_one_decade():
    wav = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    assert MEL.measure(Example(wav, wav / 10, 16000)) == pytest.approx(1, rel=1e-4)
    assert STFT.measure(Example(wav, wav / 10, 16000)) == pytest.approx(0.9 + math.log(10), rel=1e-3)


def test_silence_has_a_mel_distance_and_no_stft_distance(speech):
    wav = speech[0][0]
    silent = Example(torch.zeros_like(wav), wav, 16000)
    assert MEL.measure(silent) > 1
    with pytest.raises(MetricError, match="the reference is silent"):
        STFT.measure(silent)


def test_the_longest_window_must_fit_by_half():
    wav = torch.randn(1025, generator=torch.Generator().manual_seed(1))
    for metric in (MEL, STFT):
        assert metric.measure(Example(wav, wav, 16000)) == 0
        with pytest.raises(MetricError, match="1024 samples are less than the 1025"):
            metric.measure(Example(wav[1:], wav[1:], 16000))
