"""Pitch of a voice, frame by frame."""

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

_THRESHOLD = 0.15
_SILENCE = 1e-4  # root mean square


@torch.no_grad()
def pitch(
    wav: Tensor, sample_rate: int, *, frame_rate: float, frames: int, lowest: float = 60.0, highest: float = 500.0
) -> Tensor:
    """Fundamental frequency in the middle of each frame, by the difference function of YIN (de Cheveigné and Kawahara
    2002, "YIN, a fundamental frequency estimator for speech and music", steps 1 to 5).

    Args:
        wav: [B, T] float.
        sample_rate: in Hz.
        frame_rate: of the frames, in Hz.
        frames: F, how many.
        lowest: pitch looked for, in Hz; windows are two of its periods long.
        highest: in Hz.

    Returns:
        [B, F] float32 in Hz, 0 where a frame is silent or has no pitch in that range.

    Raises:
        InputError: not 0 < lowest < highest < sample_rate / 4.

    Example:
        >>> tone = torch.sin(2 * torch.pi * 220 * torch.arange(16000) / 16000)
        >>> pitch(tone[None], 16000, frame_rate=50, frames=50)[0, 25].round()
        tensor(220.)
    """
    if not 0 < lowest < highest < sample_rate / 4:
        raise InputError(f"pitch must be looked for within 0..{sample_rate / 4} Hz, not {lowest}..{highest}")
    longest, shortest = int(sample_rate / lowest) + 2, int(sample_rate / highest)
    size = 2 * longest
    middles = ((torch.arange(frames, device=wav.device) + 0.5) * (sample_rate / frame_rate)).long()
    padded = functional.pad(wav.double(), (size // 2, size // 2 + max(0, int(middles[-1]) + 1 - wav.shape[1])))
    windows = padded[:, middles[:, None] + torch.arange(size, device=wav.device)]  # [B, F, size]
    difference = _difference(windows, longest)
    relative = torch.ones_like(difference)  # to the mean of the shorter lags
    lags = torch.arange(1, longest, device=wav.device)
    relative[..., 1:] = difference[..., 1:] * lags / difference[..., 1:].cumsum(-1).clamp(min=1e-12)
    left, here, right = relative[..., :-2], relative[..., 1:-1], relative[..., 2:]  # here: lags from 1
    dips = (here < _THRESHOLD) & (here <= right) & (here < left)
    dips[..., : shortest - 1] = False
    first = dips.to(torch.uint8).argmax(-1, keepdim=True)  # the first of the deep ones: later ones are multiples
    before, dip, after = (one.gather(-1, first) for one in (left, here, right))
    shift = 0.5 * (before - after) / (before - 2 * dip + after).clamp(min=1e-12)  # lowest point of a parabola
    hertz = sample_rate / (first + 1 + shift)
    loud = windows.square().mean(-1, keepdim=True).sqrt() > _SILENCE
    return torch.where(dips.any(-1, keepdim=True) & loud, hertz, 0.0)[..., 0].float()


def _difference(windows: Tensor, count: int) -> Tensor:
    """[..., count]: Σ (x_j − x_{j+lag})² over the first half of the windows [..., 2 · count]."""
    head = functional.pad(windows[..., :count], (0, count))
    spectra = torch.fft.rfft(windows, 2 * windows.shape[-1]), torch.fft.rfft(head, 2 * windows.shape[-1])
    products = torch.fft.irfft(spectra[0] * spectra[1].conj())[..., :count]
    energy = functional.pad(windows.square().cumsum(-1), (1, 0))
    energies = energy[..., count : 2 * count] - energy[..., :count]  # of the samples from a lag on
    difference: Tensor = energies[..., :1] + energies - 2 * products
    return difference.clamp(min=0)
