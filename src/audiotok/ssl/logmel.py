"""Log-mel frames of a waveform, and a waveform from log-mel frames (Griffin and Lim)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..nn.griffin_lim import phases, synthesize
from ..nn.mel import mel_bands


@dataclass(frozen=True)
class LogMel:
    """Natural logarithm of mel band magnitudes; frame f is centred on samples f·hop to (f+1)·hop.

    The signal is zero beyond both ends, so a row padded with zeros has the same frames as the row alone. All
    arithmetic is in float64 (where the device has it) and rounded to float32 at the end: a frame then does not
    depend on the batch, the piece or the device in which it was computed.

    Attributes:
        sample_rate: in Hz.
        n_fft: window length in samples (periodic Hann), at least hop_length.
        hop_length: samples per frame.
        n_mels: bands, spaced evenly on the mel scale of O'Shaughnessy (1987), m = 2595 log10(1 + f / 700).
        f_min, f_max: edges of the bands in Hz; f_max 0 means half the sample rate.
        floor: magnitudes below are raised to it.

    Example:
        >>> LogMel()(torch.zeros(1, 3200)).shape
        torch.Size([1, 80, 10])
    """

    sample_rate: int = 16000
    n_fft: int = 720
    hop_length: int = 320
    n_mels: int = 80
    f_min: float = 0.0
    f_max: float = 0.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels"):
            if not isinstance(getattr(self, name), int):
                raise InputError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        top = self.f_max or self.sample_rate / 2
        if not 1 <= self.hop_length <= self.n_fft <= 2**16:
            raise InputError(f"wanted 1 <= hop_length <= n_fft <= 65536, not {self.hop_length} and {self.n_fft}")
        if not 0 <= self.f_min < top <= self.sample_rate / 2:
            raise InputError(f"wanted 0 <= f_min < f_max <= {self.sample_rate / 2:g} Hz, not {self.f_min:g}, {top:g}")
        if not 1 <= self.n_mels <= self.n_fft // 2 or not 0 < self.floor < 1:
            raise InputError(f"n_mels must lie in 1..{self.n_fft // 2} and floor in 0..1")

    @property
    def reach(self) -> tuple[int, int]:
        """Samples before and after a frame's own hop that it depends on."""
        left = (self.n_fft - self.hop_length) // 2
        return left, self.n_fft - self.hop_length - left

    def __call__(self, wav: Tensor) -> Tensor:
        """[B, n_mels, ceil(T / hop)] float32 of wav [B, T]."""
        frames = -(-wav.shape[-1] // self.hop_length)
        left, _ = self.reach
        right = (frames - 1) * self.hop_length + self.n_fft - left - wav.shape[-1]
        exact = wav.to(_precise(wav.device))
        window = _window(self.n_fft, exact.dtype, wav.device)
        padded = functional.pad(exact, (left, right))
        spectrum = torch.stft(padded, self.n_fft, self.hop_length, window=window, center=False, return_complex=True)
        bands = _mel_bands(self, wav.device) @ spectrum.abs()
        return bands.clamp_(min=self.floor).log_().float()

    def invert(self, logmel: Tensor, *, iterations: int = 32, momentum: float = 0.99) -> Tensor:
        """A waveform with about these log-mel frames: least-squares magnitudes, then phases by the fast algorithm of
        Griffin and Lim (Perraudin, Balazs and Søndergaard 2013) from zero phases. Nothing is random, and each
        iteration carries a frame's influence `invert_reach` frames further, so pieces with enough overlap give
        what the whole gives.

        Args:
            logmel: [B, n_mels, F].
            iterations: of phase estimation.
            momentum: 0 is the algorithm of Griffin and Lim (1984).

        Returns:
            wav [B, F·hop] float32.
        """
        magnitude = self._magnitude(logmel).transpose(1, 2)
        unit = phases(magnitude, self.n_fft, self.hop_length, iterations=iterations, momentum=momentum)
        wav = synthesize(magnitude * unit, self.n_fft, self.hop_length)
        left, _ = self.reach
        return wav[:, left : left + logmel.shape[2] * self.hop_length]

    @property
    def invert_reach(self) -> int:
        """Frames on each side that a frame of `invert` depends on, per iteration."""
        return -(-self.n_fft // self.hop_length) - 1

    def _magnitude(self, logmel: Tensor) -> Tensor:
        """[B, n_fft // 2 + 1, F]: non-negative magnitudes whose mel bands come close to the ones given, by
        multiplicative updates (Lee and Seung 2001) from the pseudo-inverse."""
        bands = logmel.double().exp() if logmel.device.type != "mps" else logmel.exp()
        mel = _mel_bands(self, logmel.device)
        magnitude = (_mel_inverse(self, logmel.device) @ bands).clamp(min=self.floor * 1e-3)
        target, gram = mel.t() @ bands, mel.t() @ mel
        for _ in range(8):
            magnitude = magnitude * (target / (gram @ magnitude).clamp(min=1e-12))
        return magnitude.float()


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@lru_cache(maxsize=32)
def _window(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(length, dtype=torch.float64).to(device, dtype)


@lru_cache(maxsize=32)
def _mel_bands(mel: LogMel, device: torch.device) -> Tensor:
    """[n_mels, n_fft // 2 + 1] triangles, each with unit sum, so that a band is a mean of bins."""
    bands = mel_bands(mel.sample_rate, mel.n_fft, mel.n_mels, f_min=mel.f_min, f_max=mel.f_max)
    return bands.to(device, _precise(device))


@lru_cache(maxsize=32)
def _mel_inverse(mel: LogMel, device: torch.device) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(_mel_bands(mel, torch.device("cpu")))
    return inverse.to(device, _precise(device))
