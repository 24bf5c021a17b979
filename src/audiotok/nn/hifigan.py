"""The generator of HiFi-GAN (Kong, Kim and Bae 2020, arXiv 2010.05646), padded by reflection or with zeros."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError

SLOPE = 0.1  # of the leaky ReLU inside
LAST_SLOPE = 0.01  # and before the last convolution
Padding = Literal["reflect", "zeros"]
_MAX_ITEMS = 32  # stages, kernels, dilations: more is a broken configuration, not a network


class ResidualBlock(nn.Module):
    """Dilated convolutions with shortcuts.

    Args:
        channels: in and out.
        kernel: odd.
        dilations: one convolution for each.
        paired: whether each is followed by one without dilation ("resblock 1" of the paper) or not ("resblock 2").
        padding: of all of them.
    """

    def __init__(
        self, channels: int, kernel: int, dilations: Sequence[int], *, paired: bool, padding: Padding = "reflect"
    ) -> None:
        super().__init__()
        dilated = nn.ModuleList(
            same_conv(channels, channels, kernel, dilation, padding=padding) for dilation in dilations
        )
        if paired:
            self.convs1: nn.ModuleList = dilated
            self.convs2: nn.ModuleList = nn.ModuleList(
                same_conv(channels, channels, kernel, padding=padding) for _ in dilations
            )
        else:
            self.convs = dilated
        self.paired = paired
        reach = kernel // 2
        self.reach = sum(dilation * reach for dilation in dilations) + paired * len(dilations) * reach
        self.longest_padding = max(dilations) * reach if padding == "reflect" else 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] of [B, C, T]."""
        if not self.paired:
            for conv in self.convs:
                x = x + conv(functional.leaky_relu(x, SLOPE))
            return x
        for first, second in zip(self.convs1, self.convs2, strict=True):
            y = first(functional.leaky_relu(x, SLOPE))
            x = x + second(functional.leaky_relu(y, SLOPE))
        return x


