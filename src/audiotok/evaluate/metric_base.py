"""What every metric is made of: the pair of signals that it compares, and how it says that it cannot."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

import numpy as np
from safetensors import SafetensorError
from torch import Tensor

from .. import audio
from ..errors import AudiotokError, InputError, MissingDependencyError, hub_client_errors

#: How code that is not ours fails, beside its own errors of these kinds.
FAILURES = (AudiotokError, ArithmeticError, ImportError, LookupError, MemoryError, OSError, RuntimeError, ValueError)
_SILENCE = 1e-7  # -140 dB of full scale: what is left of a constant signal whose mean was taken away, in float32
_Found = TypeVar("_Found")


class MetricError(AudiotokError):
    """A metric cannot be computed of these signals: the message is the reason."""


@dataclass(frozen=True, eq=False)
class Example:
    """A signal as it was, and as it came out of a system.

    Attributes:
        reference: [T] float, mono, -1..1.
        estimate: [T] float, mono, as long as the reference.
        sample_rate: of both, in Hz.
        labels: what else is known of the item, by column of its manifest: "text", "language", ...
    """

    reference: Tensor
    estimate: Tensor
    sample_rate: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def at(self, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Reference and estimate [T'] float32, T' = round(T · sample_rate / self.sample_rate), on the CPU."""

        def resampled(wav: Tensor) -> Tensor:
            return audio.resample(wav.detach().float().cpu(), self.sample_rate, sample_rate)

        return self.once(f"at {sample_rate}", lambda: (resampled(self.reference), resampled(self.estimate)))

    def once(self, name: str, work: Callable[[], _Found]) -> _Found:
        """What `work` gives, which is done once for all metrics that ask for it by this name."""
        if name not in self._kept:
            self._kept[name] = work()
        return cast(_Found, self._kept[name])

    @property
    def seconds(self) -> float:
        """Length."""
        return self.reference.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Metric:
    """One number that says how good an estimate is.

    Attributes:
        name: for arguments and columns.
        label: for tables.
        unit: "dB", "MOS", ... or empty.
        better: "higher" or "lower".
        package: the optional package that computes it; empty for our own.
        formula: gives the number, or raises `MetricError`. Signals are of one shape and finite.
        needs: "network" (weights are downloaded on first use), "labels" (a column of the manifest), both, or empty.
        default: whether it is among those taken when none is named: quick, and without needs.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower"]
    package: str
    formula: Callable[[Example], float]
    needs: str = ""
    default: bool = False

    def measure(self, example: Example) -> float:
        """The number; infinite where that is its value.

        Raises:
            MetricError: it cannot be computed of these signals, and why; or its package failed on them.
            MissingDependencyError: its package is not installed.
            InputError: the two signals are not [T] of one length.
        """
        reference, estimate = example.reference, example.estimate
        if reference.dim() != 1 or reference.shape != estimate.shape:
            raise InputError(
                f"wanted reference and estimate [T] of one length, not {list(reference.shape)}, {list(estimate.shape)}"
            )
        for name, wav in (("reference", reference), ("estimate", estimate)):
            if not wav.isfinite().all():
                raise MetricError(f"the {name} holds NaN or infinite samples")
        try:
            value = float(self.formula(example))
        except (MetricError, MissingDependencyError):
            raise
        except FAILURES as error:
            raise MetricError(f"{self.label} failed with {type(error).__name__}: {error}") from error
        if value != value:
            raise MetricError(f"{self.label} came out as not a number")
        return value


def require_sound(**signals: Tensor) -> None:
    """Raises MetricError where a signal [T] is silent (empty, or no more than -140 dB about a constant)."""
    for name, wav in signals.items():
        if wav.numel() == 0 or float((wav - wav.double().mean()).abs().max()) <= _SILENCE:
            raise MetricError(f"the {name} is silent")


def require_seconds(example: Example, least: float, most: float = float("inf")) -> None:
    """Raises MetricError where the signals are shorter or longer than the metric takes."""
    if not least <= example.seconds <= most:
        bound = f"less than {least:g} s" if example.seconds < least else f"more than {most:g} s"
        raise MetricError(f"{example.seconds:.3f} s is {bound}, which this metric cannot take")


@contextlib.contextmanager
def optional(what: str, packages: str, extra: str = "eval") -> Iterator[None]:
    """Turns a failed import within into MissingDependencyError."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(f"{what} needs {packages}: pip install 'audiotok[{extra}]'") from error


def from_network(load: Callable[[str], _Found], place: str) -> _Found:
    """What `load` makes of a repository of the Hub, or of an address; done once in a process, even where it fails.

    Raises:
        MetricError: its files are not in the cache and cannot be downloaded (or HF_HUB_OFFLINE is set), or are broken.
    """
    found = _attempt(load, place)
    if isinstance(found, _Unavailable):
        raise MetricError(found.reason)
    return cast(_Found, found)


@dataclass(frozen=True)
class _Unavailable:
    reason: str


@lru_cache(maxsize=16)
def _attempt(load: Callable[[str], Any], place: str) -> Any:
    failures: tuple[type[Exception], ...] = (*FAILURES, *hub_client_errors(), SafetensorError)
    try:
        return load(place)
    except failures as error:
        return _Unavailable(f"{place} cannot be used: {' '.join(str(error).split())}")


@contextlib.contextmanager
def repeatable_numpy() -> Iterator[None]:
    """Within, packages that compute with NumPy repeat themselves to the last bit: its global generator, which some of
    them draw from, begins at seed 0, and its matrix products take one thread, since their sums depend on how many there
    are. After, both are as before."""
    with optional("this metric", "threadpoolctl"):
        from threadpoolctl import threadpool_limits
    before = np.random.get_state()  # noqa: NPY002 - theirs is the legacy generator
    np.random.seed(0)  # noqa: NPY002
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
