"""`System`: what can be evaluated, and `Outcome`: what came of one piece of audio."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .. import audio
from ..codes import Codes
from ..errors import InputError
from ..tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Outcome:
    """Audio that went through a system.

    Attributes:
        wav: [1, T] float32 on the CPU, at the rate of the audio that went in and exactly as long.
        bits: size of what was sent.
        encode_seconds, decode_seconds: wall time of each half, with the resampling of the audio that goes in.
        codes: what a tokenizer sent; None for an anchor.
    """

    wav: Tensor
    bits: float
    encode_seconds: float
    decode_seconds: float
    codes: Codes | None = None


class System(ABC):
    """What can be evaluated. Another process opens its own, `open_system(system.text, device)`.

    Args:
        text: as the user wrote it: "default", "mimi:8", "opus:6".
        label: for tables.
        tokenizer: None for an anchor.
    """

    def __init__(self, text: str, label: str, tokenizer: Tokenizer | None = None) -> None:
        self.text = text
        self.label = label
        self.tokenizer = tokenizer

    def run(self, wav: Tensor, sample_rate: int) -> Outcome:
        """Codes audio and decodes it.

        Args:
            wav: [1, T] float in -1..1, T at least 1.
            sample_rate: of wav, in Hz.

        Raises:
            InputError: wav is of another shape or type, or holds NaN or infinite samples. UnsupportedError: a
                tokenizer that only encodes. ProgramError: a program that does the work fails.
        """
        if wav.dim() != 2 or wav.shape[0] != 1 or wav.shape[1] == 0 or not wav.is_floating_point():
            raise InputError(
                f"{self.text} wants mono audio [1, T] of floats, not {list(wav.shape)} {wav.dtype}: "
                "audiotok.audio.load(path, channels=1) mixes it"
            )
        if not bool(wav.isfinite().all()):
            raise InputError(f"{self.text} wants finite audio, not NaN or infinite samples")
        return self._run(wav.float().cpu(), sample_rate)

    @abstractmethod
    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        """As `run`, of checked audio [1, T] float32 on the CPU."""


def resampled(wav: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """As `audio.resample`, but at least one sample, as `Tokenizer.encode` does with very short audio."""
    found = audio.resample(wav, source_rate, target_rate)
    return found if found.shape[-1] else functional.pad(found, (0, 1))


def brought_back(wav: Tensor, sample_rate: int, target_rate: int, num_samples: int) -> Tensor:
    """Decoded audio [C, T'] mixed to mono, at another rate, and exactly so long: [1, num_samples] on the CPU. Rounding
    to whole samples, at two rates, makes it a few samples longer or shorter than what went in."""
    found = audio.resample(wav.float().cpu().mean(0, keepdim=True), sample_rate, target_rate)[:, :num_samples]
    return functional.pad(found, (0, num_samples - found.shape[1]))


def clock(device: torch.device) -> float:
    """Seconds of a clock, read when the device has done all that was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
