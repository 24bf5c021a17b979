"""The convolutional network of HiFi-Codec and TiCodec: a HiFi-GAN generator, and its mirror image in front of it."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..nn.hifigan import LAST_SLOPE, SLOPE, HifiGanGenerator, ResidualBlock, same_conv

_MAX_CHANNELS = 2**16
_MAX_REACH = 2**10  # of a kernel or a dilation
_MAX_ITEMS = 32
_NORM_CHANNELS = 16  # normalised together


@dataclass(frozen=True)
class NetworkSizes:
    """Everything but the weights, as plain numbers. Lists are in the order of the generator; the encoder has them
    backwards.

    Attributes:
        base_channels: of the encoder's first convolution; each of its stages doubles them.
        latent_dim: D, what is quantized.
        initial_channels: of the generator's first stage; each stage halves them.
        upsample_factors, upsample_kernels: of each stage.
        resblock_kernels, resblock_dilations: of the residual blocks of each stage.
        resblock_type: 1 (pairs of convolutions) or 2.

    Raises:
        InputError: values that make no such network.
    """

    base_channels: int
    latent_dim: int
    initial_channels: int
    upsample_factors: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    resblock_kernels: tuple[int, ...]
    resblock_dilations: tuple[tuple[int, ...], ...]
    resblock_type: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                value = tuple(tuple(item) if isinstance(item, list | tuple) else item for item in value)
                object.__setattr__(self, field.name, value)
        for name in ("base_channels", "latent_dim", "initial_channels"):
            check_size(name, getattr(self, name), _MAX_CHANNELS)
        for name in ("upsample_factors", "upsample_kernels", "resblock_kernels"):
            _check_sizes(name, getattr(self, name))
        if not isinstance(self.resblock_dilations, tuple):
            raise InputError(f"resblock_dilations must be lists of whole numbers, not {self.resblock_dilations!r}")
        for dilations in self.resblock_dilations:
            _check_sizes("resblock_dilations", dilations)
        check_size("resblock_type", self.resblock_type, 2)
        if len(self.upsample_factors) != len(self.upsample_kernels):
            raise InputError(f"{len(self.upsample_factors)} up-sampling factors, {len(self.upsample_kernels)} kernels")
        if len(self.resblock_kernels) != len(self.resblock_dilations):
            raise InputError(f"{len(self.resblock_kernels)} residual kernels, {len(self.resblock_dilations)} dilations")
        if self.widest > _MAX_CHANNELS:
            raise InputError(f"the encoder cannot have {self.widest} channels, at most {_MAX_CHANNELS}")
        for stage in range(len(self.upsample_factors)):
            channels = self.base_channels << (stage + 1)
            if channels < _NORM_CHANNELS or channels % (channels // _NORM_CHANNELS):
                raise InputError(f"{channels} channels cannot be normalised in {channels // _NORM_CHANNELS} groups")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_factors)

    @property
    def widest(self) -> int:
        """Channels that leave the encoder's last stage."""
        return self.base_channels << len(self.upsample_factors)

    @property
    def half(self) -> int:
        """Stages in the encoder's first half."""
        return len(self.upsample_factors) // 2

    @property
    def half_hop(self) -> int:
        """Samples for each of what leaves that half."""
        return math.prod(self.upsample_factors[len(self.upsample_factors) - self.half :])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "NetworkSizes":
        """The inverse of `to_dict`, through JSON or not. Raises `InputError` for values that are not its own."""
        wanted = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != wanted:
            found = sorted(map(str, values)) if isinstance(values, dict) else values
            raise InputError(f"sizes of a network must be {sorted(wanted)}, not {str(found)[:200]}")
        return cls(**values)


class Encoder(nn.Module):
    """A waveform to latent frames.

    Each stage is a strided convolution that doubles the channels, then residual blocks of several kernels. Their sum
    is group-normalised over the whole utterance after each block, so every frame depends on all samples.
    Convolutions are padded with zeros, the strided ones by (kernel - factor) / 2: T samples give floor(T / hop) frames.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.half_stages = sizes.half
        self.conv_pre = same_conv(1, sizes.base_channels, 7, padding="zeros")
        self.downs = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        self.norms = nn.ModuleList()
        channels = sizes.base_channels
        blocks = list(zip(sizes.resblock_kernels, sizes.resblock_dilations, strict=True))[::-1]
        for factor, kernel in list(zip(sizes.upsample_factors, sizes.upsample_kernels, strict=True))[::-1]:
            self.downs.append(nn.Conv1d(channels, 2 * channels, kernel, stride=factor, padding=(kernel - factor) // 2))
            channels *= 2
            for size, dilations in blocks:
                paired = sizes.resblock_type == 1
                self.resblocks.append(ResidualBlock(channels, size, dilations, paired=paired, padding="zeros"))
                self.norms.append(nn.GroupNorm(channels // _NORM_CHANNELS, channels, eps=1e-6))
        self.conv_post = same_conv(channels, sizes.latent_dim, 3, padding="zeros")
        self._blocks = len(blocks)

    def forward(self, wav: Tensor) -> Tensor:
        """Latent frames [B, D, floor(T / hop)] of wav [B, 1, T], T at least one hop."""
        return self.second_half(self.first_half(wav))

    def first_half(self, wav: Tensor) -> Tensor:
        """[B, C, T'] after half of the stages."""
        x: Tensor = self.conv_pre(wav)
        for stage in range(self.half_stages):
            x = self._stage(stage, x)
        return x

    def second_half(self, x: Tensor) -> Tensor:
        """Latent frames [B, D, F] of what `first_half` gave."""
        for stage in range(self.half_stages, len(self.downs)):
            x = self._stage(stage, x)
        frames: Tensor = self.conv_post(functional.leaky_relu(x, LAST_SLOPE))
        return frames

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        x = self.downs[stage](functional.leaky_relu(x, SLOPE))
        first = stage * self._blocks
        total = self.norms[first](self.resblocks[first](x))
        for i in range(first + 1, first + self._blocks):
            total = self.norms[i](total + self.resblocks[i](x))
        mean: Tensor = total / self._blocks
        return mean


def generator_of(sizes: NetworkSizes) -> HifiGanGenerator:
    """The generator of a network. Raises `InputError` for kernels and factors that do not fit each other."""
    return HifiGanGenerator(
        sizes.latent_dim,
        initial_channels=sizes.initial_channels,
        upsample_factors=sizes.upsample_factors,
        upsample_kernels=sizes.upsample_kernels,
        resblock_kernels=sizes.resblock_kernels,
        resblock_dilations=sizes.resblock_dilations,
        resblock_type=sizes.resblock_type,
        last_slope=SLOPE,
        padding="zeros",
    )


def check_size(name: str, value: object, most: int) -> None:
    """Raises `InputError` for anything but a whole number from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most}, not {str(value)[:80]}")


def _check_sizes(name: str, values: object) -> None:
    if not isinstance(values, tuple) or not 1 <= len(values) <= _MAX_ITEMS:
        raise InputError(f"{name} must be a list of 1 to {_MAX_ITEMS} whole numbers, not {str(values)[:80]}")
    for value in values:
        check_size(f"every number in {name}", value, _MAX_REACH)
