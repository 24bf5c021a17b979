"""Models of hearing that compare an estimate with its reference: PESQ, STOI, ESTOI, ViSQOL."""

import warnings
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from .metric_base import Example, Metric, MetricError, optional, repeatable_numpy, require_seconds, require_sound

# The code of ITU-T P.862 has room for 50 utterances, and overruns it. An utterance and the pause after it take 0.2 s
# each at least.
PESQ_SECONDS = 0.25, 20.0
STOI_SECONDS = 0.4  # 30 frames of 25.6 ms, half overlapping
_VISQOL_RATE = 48000


def pesq_wb(example: Example) -> float:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz: predicted opinion, 1.04 to 4.64.

    Raises:
        MetricError: one is silent, shorter than 0.25 s or longer than 20 s, or no speech is found.
    """
    return _pesq(example, 16000, "wb")


def pesq_nb(example: Example) -> float:
    """Narrow-band PESQ (ITU-T P.862, mapped by P.862.1) at 8 kHz: predicted opinion, 1.02 to 4.55.

    Raises:
        MetricError: as `pesq_wb`.
    """
    return _pesq(example, 8000, "nb")


def _pesq(example: Example, rate: int, mode: Literal["wb", "nb"]) -> float:
    require_seconds(example, *PESQ_SECONDS)
    require_sound(reference=example.reference, estimate=example.estimate)
    reference, estimate = example.at(rate)
    with optional("PESQ", "pesq"):
        from pesq import PesqError, pesq
    try:
        return float(pesq(rate, reference.numpy(), estimate.numpy(), mode))
    except (PesqError, ValueError) as error:  # ValueError: what it makes of a NaN of its own
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise MetricError(f"PESQ cannot score it: {text[:1].lower()}{text[1:]}") from error


def stoi(example: Example) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), -1 to 1. The package resamples to 10 kHz itself.

    Raises:
        MetricError: one is silent, or less than 0.4 s of the reference is louder than 40 dB below its loudest frame.
    """
    return _stoi(example, extended=False)


def estoi(example: Example) -> float:
    """Extended STOI (Jensen and Taal 2016), which hears spectral detail, too.

    Raises:
        MetricError: as `stoi`.
    """
    return _stoi(example, extended=True)


def _stoi(example: Example, *, extended: bool) -> float:
    require_seconds(example, STOI_SECONDS)
    reference, estimate = example.reference.detach().cpu().double(), example.estimate.detach().cpu().double()
    require_sound(reference=reference, estimate=estimate)
    with optional("STOI", "pystoi"):
        from pystoi import stoi as measure
    with warnings.catch_warnings(), repeatable_numpy():  # ESTOI adds noise of the size of a rounding error
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(measure(reference.numpy(), estimate.numpy(), example.sample_rate, extended=extended))
        except RuntimeWarning as warning:
            if not str(warning).startswith("Not enough STFT frames"):
                raise
            # It would have given the constant 1e-5.
            raise MetricError(f"less than {STOI_SECONDS:g} s are left without the silent frames") from warning


def visqol(example: Example) -> float:
    """ViSQOL 3 in its audio mode (Chinen et al. 2020, arXiv 2004.09584) at 48 kHz: predicted opinion, 1 to 4.73.

    Raises:
        MetricError: one is silent, or too short.
    """
    require_sound(reference=example.reference, estimate=example.estimate)
    reference, estimate = example.at(_VISQOL_RATE)
    model = _visqol()
    try:
        with repeatable_numpy():
            return float(model.measure_from_arrays(_samples(reference), _samples(estimate), _VISQOL_RATE).moslqo)
    except ValueError as error:
        raise MetricError(f"ViSQOL cannot score it: {error}") from error


@lru_cache(maxsize=1)
def _visqol() -> Any:
    with optional("ViSQOL", "visqol-python", "visqol"):
        from visqol import VisqolApi
    model = VisqolApi()
    model.create(mode="audio")
    return model


def _samples(wav: Tensor) -> Any:
    return wav.to(torch.float64).numpy()


PERCEPTUAL_METRICS = (
    Metric("pesq_wb", "PESQ", "MOS", "higher", "pesq", pesq_wb, default=True),
    Metric("pesq_nb", "PESQ nb", "MOS", "higher", "pesq", pesq_nb),
    Metric("stoi", "STOI", "", "higher", "pystoi", stoi, default=True),
    Metric("estoi", "ESTOI", "", "higher", "pystoi", estoi, default=True),
    Metric("visqol", "ViSQOL", "MOS", "higher", "visqol-python", visqol),
)
