import librosa
import numpy as np
import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.mel import mel_bands


@pytest.mark.filterwarnings("ignore:Empty filters")  # bands between two bins
@pytest.mark.parametrize("f_min", [0.0, 700.0, 1200.0])
@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(16000, 2048, 320), (44100, 2048, 320), (24000, 32, 5)])
def test_slaney_bands_are_those_of_librosa(rate, n_fft, n_mels, f_min):
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, dtype=np.float64)
    ours = mel_bands(rate, n_fft, n_mels, f_min=f_min, scale="slaney")
    assert float((ours - torch.from_numpy(theirs)).abs().max()) < 1e-12


def test_htk_bands_are_those_of_librosa_scaled_to_unit_sum():
    theirs = librosa.filters.mel(sr=16000, n_fft=720, n_mels=80, fmin=50, fmax=7000, htk=True, dtype=np.float64)
    theirs /= theirs.sum(1, keepdims=True)
    ours = mel_bands(16000, 720, 80, f_min=50, f_max=7000)
    assert float((ours - torch.from_numpy(theirs)).abs().max()) < 1e-12


def test_another_scale_is_refused():
    with pytest.raises(InputError, match="'htk' or 'slaney', not 'bark'"):
        mel_bands(16000, 512, 40, scale="bark")
