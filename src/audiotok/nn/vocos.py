"""Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks at the rate of the frames, and audio by one inverse STFT."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .conv import Chain, Conv, Layer, Residual, Stages
from .flow import Flow, Window

_EPSILON = 1e-6  # added to the variance in norms
_LOUDEST = math.log(100)  # magnitudes are cut off here: the exponential of a stray frame would drown all others
_LEAST_OVERLAP = 1e-11  # of squared windows; only samples that are cut off have less


def vocos(
    channels: int, width: int, hidden: int, blocks: int, *, fft: int, hop: int, inner: Layer | None = None
) -> Stages:
    """A decoder of features [B, F, channels] to wav [B, F·hop, 1].

    Args:
        channels: of the features.
        width: channels of the blocks.
        hidden: channels inside them.
        blocks: how many.
        fft, hop: samples of a window, and from one to the next.
        inner: a layer between the first convolution and the blocks, [B, F, width] to [B, F, width].

    Raises:
        InputError: as `IstftHead`.

    Example:
        >>> from audiotok.nn.flow import Pieces
        >>> decoder = vocos(8, 16, 32, 2, fft=40, hop=10).requires_grad_(False)
        >>> decoder(torch.zeros(1, 5, 8), Pieces()).shape
        torch.Size([1, 50, 1])
    """
    first = Conv(channels, width, 7, padding="same")
    rest = Chain(
        [
            LayerNorm(width),
            *(convnext_block(width, hidden, scale=1 / blocks) for _ in range(blocks)),
            LayerNorm(width),
            IstftHead(width, fft=fft, hop=hop),
        ]
    )
    return Stages([first, rest] if inner is None else [first, inner, rest])


def convnext_block(width: int, hidden: int, *, kernel: int = 7, scale: float = 1.0, causal: bool = False) -> Residual:
    """A ConvNeXt block (Liu et al. 2022, arXiv 2201.03545) over time: every channel convolved by itself, a norm, two
    linear layers with GELU between them, a learned scale for each channel, beside a shortcut.

    Args:
        width: channels in and out.
        hidden: channels between the linear layers.
        kernel: of the convolution.
        scale: what the learned scales begin with.
        causal: whether the convolution looks back only.
    """
    padding: Literal["same", "causal"] = "causal" if causal else "same"
    return Residual(
        Chain(
            [
                Conv(width, width, kernel, groups=width, padding=padding, norm=LayerNorm(width)),
                Conv(width, hidden, 1),
                Conv(hidden, width, 1, activation=gelu),
                Scale(width, scale),
            ]
        )
    )


def gelu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv 1606.08415), not its approximation by tanh."""
    if out is None:
        return functional.gelu(x)
    torch.ops.aten.gelu.out(x, out=out)
    return out


class LayerNorm(Layer):
    """Normalisation of every frame over its channels, with a gain and a bias for each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPSILON)


class Scale(Layer):
    """A factor for every channel. Overwrites its input."""

    def __init__(self, channels: int, start: float = 1.0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return x.mul_(self.gamma)


class IstftHead(Layer):
    """Frames [B, F, channels] to wav [B, F·hop, 1]: a linear layer to log-magnitude and phase of every bin, an inverse
    STFT with a Hann window, and the overlapping windows added and divided by the sum of their squares.

    The middle of window f is the middle of samples f·hop to (f + 1)·hop ("same" padding). Of a causal head the window
    begins there, so that these samples follow from frames up to f. Its first samples lie at the edge of a window, whose
    square they would be divided by, a thousand times as loud as all others: so windows of silence come before them.

    Args:
        channels: of the frames.
        fft: samples of a window.
        hop: samples from one window to the next.
        causal: whether samples wait for no later frame.

    Raises:
        InputError: fft or hop is odd, or hop is not from 1 to fft.
    """

    def __init__(self, channels: int, *, fft: int, hop: int, causal: bool = False) -> None:
        super().__init__()
        if not 1 <= hop <= fft or fft % 2 or hop % 2:
            raise InputError(f"a window of {fft} samples every {hop}: both must be even, and windows not lie apart")
        self.fft, self.hop = fft, hop
        self.causal = causal
        self.left = 0 if causal else (fft - hop) // 2
        self.taps = math.ceil(fft / hop)  # windows that share a sample
        self.window = Window(self.taps, left=self.taps - 1, right=self.taps - 1)
        self.out = Conv(channels, fft + 2, 1)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        frames, hann = self._windows(self.out(x, flow))
        there = frames.new_zeros(*frames.shape[:2], self.taps * self.hop - self.fft + 1)
        there[:, :, -1] = 1  # what lies around the signal is no window: it adds nothing to the sum of squares
        seen = flow.window(self, self.window, torch.cat([frames, there], 2))
        counted = torch.ones_like(seen[:, :, -1:]) if self.causal else seen[:, :, -1:].detach()
        count = max(0, seen.shape[1] - self.taps + 1)
        squares = functional.pad(hann.square(), (0, self.taps * self.hop - self.fft))
        wav, overlap = (frames.new_zeros(len(frames), count, self.hop) for _ in range(2))
        for tap in range(self.taps):  # the first part of the latest window, the second of the one before it, ...
            windows = slice(self.taps - 1 - tap, self.taps - 1 - tap + count)
            part = slice(tap * self.hop, (tap + 1) * self.hop)
            wav.add_(seen[:, windows, part])
            overlap.addcmul_(counted[:, windows], squares[part])
        wav = wav.div_(overlap.clamp_(min=_LEAST_OVERLAP)).to(x.dtype)
        flow.stretch(self.hop)
        return flow.trim(self, wav.flatten(1)[..., None], self.left, (self.taps - 1) * self.hop - self.left)

    def _windows(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [B, F, fft] of every window, and the Hann window [fft] that shapes them."""
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # there are no transforms of 16 bits
        magnitude, phase = y.chunk(2, 2)
        magnitude = magnitude.clamp(max=_LOUDEST).exp()  # in this order gradients of overflows are no NaN
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        hann = torch.hann_window(self.fft, dtype=y.dtype, device=y.device)
        if not y.shape[1]:  # MKL fails
            return y.new_zeros(len(y), 0, self.fft), hann
        return torch.fft.irfft(spectrum, self.fft).mul_(hann), hann
