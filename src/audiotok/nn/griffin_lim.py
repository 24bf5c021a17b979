"""A waveform from magnitudes alone: phases by the algorithm of Griffin and Lim, no network."""

import math

import torch
from torch import Tensor

from ..errors import InputError
from .conv import Conv, Layer
from .flow import Flow

_LEAST_OVERLAP = 1e-8  # of squared windows; only samples that are cut off have less
_SURE = 0.1  # share of its magnitude that a bin must be rebuilt with to be trusted
_LEAST_MODULUS = 1e-9
_LOUDEST = math.log(1000)  # magnitudes are cut off here: the exponential of a stray frame would drown all others


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """[B, (F - 1)·hop + fft] of frames [B, F, fft], each added `hop` samples after the one before.

    Example:
        >>> overlap_add(torch.ones(1, 3, 4), 2)
        tensor([[1., 1., 2., 2., 2., 2., 1., 1.]])
    """
    batch, count, fft = frames.shape
    parts = -(-fft // hop)
    padded = torch.nn.functional.pad(frames, (0, parts * hop - fft))
    out = frames.new_zeros(batch, count + parts - 1, hop)
    for part in range(parts):
        out[:, part : part + count] += padded[:, :, part * hop : (part + 1) * hop]
    return out.flatten(1)[:, : (count - 1) * hop + fft] if count else out[:, :0].flatten(1)


def transform(wav: Tensor, fft: int, hop: int) -> Tensor:
    """The complex spectrum [B, F, fft / 2 + 1] of every full Hann window of wav [B, (F - 1)·hop + fft]."""
    hann = torch.hann_window(fft, dtype=wav.dtype, device=wav.device)
    found: Tensor = torch.fft.rfft(wav.unfold(1, fft, hop) * hann)
    return found


def synthesize(spectrum: Tensor, fft: int, hop: int) -> Tensor:
    """The least-squares inverse of `transform` (Griffin and Lim 1984, equation 6): [B, (F - 1)·hop + fft] of a complex
    spectrum [B, F, fft / 2 + 1]."""
    hann = torch.hann_window(fft, dtype=spectrum.real.dtype, device=spectrum.device)
    weight = overlap_add(hann.square().expand(1, spectrum.shape[1], fft), hop)
    return overlap_add(torch.fft.irfft(spectrum, fft) * hann, hop) / weight.clamp(min=_LEAST_OVERLAP)


@torch.no_grad()
def phases(magnitude: Tensor, fft: int, hop: int, *, iterations: int = 32, momentum: float = 0.99) -> Tensor:
    """Complex numbers of modulus 1 or less, [B, F, fft / 2 + 1], that make a spectrum of magnitudes nearly that of a
    signal.

    The fast algorithm of Griffin and Lim (Perraudin, Balazs and Søndergaard 2013, "A fast Griffin-Lim algorithm"), from
    zero phases; nothing is random. Each iteration carries a frame's influence ceil(fft / hop) - 1 frames further.

    A bin that is rebuilt with less than a tenth of its magnitude keeps as many tenths of it: its phase is hardly
    known, and if it were given all of it, differences of rounding between one piece of audio and another would grow
    with every iteration, by a factor of 10^5 in 64. It also sounds a little better: on valid clips PESQ 2.87 instead of
    2.83 after 32 iterations.

    Args:
        magnitude: [B, F, fft / 2 + 1], at least 0.
        fft, hop: samples of a Hann window, and from one to the next.
        iterations: of projections.
        momentum: 0 is the algorithm of Griffin and Lim (1984).
    """
    hann = torch.hann_window(fft, dtype=magnitude.dtype, device=magnitude.device)
    weight = overlap_add(hann.square().expand(1, magnitude.shape[1], fft), hop).clamp(min=_LEAST_OVERLAP)
    floor = magnitude.mul(_SURE).clamp_(min=_LEAST_MODULUS)[..., None]
    unit = torch.ones_like(magnitude).to(torch.complex64)
    previous = torch.zeros_like(unit)
    for _ in range(iterations):
        wav = overlap_add(torch.fft.irfft(unit * magnitude, fft).mul_(hann), hop).div_(weight)
        rebuilt = torch.fft.rfft(wav.unfold(1, fft, hop) * hann)
        ahead = torch.view_as_real(rebuilt.add(rebuilt - previous, alpha=momentum))
        modulus = ahead.square().sum(-1, keepdim=True).sqrt_().maximum(floor)
        unit, previous = torch.view_as_complex(ahead / modulus), rebuilt
    return unit


class GriffinLimHead(Layer):
    """Frames [B, F, channels] to wav [B, F·hop, 1]: a linear layer to the log-magnitude of every bin, phases by the
    algorithm of Griffin and Lim, and an inverse STFT. Gradients pass through the magnitudes, for the phases found.

    The middle of window f is the middle of samples f·hop to (f + 1)·hop.

    Args:
        channels: of the frames.
        fft: samples of a Hann window.
        hop: samples from one window to the next.
        iterations: of the algorithm.

    Raises:
        InputError: fft or hop is odd, or hop is not from 1 to fft.
    """

    def __init__(self, channels: int, *, fft: int, hop: int, iterations: int = 32) -> None:
        super().__init__()
        if not 1 <= hop <= fft or fft % 2 or hop % 2:
            raise InputError(f"a window of {fft} samples every {hop}: both must be even, and windows not lie apart")
        self.fft, self.hop, self.iterations = fft, hop, iterations
        self.out = Conv(channels, fft // 2 + 1, 1)

    @property
    def reach(self) -> int:
        """Frames on each side that a frame's samples depend on."""
        return (self.iterations + 1) * (-(-self.fft // self.hop) - 1)

    def magnitudes(self, x: Tensor, flow: Flow) -> Tensor:
        """Natural logarithms [B, F, fft / 2 + 1] of what `forward` gives phases."""
        with torch.autocast(x.device.type, enabled=False):  # sixteen bits are too few for logarithms
            found: Tensor = self.out(x.to(self.out.weight.dtype), flow)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def wave(self, logs: Tensor, flow: Flow) -> Tensor:
        """wav [B, F·hop, 1] of what `magnitudes` gives."""
        return flow.local(self, self._synthesize, logs, self.reach, self.hop)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return self.wave(self.magnitudes(x, flow), flow).to(x.dtype)

    def _synthesize(self, logs: Tensor) -> Tensor:
        if not logs.shape[1]:
            return logs.new_zeros(len(logs), 0, 1)
        magnitude = logs.clamp(max=_LOUDEST).exp()  # in this order gradients of overflows are no NaN
        unit = phases(magnitude.detach(), self.fft, self.hop, iterations=self.iterations)
        left = (self.fft - self.hop) // 2
        wav = synthesize(magnitude * unit, self.fft, self.hop)
        return wav[:, left : left + logs.shape[1] * self.hop, None]
