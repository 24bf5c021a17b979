"""Checks of what a user asks of `evaluate`, before any work is done."""

import re
from collections.abc import Mapping, Sequence

from ..errors import InputError
from .metrics import METRICS

_HIGHEST_RATE = 655_350  # that FLAC takes, in which examples are kept


def check_systems(systems: Sequence[str]) -> None:
    """Raises InputError where it is no list, empty, or names one twice."""
    if isinstance(systems, str) or not systems:
        raise InputError(f'wanted a list of systems such as ["default", "opus:6"], not {systems!r}')
    doubled = sorted({text for text in systems if list(systems).count(text) > 1})
    if doubled:
        raise InputError(f"{doubled[0]} is named twice: name each system once")


def metric_names(metrics: Sequence[str] | None) -> list[str]:
    """Names of metrics in the order of tables; None means those that are taken when none is named.

    Raises:
        InputError: it is no list, or there is no such metric.
    """
    if isinstance(metrics, str):
        raise InputError(f'wanted a list of metrics such as ["stoi", "pesq_wb"], not {metrics!r}')
    wanted = [name for name, metric in METRICS.items() if metric.default] if metrics is None else list(metrics)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise InputError(f"there is no metric {', '.join(unknown)}: choose of {', '.join(METRICS)}")
    return [name for name in METRICS if name in wanted]


def check_numbers(*, longer_than: float, num_examples: int, sample_rate: int, **at_least_one: int | None) -> None:
    """Raises InputError where a number is out of range; None stands for no number."""
    if not 1 <= sample_rate <= _HIGHEST_RATE:
        raise InputError(f"sample_rate must be 1 to {_HIGHEST_RATE} Hz, not {sample_rate}")
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if not longer_than >= 0:
        raise InputError(f"longer_than must be seconds from 0, not {longer_than}")
    if num_examples < 0:
        raise InputError(f"num_examples must be at least 0, not {num_examples}")


def check_probes(probes: Sequence[str], labels: Mapping[str, str]) -> None:
    """Raises InputError where probes are no list, or a label's pattern is no regular expression."""
    if isinstance(probes, str):
        raise InputError(f'wanted a list of probes such as ["speaker"], not {probes!r}')
    for name, pattern in labels.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"the pattern of label {name!r} is no regular expression: {error}: {pattern}") from error