class HifiGanGenerator(nn.Module):
    """Features [B, D, F] to a waveform [B, 1, F·hop], hop = the product of the up-sampling factors.

    Each stage is a transposed convolution that halves the channels, then the mean of residual blocks of several
    kernels. Stride-1 convolutions keep their length, transposed ones lose (kernel - factor) / 2 on each side.

    Args:
        in_channels: D.
        initial_channels: of the first stage's input.
        upsample_factors: of each stage.
        upsample_kernels: of each stage; kernel - factor is even and at least 0.
        resblock_kernels: odd.
        resblock_dilations: for each kernel.
        resblock_type: 1 (pairs of convolutions) or 2.
        first_kernel, last_kernel: of the convolutions before and after all stages.
        last_bias: whether the last convolution has one.
        last_slope: of the leaky ReLU before the last convolution.
        padding: of the stride-1 convolutions, "reflect" or "zeros".

    Raises:
        InputError: values that make no such network.

    Example:
        >>> generator = HifiGanGenerator(8, initial_channels=16, upsample_factors=(4, 2), upsample_kernels=(8, 4))
        >>> generator(torch.zeros(1, 8, 10)).shape, generator.hop_length
        (torch.Size([1, 1, 80]), 8)
    """

    def __init__(
        self,
        in_channels: int,
        *,
        initial_channels: int = 512,
        upsample_factors: Sequence[int] = (5, 4, 4, 2, 2),
        upsample_kernels: Sequence[int] = (11, 8, 8, 4, 4),
        resblock_kernels: Sequence[int] = (3, 7, 11),
        resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        resblock_type: int = 1,
        first_kernel: int = 7,
        last_kernel: int = 7,
        last_bias: bool = True,
        last_slope: float = LAST_SLOPE,
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()
        _check(upsample_factors, upsample_kernels, resblock_kernels, resblock_dilations, first_kernel, last_kernel)
        if resblock_type not in (1, 2):
            raise InputError(f"resblock_type must be 1 or 2, not {resblock_type!r}")
        if padding not in get_args(Padding):
            raise InputError(f"padding must be one of {get_args(Padding)}, not {padding!r}")
        if initial_channels >> len(upsample_factors) < 1:
            raise InputError(f"{initial_channels} channels cannot be halved {len(upsample_factors)} times")
        self.hop_length = math.prod(upsample_factors)
        self.last_slope = last_slope
        self.conv_pre = same_conv(in_channels, initial_channels, first_kernel, padding=padding)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        channels = initial_channels
        for factor, kernel in zip(upsample_factors, upsample_kernels, strict=True):
            self.ups.append(
                nn.ConvTranspose1d(channels, channels // 2, kernel, stride=factor, padding=(kernel - factor) // 2)
            )
            channels //= 2
            self.resblocks.extend(
                ResidualBlock(channels, size, dilations, paired=resblock_type == 1, padding=padding)
                for size, dilations in zip(resblock_kernels, resblock_dilations, strict=True)
            )
        self.conv_post = same_conv(channels, 1, last_kernel, bias=last_bias, padding=padding)
        self._blocks = len(resblock_kernels)
        self._stages = list(zip(upsample_factors, upsample_kernels, strict=True))
        self._reach = [first_kernel // 2, *(self._most(i, "reach") for i in range(len(self._stages)))]
        self._reach[-1] += last_kernel // 2
        reflected = int(padding == "reflect")
        self._padding = [first_kernel // 2 * reflected]
        self._padding += [self._most(i, "longest_padding") for i in range(len(self._stages))]
        self._padding[-1] = max(self._padding[-1], last_kernel // 2 * reflected)

    def forward(self, features: Tensor, shift: Tensor | None = None) -> Tensor:
        """Audio of features.

        Args:
            features: [B, D, F], F at least `min_frames`.
            shift: [B, C], added to every sample of what leaves the stage of C channels, or None.

        Returns:
            wav [B, 1, F·hop] in -1..1.
        """
        x = self.conv_pre(features)
        for stage, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, SLOPE))
            first, *others = self.resblocks[stage * self._blocks : (stage + 1) * self._blocks]
            total = first(x)
            for block in others:
                total = total + block(x)
            x = total / self._blocks
            if shift is not None and shift.shape[1] == x.shape[1]:
                x = x + shift[:, :, None]
        return torch.tanh(self.conv_post(functional.leaky_relu(x, self.last_slope)))

    @property
    def context_frames(self) -> int:
        """Frames on each side of a frame that its samples depend on: the receptive field, counted backwards from
        the samples of one frame through every layer."""
        first, last = 0, self.hop_length - 1
        for (factor, kernel), reach in zip(reversed(self._stages), reversed(self._reach[1:]), strict=True):
            first, last = first - reach, last + reach
            # Output o of a transposed convolution sums the inputs i with 0 <= o + padding - i·factor < kernel.
            padding = (kernel - factor) // 2
            first, last = -((kernel - 1 - padding - first) // factor), (last + padding) // factor
        return max(-first, last) + self._reach[0]

    @property
    def min_frames(self) -> int:
        """Fewest frames with enough samples at every stage to reflect; 1 where nothing is."""
        rates = [math.prod(factor for factor, _ in self._stages[:i]) for i in range(len(self._stages) + 1)]
        return max(padding // rate + 1 for padding, rate in zip(self._padding, rates, strict=True))

    def _most(self, stage: int, name: str) -> int:
        blocks = self.resblocks[stage * self._blocks : (stage + 1) * self._blocks]
        return max(int(getattr(block, name)) for block in blocks)


def same_conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    dilation: int = 1,
    *,
    bias: bool = True,
    padding: Padding = "reflect",
) -> nn.Conv1d:
    """A stride-1 convolution of an odd kernel that keeps the length, by reflection or with zeros."""
    return nn.Conv1d(
        channels_in,
        channels_out,
        kernel,
        dilation=dilation,
        padding=dilation * (kernel // 2),
        padding_mode=padding,
        bias=bias,
    )


def _check(
    factors: Sequence[int],
    kernels: Sequence[int],
    resblock_kernels: Sequence[int],
    resblock_dilations: Sequence[Sequence[int]],
    first_kernel: int,
    last_kernel: int,
) -> None:
    if not 1 <= len(factors) <= _MAX_ITEMS or len(factors) != len(kernels):
        raise InputError(f"every up-sampling stage needs a factor and a kernel, not {factors} and {kernels}")
    for factor, kernel in zip(factors, kernels, strict=True):
        if factor < 1 or kernel < factor or (kernel - factor) % 2:
            raise InputError(f"an up-sampling kernel must exceed its factor by 0, 2, 4, ..., not {kernel} and {factor}")
    if not 1 <= len(resblock_kernels) <= _MAX_ITEMS or len(resblock_kernels) != len(resblock_dilations):
        raise InputError(f"every residual kernel needs dilations, not {resblock_kernels} and {resblock_dilations}")
    for size in (first_kernel, last_kernel, *resblock_kernels):
        if size < 1 or size % 2 == 0:
            raise InputError(f"the kernel of a stride-1 convolution must be odd, not {size}")
    for dilations in resblock_dilations:
        if not 1 <= len(dilations) <= _MAX_ITEMS or min(dilations) < 1:
            raise InputError(f"dilations must be numbers of at least 1, not {dilations}")
