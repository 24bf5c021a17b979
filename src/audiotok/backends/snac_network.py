"""The network of SNAC and LLM-Codec: DAC's convolutions, mostly depthwise, with attention within short windows and
noise in the decoder."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..nn.activations import Snake
from ..nn.conv import Apply, Chain, Conv, ConvTranspose, Layer, Residual, Stack, Stages, Unstack
from ..nn.flow import Flow, Pieces, Ragged

_DILATIONS = (1, 3, 9)
_HEAD_WIDTH = 64
_MAX_WIDTH, _MAX_RATE, _MAX_ITEMS = 2**16, 2**10, 16
_MAX_UNIT = 2**12  # frames that the shortest audio is filled up to


@dataclass(frozen=True)
class NetworkSizes:
    """Everything but the codebooks and the weights, as plain numbers.

    Attributes:
        encoder_width: channels of the first layer; they double at every stride.
        rates: strides of the encoder.
        decoder_width: channels of the decoder's first layer; they halve at every stride.
        decoder_rates: strides of the decoder.
        strides: of the levels of codes, in frames of the network; the first is the largest, a multiple of each.
        window: frames that attend to each other; None for a network without attention.
        noise: whether the decoder has noise layers.
        depthwise: whether the wide kernels see one channel each.

    Raises:
        InputError: values that make no such network.
    """

    encoder_width: int
    rates: tuple[int, ...]
    decoder_width: int
    decoder_rates: tuple[int, ...]
    strides: tuple[int, ...]
    window: int | None
    noise: bool
    depthwise: bool

    def __post_init__(self) -> None:
        _check("encoder_width", self.encoder_width, _MAX_WIDTH)
        _check("decoder_width", self.decoder_width, _MAX_WIDTH)
        for name in ("rates", "decoder_rates", "strides"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not 1 <= len(values) <= _MAX_ITEMS:
                raise InputError(f"{name} must be 1 to {_MAX_ITEMS} whole numbers, not {str(values)[:80]}")
            for value in values:
                _check(f"every number in {name}", value, _MAX_RATE)
            object.__setattr__(self, name, tuple(values))
        if self.window is not None:
            _check("window", self.window, _MAX_RATE)
        for name in ("noise", "depthwise"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, not {getattr(self, name)!r}")
        _check("the latent width", self.latent, _MAX_WIDTH)
        _check("the width of the decoder's last stage", self.decoder_width >> len(self.decoder_rates), _MAX_WIDTH)
        if math.prod(self.rates) != math.prod(self.decoder_rates):
            raise InputError(f"the encoder's rates {self.rates} and the decoder's {self.decoder_rates} differ")
        if any(self.strides[0] % stride for stride in self.strides):
            raise InputError(f"the first of the strides {self.strides} must be a multiple of each")
        if math.lcm(self.strides[0], self.window or 1) > _MAX_UNIT:
            raise InputError(f"strides {self.strides} and windows of {self.window} have no short common multiple")
        if self.window is not None and (self.latent % _HEAD_WIDTH or self.decoder_width % _HEAD_WIDTH):
            raise InputError(
                f"attention needs multiples of {_HEAD_WIDTH} channels, not {self.latent} and {self.decoder_width}"
            )

    @property
    def latent(self) -> int:
        """Channels of the latents."""
        return self.encoder_width << len(self.rates)

    @property
    def frames(self) -> int:
        """Frames of the network in one frame of tokens."""
        return self.strides[0]

    @property
    def hop_length(self) -> int:
        """Samples in one frame of tokens."""
        return math.prod(self.rates) * self.frames

    @property
    def block_length(self) -> int:
        """Samples that audio is padded to a multiple of: whole token frames and whole windows."""
        return math.prod(self.rates) * math.lcm(self.frames, self.window or 1)

    @property
    def row_levels(self) -> tuple[int, ...]:
        """Level of each row of tokens."""
        return tuple(level for level, stride in enumerate(self.strides) for _ in range(self.frames // stride))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkSizes":
        """The inverse of `to_dict`. Raises `InputError` when a value is missing, unknown or out of range."""
        if not isinstance(values, dict) or values.keys() != {field.name for field in fields(cls)}:
            raise InputError(f"a network needs {', '.join(field.name for field in fields(cls))}, not {values!r:.200}")
        return cls(**values)


def _check(what: str, value: object, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
        raise InputError(f"{what} must be a whole number from 1 to {high}, not {value!r}")


class WindowAttention(Layer):
    """Self-attention among the frames of each window, with rotary positions (Su et al. 2021, arXiv 2104.09864) that
    start anew in every window, beside a shortcut.

    A signal that does not fill its last window has a shorter one there. `Ragged` rows must fill theirs.

    Args:
        width: C, a multiple of 64, the width of a head.
        window: frames.
    """

    inverse_periods: Tensor  # radians per frame of each pair of channels

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("inverse_periods", torch.empty(_HEAD_WIDTH // 2))
        if not self.inverse_periods.is_meta:
            self.inverse_periods.copy_(10000 ** -(torch.arange(0, _HEAD_WIDTH, 2) / _HEAD_WIDTH))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        if isinstance(flow, Ragged):
            if any(length % self.window for length in flow.lengths):
                raise InputError(f"rows of {flow.lengths} frames must be padded to whole windows of {self.window}")
            return self._attend(x[:, : x.shape[1] // self.window * self.window], self.window)
        x = torch.cat([flow.recall(self, x[:, :0]), x], 1)
        whole = x.shape[1] // self.window * self.window
        flow.keep(self, x[:, whole:].clone())
        y = self._attend(x[:, :whole], self.window)
        if whole < x.shape[1] and isinstance(flow, Pieces) and flow.last:
            return torch.cat([y, self._attend(x[:, whole:], x.shape[1] - whole)], 1)
        return y

    def _attend(self, x: Tensor, window: int) -> Tensor:
        """x [B, n · window, C] with what each window adds to itself."""
        if not x.shape[1]:
            return x
        parts = rearrange(self.qkv(self.norm(x)), "b (w n) (i h d) -> i (b w) h n d", n=window, i=3, d=_HEAD_WIDTH)
        angles = torch.arange(window, device=x.device)[:, None] * self.inverse_periods.float()
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        found = functional.scaled_dot_product_attention(
            _turned(parts[0], cos, sin), _turned(parts[1], cos, sin), parts[2]
        )
        y: Tensor = self.out(rearrange(found, "(b w) h n d -> b (w n) (h d)", b=len(x)))
        return y.add_(x)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., n, 64], each pair of channels (i, i + 32) turned by its angle [n, 32]."""
    real, imaginary = x.chunk(2, -1)
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)


