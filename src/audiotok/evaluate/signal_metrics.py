"""How much of an estimate is not the reference, in dB: with no allowance, up to a scale, up to a short filter."""

import math

from torch import Tensor

from .metric_base import Example, Metric, MetricError, optional, require_sound

FILTER_TAPS = 512
_LEAST_SAMPLES = 2 * FILTER_TAPS  # a filter fits anything that is no longer than itself
# Added to the energy of the reference, which is 1: the filter is then always determined, and a perfect fit stays below
# 1. It bounds the ratio at 120 dB, and changes one of 60 dB by less than 1e-5 dB.
_LOADING = 1e-12
_COPY_DB = 110.0  # nothing is between 16 bits, 98 dB, and this but copies


def snr(example: Example) -> float:
    """Energy of the reference over that of the difference; a copy gives infinity.

    Raises:
        MetricError: the reference is silent.
    """
    reference, estimate = _doubles(example)
    require_sound(reference=reference)
    with optional("SNR", "torchmetrics"):
        from torchmetrics.functional.audio import signal_noise_ratio
    scale = reference.norm()
    return _ratio(signal_noise_ratio(estimate / scale, reference / scale))


def si_snr(example: Example) -> float:
    """Scale-invariant signal-to-noise ratio (Luo and Mesgarani 2018, arXiv 1711.00541; Le Roux et al. 2019, arXiv
    1811.02508): means removed, and the reference scaled to fit best; a scaled copy gives infinity.

    Raises:
        MetricError: one of them is silent.
    """
    reference, estimate = _doubles(example)
    require_sound(reference=reference, estimate=estimate)
    with optional("SI-SNR", "torchmetrics"):
        from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio
    # The package adds a constant to both energies, which must be small beside what is left without the means.
    reference, estimate = _unit(reference - reference.mean()), _unit(estimate - estimate.mean())
    return _ratio(scale_invariant_signal_noise_ratio(estimate, reference))


def sdr(example: Example) -> float:
    """Signal-to-distortion ratio of BSS Eval (Vincent, Gribonval and Févotte 2006; Scheibler 2021, arXiv 2110.06440):
    the reference may pass through whatever filter of 512 taps makes it fit best. For one source and one channel that
    is the convolution-invariant SDR of Boeddeker et al. 2020 (arXiv 2011.15003), too. A filtered copy gives infinity.

    Raises:
        MetricError: one of them is silent, or there are fewer than 1024 samples.
    """
    return example.once("sdr", lambda: _sdr(example))


def _sdr(example: Example) -> float:
    if len(example.reference) < _LEAST_SAMPLES:
        raise MetricError(f"{len(example.reference)} samples are too few for a filter of {FILTER_TAPS} taps")
    reference, estimate = _doubles(example)
    require_sound(reference=reference, estimate=estimate)
    with optional("SDR", "torchmetrics"):
        from torchmetrics.functional.audio import signal_distortion_ratio
    # The package makes the norms 1, too, but not those below 1e-6.
    found = signal_distortion_ratio(_unit(estimate), _unit(reference), filter_length=FILTER_TAPS, load_diag=_LOADING)
    return _ratio(found)


def _doubles(example: Example) -> tuple[Tensor, Tensor]:
    return example.reference.detach().cpu().double(), example.estimate.detach().cpu().double()


def _unit(wav: Tensor) -> Tensor:
    scaled: Tensor = wav / wav.norm()
    return scaled


def _ratio(decibels: Tensor) -> float:
    value = float(decibels)
    return math.inf if value >= _COPY_DB else value


SIGNAL_METRICS = (
    Metric("sdr", "SDR", "dB", "higher", "torchmetrics", sdr, default=True),
    Metric("ci_sdr", "CI-SDR", "dB", "higher", "torchmetrics", sdr),
    Metric("si_snr", "SI-SNR", "dB", "higher", "torchmetrics", si_snr, default=True),
    Metric("snr", "SNR", "dB", "higher", "torchmetrics", snr),
)
