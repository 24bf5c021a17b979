"""Distances in the spectrum: what codecs are trained on, as metrics."""

from functools import lru_cache

import torch

from ..nn.spectra import MultiResolutionStft, MultiScaleMel
from .metric_base import Example, Metric, MetricError, require_sound


def mel_distance(example: Example) -> float:
    """`MultiScaleMel` at the rate of the signals: mean absolute difference of log10 mel magnitudes over seven scales.

    Raises:
        MetricError: fewer than 1025 samples.
    """
    return _distance(_mel(example.sample_rate), example)


def stft_distance(example: Example) -> float:
    """`MultiResolutionStft` at the rate of the signals: spectral convergence plus log magnitude, three resolutions.

    Raises:
        MetricError: fewer than 1025 samples, or the reference, to which convergence is relative, is silent.
    """
    require_sound(reference=example.reference)
    return _distance(_stft(), example)


def _distance(module: MultiScaleMel | MultiResolutionStft, example: Example) -> float:
    least = max(module.windows) // 2 + 1
    if len(example.reference) < least:
        raise MetricError(f"{len(example.reference)} samples are less than the {least} that the longest window needs")
    with torch.no_grad():
        return float(module(example.estimate.float().cpu()[None], example.reference.float().cpu()[None]))


@lru_cache(maxsize=8)
def _mel(sample_rate: int) -> MultiScaleMel:
    return MultiScaleMel(sample_rate)


@lru_cache(maxsize=1)
def _stft() -> MultiResolutionStft:
    return MultiResolutionStft()


SPECTRAL_METRICS = (
    Metric("mel_distance", "mel distance", "", "lower", "", mel_distance, default=True),
    Metric("stft_distance", "STFT distance", "", "lower", "", stft_distance, default=True),
)
