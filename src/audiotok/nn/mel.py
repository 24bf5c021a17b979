"""The triangular mel filterbank, on both scales of the field."""

import math
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

MelScale = Literal["htk", "slaney"]

# Slaney's scale (Auditory Toolbox, 1998): straight up to 1 kHz, 15 mel there; then 27 mel for each factor of 6.4.
_HERTZ_PER_MEL = 200 / 3
_KNEE_HERTZ, _KNEE_MEL = 1000.0, 15.0
_LOG_STEP = math.log(6.4) / 27


def mel_bands(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    *,
    f_min: float = 0.0,
    f_max: float = 0.0,
    scale: MelScale = "htk",
) -> Tensor:
    """Triangles that turn the magnitudes of a Fourier transform into mel bands.

    A band narrower than the distance of two bins may hold none of them: its row is then zero.

    Args:
        sample_rate: in Hz.
        n_fft: length of the transform in samples.
        n_mels: number of bands.
        f_min: lower edge of the first band in Hz.
        f_max: upper edge of the last band in Hz; 0 means half the sample rate.
        scale: "htk" spaces the bands evenly on the scale of O'Shaughnessy (1987), m = 2595 log10(1 + f / 700), and
            gives each unit sum, so that a band is a mean of bins; "slaney" spaces them evenly on the scale of
            Slaney's Auditory Toolbox (1998) and gives each unit area over Hz, as librosa does unless told otherwise.

    Returns:
        [n_mels, n_fft // 2 + 1] float64, on the CPU.

    Raises:
        InputError: another scale.

    Example:
        >>> mel_bands(16000, 512, 40).sum(dim=1).round(decimals=6).unique()
        tensor([1.], dtype=torch.float64)
    """
    top = f_max or sample_rate / 2
    if scale == "htk":
        edges = _htk_edges(f_min, top, n_mels)
    elif scale == "slaney":
        edges = _slaney_edges(f_min, top, n_mels)
    else:
        raise InputError(f"the mel scale is 'htk' or 'slaney', not {scale!r}")
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bands = torch.minimum(rising, falling).clamp(min=0)
    if scale == "slaney":
        return bands * (2 / (edges[2:] - edges[:-2]))[:, None]
    return bands / bands.sum(1, keepdim=True).clamp(min=1e-12)


def _htk_edges(low: float, high: float, n_mels: int) -> Tensor:
    """[n_mels + 2] Hz: band i rises from edge i to edge i + 1 and falls to edge i + 2."""

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    marks = torch.linspace(to_mel(low), to_mel(high), n_mels + 2, dtype=torch.float64)
    return 700 * (10 ** (marks / 2595) - 1)


def _slaney_edges(low: float, high: float, n_mels: int) -> Tensor:
    """[n_mels + 2] Hz, as `_htk_edges`."""

    def to_mel(hertz: float) -> float:
        if hertz < _KNEE_HERTZ:
            return hertz / _HERTZ_PER_MEL
        return _KNEE_MEL + math.log(hertz / _KNEE_HERTZ) / _LOG_STEP

    marks = torch.linspace(to_mel(low), to_mel(high), n_mels + 2, dtype=torch.float64)
    above = _KNEE_HERTZ * torch.exp(_LOG_STEP * (marks - _KNEE_MEL))
    return torch.where(marks < _KNEE_MEL, marks * _HERTZ_PER_MEL, above)
