"""What coding costs: time, memory, parameters, and multiplications."""

import copy
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..tokenizer import Mode, Tokenizer
from .base import System
from .peak_memory import Memory, can_measure, peak_memory
from .systems import TokenizerSystem, open_system


@dataclass(frozen=True)
class Speed:
    """Real-time factors: seconds of work for each second of audio, below 1 where it keeps up. None where there is no
    such half."""

    encode: float
    decode: float | None


@dataclass(frozen=True)
class Parameters:
    """How many numbers a saved folder holds, codebooks and other buffers included.

    Attributes:
        encoder: that only encoding needs.
        quantizer: that both halves need, and those that a tokenizer does not say belong to one of them.
        decoder: that only decoding needs.
    """

    encoder: int
    quantizer: int
    decoder: int

    @property
    def total(self) -> int:
        return self.encoder + self.quantizer + self.decoder


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulate operations for each second of audio. None where there is no such half."""

    encode: float
    decode: float | None


@dataclass(frozen=True)
class Cost:
    """What a system costs.

    Attributes:
        seconds: length of the clip that was coded.
        threads: of `all_cores`.
        one_core, all_cores: times with one thread, and with several.
        memory: None for an anchor, and on a CPU where /proc does not tell.
        parameters, macs: None for an anchor.
    """

    seconds: float
    threads: int
    one_core: Speed
    all_cores: Speed
    memory: Memory | None
    parameters: Parameters | None
    macs: Macs | None


def measure_cost(
    text: str, wav: Tensor, sample_rate: int, *, device: str = "cpu", threads: int | None = None, runs: int = 5
) -> Cost:
    """Measures everything, on a real clip.

    Args:
        text: as `open_system` takes it.
        wav: [1, T], some seconds long.
        sample_rate: of wav, in Hz.
        device: of the tokenizer.
        threads: to compare one with; None takes as many as this process may use cores.
        runs: of which the median counts, after one that does not.

    Raises:
        InputError: threads or runs below 1. Otherwise as `open_system` and `System.run`.
    """
    threads = cores() if threads is None else threads
    system = open_system(text, device)
    one_core = speed(system, wav, sample_rate, threads=1, runs=runs)
    all_cores = speed(system, wav, sample_rate, threads=threads, runs=runs)
    tokenizer = system.tokenizer
    return Cost(
        seconds=wav.shape[1] / sample_rate,
        threads=threads,
        one_core=one_core,
        all_cores=all_cores,
        memory=peak_memory(text, wav, sample_rate, device) if tokenizer and can_measure(tokenizer.device) else None,
        parameters=count_parameters(tokenizer) if tokenizer else None,
        macs=count_macs(tokenizer, wav, sample_rate) if tokenizer else None,
    )


def speed(system: System, wav: Tensor, sample_rate: int, *, threads: int = 1, runs: int = 5) -> Speed:
    """Real-time factors with so many threads: the median of several runs, after one that warms up.

    Args:
        system: what to run. The programs behind an anchor use one thread whatever is said here.
        wav: [1, T].
        sample_rate: of wav, in Hz.
        threads: of torch, for work inside an operator.
        runs: how many.

    Raises:
        InputError: threads or runs below 1. Otherwise as `System.run`.
    """
    if threads < 1 or runs < 1:
        raise InputError(f"at least one thread and one run are wanted, not {threads} and {runs}")
    with _threads(threads):
        encode, decode = zip(*(_seconds(system, wav, sample_rate) for _ in range(runs + 1)), strict=True)
    length = wav.shape[1] / sample_rate
    decoded = [seconds for seconds in decode[1:] if seconds is not None]
    return Speed(median(encode[1:]) / length, median(decoded) / length if decoded else None)


def count_parameters(tokenizer: Tokenizer) -> Parameters:
    """The numbers of each part; what is used in two places counts once.

    Raises:
        UnsupportedError: half of it was dropped.

    Example:
        >>> from audiotok import load
        >>> count_parameters(load("logmel-16khz"))  # 8 codebooks of 1024 centres of 80 log-mel bands
        Parameters(encoder=0, quantizer=655360, decoder=0)
    """
    halves = {mode: _half(tokenizer, mode).state_dict().keys() for mode in ("encode", "decode")}
    sizes = {"encoder": 0, "quantizer": 0, "decoder": 0}
    seen: set[int] = set()
    for name, value in tokenizer.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            part = (
                "encoder"
                if name not in halves["decode"]
                else "decoder"
                if name not in halves["encode"]
                else "quantizer"
            )
            sizes[part] += value.numel()
            seen.add(id(value))
    return Parameters(**sizes)


def count_macs(tokenizer: Tokenizer, wav: Tensor, sample_rate: int) -> Macs:
    """Multiply-accumulate operations, by torch's own counter.

    It counts matrix products, convolutions and attention: the layers, the search for the nearest codebook entry, mel
    filters. It does not count what works on single samples (activations, normalisation, adding) nor Fourier transforms,
    so a tokenizer of log-mel frames looks cheaper than it is. The counter knows torch's own operators and not
    those of oneDNN, cuDNN and fused attention, so these are switched off for the count; the work is the same.

    Args:
        tokenizer: on any device.
        wav: [1, T], some seconds, but no longer than `chunk_seconds`: pieces overlap, and the padding of the ends and
            what attention sees depend on the length.
        sample_rate: of wav, in Hz. Resampling is not counted.
    """
    seconds, row = wav.shape[1] / sample_rate, [wav.expand(tokenizer.spec.channels, -1)]
    codes = tokenizer.encode(row, sample_rate)  # tables that are computed once are there after it
    encode = _macs(lambda: tokenizer.encode(row, sample_rate)) / seconds
    if not tokenizer.spec.decodable:
        return Macs(encode, None)
    tokenizer.decode(codes)
    return Macs(encode, _macs(lambda: tokenizer.decode(codes)) / seconds)


def _macs(function: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with _without_libraries(), sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() // 2  # which takes a multiplication and an addition for two


@contextmanager
def _without_libraries() -> Iterator[None]:
    """Within, torch uses neither oneDNN nor cuDNN, which have operators of their own, for LSTMs for example."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.enabled = before


def _half(tokenizer: Tokenizer, mode: Mode) -> Tokenizer:
    """One half of it; the weights are the same, not copies."""
    weights = {id(tensor): tensor for tensor in itertools.chain(tokenizer.parameters(), tokenizer.buffers())}
    return copy.deepcopy(tokenizer, weights).use_mode(mode)


def _seconds(system: System, wav: Tensor, sample_rate: int) -> tuple[float, float | None]:
    if isinstance(system, TokenizerSystem) and not system.tokenizer.spec.decodable:
        return system.encode(wav, sample_rate)[1], None
    outcome = system.run(wav, sample_rate)
    return outcome.encode_seconds, outcome.decode_seconds


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
