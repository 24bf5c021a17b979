"""Distances of two waveforms in their spectra, at several resolutions: metrics, and losses of training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .mel import mel_bands

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MELS = (5, 10, 20, 40, 80, 160, 320)
#: n_fft, hop and window in samples.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


class _Distance(nn.Module):
    """The mean over several scales of a distance of spectra."""

    windows: tuple[int, ...]
    scales: nn.ModuleList

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Scalar float32 of wav and target [B, T], float, T more than half the longest window.

        Raises:
            InputError: other shapes, or fewer samples.
        """
        _check(wav, target, self.windows)
        with torch.autocast(wav.device.type, enabled=False):
            return torch.stack([self._distance(scale, wav.float(), target.float()) for scale in self.scales]).mean()

    def _distance(self, scale: nn.Module, wav: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class MultiScaleMel(_Distance):
    """Mean absolute difference of log-mel magnitudes, averaged over scales (Kumar et al. 2023, arXiv 2306.06546).

    Each scale has a periodic Hann window, a hop of a quarter of it, and bands on Slaney's mel scale from 0 Hz to half
    the sample rate, in log10, so that 1 is a factor of ten. The paper's loss is the sum over scales: with seven, seven
    times this.

    The target gets no gradient. All arithmetic is in float32, under autocast too.

    Args:
        sample_rate: in Hz.
        windows: of the scales, in samples, multiples of 4.
        mels: bands of each scale.
        floor: magnitudes below are raised to it.

    Raises:
        InputError: not as many `mels` as `windows`, or a window that is no multiple of 4.

    Example:
        >>> wav = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
        >>> round(MultiScaleMel(16000)(wav / 10, wav).item(), 4)  # ten times softer: one in log10, in every band
        1.0
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = WINDOWS,
        mels: Sequence[int] = MELS,
        *,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if not windows or len(windows) != len(mels) or any(window < 4 or window % 4 for window in windows):
            raise InputError(
                f"wanted windows of a multiple of 4 samples and as many mels, not {list(windows)} and {list(mels)}"
            )
        self.windows, self.floor = tuple(windows), floor
        self.scales = nn.ModuleList(
            _Spectrum(window, window // 4, window, mel_bands(sample_rate, window, count, scale="slaney").float())
            for window, count in zip(windows, mels, strict=True)
        )

    def _distance(self, scale: nn.Module, wav: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted: Tensor = scale(target).clamp(min=self.floor).log10()
        given: Tensor = scale(wav).clamp(min=self.floor).log10()
        return (wanted - given).abs().mean()


class MultiResolutionStft(_Distance):
    """Spectral convergence plus mean absolute difference of natural log magnitudes, averaged over resolutions
    (Yamamoto, Song and Kim 2020, arXiv 1910.11480, equations 4 to 6).

    Spectral convergence is the norm of the difference of magnitudes over that of the target's, both over the whole
    batch, so that a silent row in it does no harm.

    The target gets no gradient. All arithmetic is in float32, under autocast too.

    Args:
        resolutions: n_fft, hop and window (periodic Hann) in samples of each. The default is the paper's, made for
            24 kHz: windows of 25, 50 and 10 ms.
        floor: magnitudes below are raised to it.

    Raises:
        InputError: no resolution, or one that is not 1 <= hop <= window <= n_fft.

    Example:
        >>> wav = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
        >>> round(MultiResolutionStft()(wav / 2, wav).item(), 3)  # half of the norm is missing: 0.5 + ln 2
        1.193
    """

    def __init__(self, resolutions: Sequence[tuple[int, int, int]] = RESOLUTIONS, *, floor: float = 3e-4) -> None:
        super().__init__()
        if not resolutions or any(not 1 <= hop <= window <= n_fft for n_fft, hop, window in resolutions):
            raise InputError(
                f"wanted resolutions (n_fft, hop, window) with 1 <= hop <= window <= n_fft, not {resolutions}"
            )
        self.windows, self.floor = tuple(n_fft for n_fft, _, _ in resolutions), floor
        self.scales = nn.ModuleList(_Spectrum(*resolution) for resolution in resolutions)

    def _distance(self, scale: nn.Module, wav: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted: Tensor = scale(target).clamp(min=self.floor)
            size = torch.linalg.vector_norm(wanted)
        given: Tensor = scale(wav).clamp(min=self.floor)
        convergence: Tensor = torch.linalg.vector_norm(wanted - given) / size
        return convergence + (given.log() - wanted.log()).abs().mean()


class _Spectrum(nn.Module):
    """Magnitudes [B, N, F] of wav [B, T], of frames centred on multiples of the hop: of each bin, or of each band.
    The signal is mirrored at its ends."""

    window: Tensor
    bands: Tensor | None

    def __init__(self, n_fft: int, hop: int, window: int, bands: Tensor | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        spectrum = torch.stft(wav, self.n_fft, self.hop, len(self.window), self.window, return_complex=True)
        magnitudes: Tensor = spectrum.abs()
        if self.bands is not None:
            magnitudes = self.bands @ magnitudes
        return magnitudes


def _check(wav: Tensor, target: Tensor, windows: Sequence[int]) -> None:
    if wav.dim() != 2 or wav.shape != target.shape:
        raise InputError(f"wanted two waveforms [B, T] of one shape, not {list(wav.shape)} and {list(target.shape)}")
    if wav.shape[1] <= max(windows) // 2:
        raise InputError(f"wanted more than {max(windows) // 2} samples, not {wav.shape[1]}")
