"""Kaldi's filter banks against the NumPy implementation of the transformers library."""

import numpy as np
import pytest
import torch

from audiotok.backends.kaldi_fbank import kaldi_fbank, w2v_bert_features


@pytest.fixture(scope="module")
def numpy_extractor():
    from transformers import SeamlessM4TFeatureExtractor

    return SeamlessM4TFeatureExtractor()


def test_equals_a_second_implementation(speech, numpy_extractor):
    for row in speech:
        wav = row[:, : 400 + 161 * 160]  # an even number of frames
        wanted = numpy_extractor(wav[0].numpy(), sampling_rate=16000, do_normalize_per_mel_bins=False)
        pairs = torch.from_numpy(np.array(wanted["input_features"]))  # [1, 81, 160]
        normalised = torch.from_numpy(np.array(numpy_extractor(wav[0].numpy(), sampling_rate=16000)["input_features"]))
        for found, other in ((kaldi_fbank(wav), pairs.reshape(1, 162, 80)), (w2v_bert_features(wav), normalised)):
            assert found.shape == other.shape
            assert float((found - other).abs().mean()) < 1e-5
            assert float((found - other).abs().max()) < 0.05  # where there is next to no energy


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_only_whole_windows_count(samples, frames):
    assert kaldi_fbank(torch.zeros(2, samples)).shape == (2, frames, 80)


def test_silence_is_the_floor():
    assert torch.equal(kaldi_fbank(torch.zeros(1, 400)), torch.full((1, 1, 80), -15.9423847))
    torch.testing.assert_close(w2v_bert_features(torch.zeros(1, 16000)), torch.zeros(1, 49, 160), atol=0.01, rtol=0)


def test_a_tone_lies_in_its_band():
    wav = 0.1 * torch.sin(2 * np.pi * 1000 * torch.arange(16000) / 16000)
    loudest = kaldi_fbank(wav[None]).mean(1).argmax()
    mel = 1127 * np.log(1 + np.array([20, 1000, 8000]) / 700)
    assert int(loudest) == round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 81 - 1)


def test_a_row_is_the_same_in_any_batch(speech):
    shortest = min(row.shape[1] for row in speech)
    rows = torch.cat([row[:, :shortest] for row in speech])
    batch = w2v_bert_features(rows)
    for row, found in zip(rows, batch, strict=True):
        torch.testing.assert_close(found, w2v_bert_features(row[None])[0], atol=1e-5, rtol=0)
