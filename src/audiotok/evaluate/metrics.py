"""All metrics of reconstruction, by name. docs/metrics.md says what each of them tells."""

from collections.abc import Sequence

from ..errors import InputError, MissingDependencyError
from .meaning_metrics import MEANING_METRICS
from .metric_base import Example, Metric, MetricError
from .perceptual_metrics import PERCEPTUAL_METRICS
from .predicted_metrics import PREDICTED_METRICS
from .signal_metrics import SIGNAL_METRICS
from .spectral_metrics import SPECTRAL_METRICS

__all__ = ["METRICS", "Example", "Metric", "MetricError", "measure"]

#: In the order of tables.
METRICS = {
    metric.name: metric
    for metric in (
        *SIGNAL_METRICS,
        *SPECTRAL_METRICS,
        *PERCEPTUAL_METRICS,
        *PREDICTED_METRICS,
        *MEANING_METRICS,
    )
}


def measure(names: Sequence[str], example: Example) -> dict[str, float | str]:
    """Several metrics of one pair of signals; work that they share (resampling, transcripts) is done once.

    Args:
        names: keys of `METRICS`.
        example: the signals.

    Returns:
        For each name, in that order, the number, or as text the reason why there is none: a silent or too short
        signal, a package or a download that is missing. A failure is never a number.

    Raises:
        InputError: there is no such metric, or the signals are not [T] of one length.

    Example:
        >>> import torch
        >>> wav = torch.sin(torch.arange(8000) / 7)
        >>> measure(["mel_distance", "pesq_wb"], Example(wav, torch.zeros(8000), 16000))["pesq_wb"]
        'the estimate is silent'
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"there is no metric {', '.join(unknown)}: choose of {', '.join(METRICS)}")
    found: dict[str, float | str] = {}
    for name in names:
        try:
            found[name] = METRICS[name].measure(example)
        except (MetricError, MissingDependencyError) as error:
            found[name] = str(error)
    return found
