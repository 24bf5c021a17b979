"""SEANet (Tagliasacchi et al. 2020, arXiv 2009.02095) as EnCodec has it (Défossez et al. 2022, arXiv 2210.13438)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .activations import Snake, elu
from .conv import Chain, Conv, ConvTranspose, Layer, Residual, Stages
from .flow import Activation, Flow, PadMode
from .recurrent import LSTM


@dataclass(frozen=True)
class SeanetConfig:
    """Sizes of an encoder and its decoder.

    Attributes:
        channels: of the audio.
        dimension: D of the latents.
        filters: channels of the first layer; they double at every stride.
        ratios: strides in the decoder's order; the encoder has them reversed.
        residual_layers: residual blocks at each rate, with dilations dilation_base^0, ^1, ...
        kernel, residual_kernel, last_kernel: of the first, the residual and the last convolutions.
        compress: channels of a residual block divided by those inside it.
        lstm_layers: between convolutions and latents; 0 for none.
        bidirectional: of the encoder's LSTM.
        causal: pad on the left only.
        pad_mode: "reflect", "zeros" or "replicate".
        conv_shortcut: a 1x1 convolution beside every residual block, not the signal itself.
        group_norm: normalise after every convolution, over channels and time.
        snake: Snake activations in place of ELU.
    """

    channels: int = 1
    dimension: int = 128
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    residual_layers: int = 1
    kernel: int = 7
    residual_kernel: int = 3
    last_kernel: int = 7
    dilation_base: int = 2
    compress: int = 2
    lstm_layers: int = 2
    bidirectional: bool = False
    causal: bool = True
    pad_mode: PadMode = "reflect"
    conv_shortcut: bool = True
    group_norm: bool = False
    snake: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "ratios": list(self.ratios)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SeanetConfig":
        """The inverse of `to_dict`."""
        return cls(**{**values, "ratios": tuple(values["ratios"])})

    @property
    def widest(self) -> int:
        """Channels before the latents."""
        return self.filters << len(self.ratios)

    @property
    def hop_length(self) -> int:
        """Samples of a frame of latents."""
        return math.prod(self.ratios)


class TimeGroupNorm(Layer):
    """Normalisation over channels and the whole signal's time, with a gain and a bias for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = flow.whole(self, x)
        if not x.shape[1]:
            return x
        return nn.functional.layer_norm(x, x.shape[1:]).mul_(self.weight).add_(self.bias)


def seanet_encoder(config: SeanetConfig) -> Chain:
    """wav [B, T, channels] to latents [B, ceil(T / hop), dimension]."""
    make = _Maker(config)
    stages: list[nn.Module] = [make.conv(config.channels, config.filters, config.kernel)]
    width = config.filters
    for ratio in reversed(config.ratios):
        down = make.conv(width, 2 * width, 2 * ratio, stride=ratio, activation=make.activation(width))
        stages.append(Chain([*make.blocks(width), down]))
        width *= 2
    if config.lstm_layers:
        stages.append(LSTM(width, config.lstm_layers, bidirectional=config.bidirectional))
        width *= 1 + config.bidirectional
    last = make.conv(width, config.dimension, config.last_kernel, activation=make.activation(width))
    return _stages(config, [*stages, last])


