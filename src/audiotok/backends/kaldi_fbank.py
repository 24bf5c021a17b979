"""Log-mel filter banks as Kaldi computes them, and what w2v-BERT 2.0 takes of them, for a whole batch on any device.

The arithmetic, in float32, is that of `compute-fbank-feats` (Povey et al. 2011, "The Kaldi Speech Recognition Toolkit")
with its defaults and no dither: 25 ms windows every 10 ms that lie wholly inside the audio, the mean taken off, high
frequencies emphasised by 0.97, Povey's window, the power spectrum of 512 points, 80 triangles on the mel scale.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE = 16000
WINDOW = 400
HOP = 160
BANDS = 80
_FFT = 512
_LOWEST, _HIGHEST = 20.0, 8000.0  # Hz
_EMPHASIS = 0.97
_FULL_SCALE = 32768.0  # Kaldi reads 16-bit integers
_FLOOR = torch.finfo(torch.float32).eps
_TINY_VARIANCE = 1e-7


def kaldi_fbank(wav: Tensor) -> Tensor:
    """Log energies of 80 mel bands.

    Args:
        wav: [B, T] in -1..1 at 16 kHz, T at least 400.

    Returns:
        [B, 1 + (T - 400) // 160, 80] float32.
    """
    frames = (wav.float() * _FULL_SCALE).unfold(1, WINDOW, HOP)  # [B, F, 400]
    frames = frames - frames.mean(2, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], 2)
    window = torch.hann_window(WINDOW, periodic=False, device=wav.device) ** 0.85
    spectrum: Tensor = torch.fft.rfft((frames - _EMPHASIS * before) * window, _FFT).abs().square()
    return (spectrum @ _triangles(wav.device)).clamp(min=_FLOOR).log()


def w2v_bert_features(wav: Tensor) -> Tensor:
    """Filter banks with mean 0 and variance 1 in every band over the utterance, two frames side by side (Barrault et
    al. 2023, arXiv 2312.05187).

    Args:
        wav: [B, T] in -1..1 at 16 kHz, T at least 560; all of it counts.

    Returns:
        [B, F // 2, 160] float32, F the frames of `kaldi_fbank`: one every 20 ms. An odd last frame is left out.
    """
    bands = kaldi_fbank(wav)
    bands = (bands - bands.mean(1, keepdim=True)) / (bands.var(1, keepdim=True) + _TINY_VARIANCE).sqrt()
    return bands[:, : bands.shape[1] // 2 * 2].reshape(len(bands), -1, 2 * BANDS)


def _triangles(device: torch.device) -> Tensor:
    """[257, 80]: the weight of every bin of the spectrum in every band; the bin at 8 kHz is in none."""
    low, high = _mel(_LOWEST), _mel(_HIGHEST)
    edges = low + torch.arange(BANDS + 2, device=device) * ((high - low) / (BANDS + 1))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = 1127.0 * (1.0 + SAMPLE_RATE / _FFT * torch.arange(_FFT // 2, device=device) / 700.0).log()[:, None]
    weights = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return functional.pad(weights, (0, 0, 0, 1))


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)