class Noise(Layer):
    """x + noise · linear(x), one noise value for all channels of a sample; without noise, x. What noise there is,
    [1, T, 1] for all of the signal, is kept in the flow beforehand (`draw_noise`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = Conv(width, width, 1, bias=False)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        noise: Tensor | None = flow.recall(self, None)
        if noise is None:
            return x
        flow.keep(self, noise[:, x.shape[1] :])
        return torch.addcmul(x, noise[:, : x.shape[1]], self.linear(x, flow))


def draw_noise(decoder: nn.Module, flow: Pieces, frames: int, seed: int) -> None:
    """Normal noise for all of a signal, for every noise layer of a decoder, in their order, as one generator on the CPU
    gives it: what upstream's decoder draws after `torch.manual_seed(seed)` for one row.

    Args:
        flow: in which the signal will be decoded, before its last piece.
        frames: that the decoder will see.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in decoder.modules():
        if isinstance(layer, ConvTranspose | Unstack):
            frames *= layer.stride
        elif isinstance(layer, Noise):
            noise = torch.randn(1, 1, frames, generator=generator)
            flow.keep(layer, noise.transpose(1, 2).to(layer.linear.weight))


def residual_unit(width: int, dilation: int, groups: int) -> Residual:
    """Snake, dilated convolution, Snake, 1x1 convolution, beside a shortcut."""
    wide = Conv(width, width, 7, dilation=dilation, padding="same", groups=groups, activation=Snake(width))
    return Residual(Chain([wide, Conv(width, width, 1, activation=Snake(width))]))


def residual_units(width: int, depthwise: bool) -> list[nn.Module]:
    return [residual_unit(width, dilation, width if depthwise else 1) for dilation in _DILATIONS]


def encoder(sizes: NetworkSizes) -> Stages:
    """wav [B, T, 1] to latents [B, T / hop, frames · latent], hop being `sizes.hop_length`."""
    width = sizes.encoder_width
    stages: list[nn.Module] = [Conv(1, width, 7, padding="same")]
    for rate in sizes.rates:
        padding = math.ceil(rate / 2)
        down = Conv(width, 2 * width, 2 * rate, stride=rate, padding=(padding, padding), activation=Snake(width))
        stages.append(Chain([*residual_units(width, sizes.depthwise), down]))
        width *= 2
    if sizes.window is not None:
        stages.append(WindowAttention(width, sizes.window))
    stages.append(Conv(width, width, 7, padding="same", groups=width if sizes.depthwise else 1))
    return Stages([*stages, Stack(sizes.frames)])


def decoder(sizes: NetworkSizes) -> Stages:
    """Latents [B, F, frames · latent] to wav [B, F · hop, 1]."""
    latent, width = sizes.latent, sizes.decoder_width
    stages: list[nn.Module] = [Unstack(sizes.frames)]
    if sizes.depthwise:
        stages += [Conv(latent, latent, 7, padding="same", groups=latent), Conv(latent, width, 1)]
    else:
        stages.append(Conv(latent, width, 7, padding="same"))
    if sizes.window is not None:
        stages.append(WindowAttention(width, sizes.window))
    for rate in sizes.decoder_rates:
        padding = math.ceil(rate / 2)
        trim = (padding, padding - rate % 2)
        up = ConvTranspose(width, width // 2, 2 * rate, stride=rate, trim=trim, activation=Snake(width))
        width //= 2
        noise = [Noise(width)] if sizes.noise else []
        stages.append(Chain([up, *noise, *residual_units(width, sizes.depthwise)]))
    return Stages([*stages, Conv(width, 1, 7, padding="same", activation=Snake(width)), Apply(torch.tanh)])