def seanet_decoder(config: SeanetConfig) -> Chain:
    """Latents [B, F, dimension] to wav [B, F·hop, channels]."""
    make = _Maker(config)
    width = config.widest
    stages: list[nn.Module] = [make.conv(config.dimension, width, config.kernel)]
    if config.lstm_layers:
        stages.append(LSTM(width, config.lstm_layers))
    for ratio in config.ratios:
        right = ratio if config.causal else ratio // 2
        up = ConvTranspose(
            width,
            width // 2,
            2 * ratio,
            stride=ratio,
            trim=(ratio - right, right),
            activation=make.activation(width),
            norm=TimeGroupNorm(width // 2) if config.group_norm else None,
        )
        width //= 2
        stages.append(Chain([up, *make.blocks(width)]))
    last = make.conv(width, config.channels, config.last_kernel, activation=make.activation(width))
    return _stages(config, [*stages, last])


def _stages(config: SeanetConfig, stages: list[nn.Module]) -> Chain:
    """In pieces that stay in the cache, unless every layer must see the whole signal anyway."""
    return Chain(stages) if config.group_norm else Stages(stages)


class _Maker:
    """Layers as one configuration wants them."""

    def __init__(self, config: SeanetConfig) -> None:
        self.config = config

    def activation(self, width: int) -> Activation:
        return Snake(width) if self.config.snake else elu

    def conv(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        activation: Activation | None = None,
    ) -> Conv:
        return Conv(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            dilation=dilation,
            padding="causal" if self.config.causal else "same",
            mode=self.config.pad_mode,
            fill=True,
            activation=activation,
            norm=TimeGroupNorm(channels_out) if self.config.group_norm else None,
        )

    def blocks(self, width: int) -> list[nn.Module]:
        """The residual blocks of one rate."""
        config, inner = self.config, width // self.config.compress
        if not inner:
            raise InputError(f"{width} channels cannot be divided by {config.compress}")
        return [
            Residual(
                Chain(
                    [
                        self.conv(
                            width,
                            inner,
                            config.residual_kernel,
                            dilation=config.dilation_base**layer,
                            activation=self.activation(width),
                        ),
                        self.conv(inner, width, 1, activation=self.activation(inner)),
                    ]
                ),
                self.conv(width, width, 1) if config.conv_shortcut else None,
            )
            for layer in range(config.residual_layers)
        ]


def seanet_names(config: SeanetConfig, *, decoder: bool) -> dict[str, str]:
    """Path of every module with weights, in the network above -> its name as `plain_names` spells it."""
    root = "decoder.layers." if decoder else "encoder.layers."
    names: dict[str, str] = {}
    at = 0  # in the upstream's list of layers, where activations count

    def conv(ours: str, theirs: str) -> None:
        names[ours] = f"{theirs}.conv"
        if config.group_norm:
            names[f"{ours}.norm"] = f"{theirs}.norm"

    def blocks(stage: int, first: int) -> None:
        nonlocal at
        for layer in range(config.residual_layers):
            ours, theirs = f"{stage}.{first + layer}", f"{root}{at}"
            for part in range(2):
                conv(f"{ours}.branch.{part}", f"{theirs}.block.{2 * part + 1}")
                if config.snake:
                    names[f"{ours}.branch.{part}.activation"] = f"{theirs}.block.{2 * part}"
            if config.conv_shortcut:
                conv(f"{ours}.shortcut", f"{theirs}.shortcut")
            at += 1

    def with_activation(ours: str) -> None:
        nonlocal at
        if config.snake:
            names[f"{ours}.activation"] = f"{root}{at}"
        conv(ours, f"{root}{at + 1}")
        at += 2

    def recurrent(stage: int) -> None:
        nonlocal at
        names[str(stage)] = f"{root}{at}"
        at += 1

    conv("0", f"{root}0")
    at, stage = 1, 1
    if decoder and config.lstm_layers:
        recurrent(stage)
        stage += 1
    for _ in config.ratios:
        if decoder:
            with_activation(f"{stage}.0")
            blocks(stage, 1)
        else:
            blocks(stage, 0)
            with_activation(f"{stage}.{config.residual_layers}")
        stage += 1
    if not decoder and config.lstm_layers:
        recurrent(stage)
        stage += 1
    with_activation(str(stage))
    return names


_SPELLINGS = (
    ("encoder.model.", "encoder.layers."),
    ("decoder.model.", "decoder.layers."),
    (".conv.conv.", ".conv."),
    (".convtr.convtr.", ".conv."),
    (".conv.norm.", ".norm."),
    (".convtr.norm.", ".norm."),
    ("quantizer.vq.layers.", "quantizer.layers."),
    ("._codebook.", ".codebook."),
)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the EnCodec package, audiocraft or a kin, its names in the shorter spelling of transformers."""
    found = {}
    for name, value in state.items():
        for theirs, ours in _SPELLINGS:
            name = name.replace(theirs, ours)
        found[name] = value
    return found
