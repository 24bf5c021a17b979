"""The discriminator of codecs that looks at the complex spectrogram, whole or in bands."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from ..errors import InputError
from .discriminators import SLOPE, Judgement

#: Of DAC, as shares of half the sample rate.
BAND_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
WINDOWS = (2048, 1024, 512)
_KERNEL = (3, 9)  # frames, bins


class StftDiscriminator(nn.Module):
    """Real and imaginary parts of an STFT as a picture of two channels, each band of frequencies with convolutions of
    its own (Kumar et al. 2023, "High-fidelity audio compression with improved RVQGAN", arXiv 2306.06546, section 3.4).
    One band, `edges=(0, 1)`, and `dilations=(1, 2, 4)` make it the one of EnCodec (Défossez et al. 2022,
    arXiv 2210.13438, section 3.4).

    The hop is a quarter of the window. The spectrum is divided by the window's norm, so that white noise has in every
    bin the power of its samples, whatever the window. Pictures and maps are channels last in memory, as the CPU's
    convolutions want them; the spectrum is float32 under autocast, too.

    Args:
        window: of the STFT, in samples, Hann; a multiple of 4.
        channels: of every convolution; on a CPU multiples of 16 are used best.
        edges: of the bands, ascending from 0 to 1, as shares of half the sample rate.
        dilations: in frames, of each of the convolutions that halve the number of bins.

    Raises:
        InputError: values out of range, or a band without a bin.

    Example:
        >>> scores, maps = StftDiscriminator(64, channels=4)(torch.zeros(2, 1, 800))
        >>> scores.shape[0], len(maps), list(maps[0].shape)  # of the lowest band: 51 frames, 3 bins
        (2, 26, [2, 51, 3, 4])
    """

    hann: Tensor

    def __init__(
        self,
        window: int,
        *,
        channels: int = 32,
        edges: Sequence[float] = BAND_EDGES,
        dilations: Sequence[int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        if window < 4 or window % 4:
            raise InputError(f"window must be a multiple of 4 samples, not {window}")
        if channels < 1 or not dilations or min(dilations) < 1:
            raise InputError(f"channels and dilations must be at least 1, not {channels} and {list(dilations)}")
        if len(edges) < 2 or (edges[0], edges[-1]) != (0, 1) or any(low >= high for low, high in pairwise(edges)):
            raise InputError(f"edges must ascend from 0 to 1, not {list(edges)}")
        bins = window // 2 + 1
        self.window = window
        self.bands = list(pairwise(int(edge * bins) for edge in edges))
        if any(first == end for first, end in self.bands):
            raise InputError(f"a window of {window} has {bins} bins: too few for bands with edges {list(edges)}")
        hann = torch.hann_window(window)
        self.register_buffer("hann", hann / torch.linalg.vector_norm(hann), persistent=False)
        self.stacks = nn.ModuleList(_stack(channels, dilations) for _ in self.bands)
        self.last = _conv(channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judgement:
        """Scores [B, N] and maps [B, frames, bins, channels] of wav [B, 1, T].

        Maps have their channels last in shape, too, so that their gradients lie in memory as they do: the gradient of
        a mean is contiguous, and a generator's step in bfloat16 would take two thirds longer where that is another
        order.

        Raises:
            InputError: T is not above half a window.
        """
        picture = self.spectrum(wav)
        maps, ends = [], []
        for (first, end), stack in zip(self.bands, self.stacks, strict=True):
            x = picture[..., first:end]
            for conv in stack:  # type: ignore[attr-defined]
                x = functional.leaky_relu(conv(x), SLOPE, inplace=True)
                maps.append(x.permute(0, 2, 3, 1))
            ends.append(x)
        scores = self.last(torch.cat(ends, dim=3))
        return scores.flatten(1), [*maps, scores.permute(0, 2, 3, 1)]

    def spectrum(self, wav: Tensor) -> Tensor:
        """[B, 2, frames, bins] float32, real and imaginary parts of the STFT of wav [B, 1, T], reflected at its
        ends; 1 + T / hop frames, rounded down."""
        if wav.shape[2] <= self.window // 2:
            raise InputError(
                f"a window of {self.window} wants more than {self.window // 2} samples, not {wav.shape[2]}"
            )
        with torch.autocast(wav.device.type, enabled=False):
            complex_spectrum = torch.stft(
                wav[:, 0].float(),
                self.window,
                self.window // 4,
                window=self.hann.float(),
                pad_mode="reflect",
                return_complex=True,
            )
        # In memory [B, frames, bins, 2] already: neither line copies.
        parts = torch.view_as_real(complex_spectrum.transpose(1, 2))
        return parts.permute(0, 3, 1, 2)


def _stack(channels: int, dilations: Sequence[int]) -> nn.ModuleList:
    halving = [_conv(channels, channels, _KERNEL, stride=2, dilation=dilation) for dilation in dilations]
    return nn.ModuleList([_conv(2, channels, _KERNEL), *halving, _conv(channels, channels, (3, 3))])


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int = 1, dilation: int = 1) -> nn.Module:
    """Stride over bins, dilation over frames; as many frames out as in."""
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=(1, stride),
        dilation=(dilation, 1),
        padding=(dilation * (kernel[0] // 2), kernel[1] // 2),
    )
    return parametrizations.weight_norm(conv)  # type: ignore[no-any-return]
