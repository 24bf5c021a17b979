"""SQ-Codec (Yang et al. 2024, SimpleSpeech, arXiv 2406.02328): every latent value is rounded, nothing is looked up."""

import itertools
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256, read_torch, read_yaml
from ..codec.convolutional import ConvolutionalCodec
from ..errors import CheckpointError, InputError
from ..nn.conv import Apply, Chain, Conv, ConvTranspose, Layer, Residual, Stages
from ..nn.flow import Flow, Window
from ..spec import Spec
from .weights import Weights, build, flag, folded, layout, named_tensors, number, numbers, one_file

_DILATIONS = (1, 3, 5, 7, 9)
_TERNARY_GROUP = 9  # values in one token of the published model: 3^9 = 19683

#: What a user calls the rounding -> steps on each side of zero. The published 16 kHz model has three values: -1, 0, 1.
LEVELS = {3: 1, 5: 5, 9: 9}


@dataclass(frozen=True)
class SQCodecConfig:
    """Sizes of the network, by the names of upstream's configuration.

    Attributes:
        channels: of the first layer; they double at every factor.
        latent: values per frame.
        downsample_factors, downsample_kernels: of the encoder.
        upsample_factors, upsample_kernels: of the decoder.
        kernel: of the first and last convolutions.
        delay_kernel: of the decoder's first convolution, which looks ahead even where the rest is causal.
        residual_kernel: of the residual units.
        pool: samples averaged before, and repeated after, everything else.
        causal: whether convolutions look back only.
    """

    channels: int
    latent: int
    downsample_factors: tuple[int, ...]
    downsample_kernels: tuple[int, ...]
    upsample_factors: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    kernel: int
    delay_kernel: int
    residual_kernel: int
    pool: int
    causal: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SQCodecConfig":
        """The inverse of `to_dict`."""
        sizes: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return cls(**sizes)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.pool * math.prod(self.downsample_factors)


class ScalarQuantizer(nn.Module):
    """Rounds every value in -1..1 to multiples of 1 / steps, halves to even; `group` values make one token.

    The token of values v_0, v_1, ... is Σ (round(steps · v_i) + steps) (2 · steps + 1)^i.

    Args:
        dim: values per frame, a multiple of group.
        steps: on each side of zero.
        group: values per token.
    """

    def __init__(self, dim: int, steps: int, group: int) -> None:
        super().__init__()
        if dim % group:
            raise InputError(f"{dim} values cannot be grouped by {group}")
        self.dim, self.steps, self.group = dim, steps, group
        self.values = 2 * steps + 1
        self.codebook_sizes = (self.values**group,) * (dim // group)

    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, dim / group, F] of x [B, dim, F] in -1..1."""
        digits = torch.round(x.float() * self.steps).long().clamp(-self.steps, self.steps) + self.steps
        digits = digits.reshape(len(x), self.dim // self.group, self.group, x.shape[2])
        return (digits * self._weights(x.device)).sum(2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Values [B, dim, F] of tokens [B, dim / group, F]."""
        digits = tokens[:, :, None] // self._weights(tokens.device) % self.values
        return (digits - self.steps).float().div_(self.steps).reshape(len(tokens), self.dim, tokens.shape[2])

    def _weights(self, device: torch.device) -> Tensor:
        return (self.values ** torch.arange(self.group, device=device))[:, None]


class SQCodec(ConvolutionalCodec):
    """Convolutions, tanh, and rounding. Audio is padded with zeros to whole frames.

    Args:
        spec: what it takes and gives.
        network: sizes.
        steps: of the rounding on each side of zero: 9, 5, or 1 for the published model's three values.
        group: values per token.
    """

    family = "sqcodec"
    # Values within rounding error of a boundary go either way, and another length of the input rounds otherwise: on
    # speech and the networks of the tests 1 of 21688 did.
    chunk_miss_rate = 1e-3

    def __init__(self, spec: Spec, network: SQCodecConfig, *, steps: int, group: int) -> None:
        super().__init__(spec)
        self.network, self.steps, self.group = network, steps, group
        self.encoder = _encoder(network)
        self.scalar = ScalarQuantizer(network.latent, steps, group)
        self.decoder = _decoder(network)

    def _config(self) -> dict[str, Any]:
        return {"network": self.network.to_dict(), "steps": self.steps, "group": self.group}

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "SQCodec":
        return cls(spec, SQCodecConfig.from_dict(config["network"]), steps=config["steps"], group=config["group"])

    def padded_length(self, num_samples: int) -> int:
        return self.num_frames(num_samples) * self.spec.hop_length

    def _quantize(self, features: Tensor) -> Tensor:
        return self.scalar.encode(features)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.scalar.decode(tokens)

    @property
    def codebooks(self) -> list[Tensor]:
        """For each row of tokens the values [V, group] that its tokens stand for."""
        values = torch.arange(-self.steps, self.steps + 1, device=self.device) / self.steps
        table = torch.stack([values[list(entry)[::-1]] for entry in self._entries()])
        return [table] * self.spec.num_codebooks

    def _entries(self) -> "itertools.product[tuple[int, ...]]":
        return itertools.product(range(self.scalar.values), repeat=self.group)


class _PReLU(Layer):
    """x where it is positive, else x times one learned slope."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return nn.functional.prelu(x, self.weight)


class _Average(Layer):
    """The mean of every `size` samples."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.window = size, Window(size, size)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        seen = flow.window(self, self.window, x)
        whole = seen[:, : seen.shape[1] // self.size * self.size]
        return whole.reshape(len(x), -1, self.size, x.shape[2]).mean(2)


class _Repeat(Layer):
    """Every sample `size` times."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.stretch(self.size)
        return x.repeat_interleave(self.size, 1)


def _conv(
    config: SQCodecConfig, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> Conv:
    reach = (kernel - 1) * dilation
    padding = (reach, 0) if config.causal else (reach // 2, reach // 2)
    return Conv(channels_in, channels_out, kernel, stride=stride, dilation=dilation, padding=padding)


def _units(config: SQCodecConfig, width: int) -> list[nn.Module]:
    return [
        Residual(
            Chain(
                [
                    _conv(config, width, width, config.residual_kernel, dilation=dilation),
                    _PReLU(),
                    Conv(width, width, 1),
                    _PReLU(),
                ]
            )
        )
        for dilation in _DILATIONS
    ]


def _encoder(config: SQCodecConfig) -> Stages:
    """wav [B, T, 1] to values in -1..1 [B, T / hop, latent]."""
    width = config.channels
    stages: list[nn.Module] = [_conv(config, 1, width, config.kernel)]
    if config.pool > 1:
        stages.append(Chain([_conv(config, width, width, config.kernel), _PReLU(), _Average(config.pool)]))
    for factor, kernel in zip(config.downsample_factors, config.downsample_kernels, strict=True):
        down = _conv(config, width, 2 * width, kernel, stride=factor)
        stages.append(Chain([*_units(config, width), down, _PReLU()]))
        width *= 2
    return Stages([*stages, _conv(config, width, config.latent, config.kernel), Apply(torch.tanh)])


def _decoder(config: SQCodecConfig) -> Stages:
    """Values [B, F, latent] to wav [B, F·hop, 1]."""
    width = config.channels << len(config.upsample_factors)
    ahead = (config.delay_kernel - 1) // 2
    stages: list[nn.Module] = [Conv(config.latent, width, config.delay_kernel, padding=(ahead, ahead))]
    for factor, kernel in zip(config.upsample_factors, config.upsample_kernels, strict=True):
        side = (kernel - factor) // 2
        trim = (0, factor) if config.causal else (side, side)
        stages.append(
            Chain([ConvTranspose(width, width // 2, kernel, stride=factor, trim=trim), *_units(config, width // 2)])
        )
        width //= 2
    if config.pool > 1:
        stages.append(Chain([_Repeat(config.pool), _conv(config, width, width, config.kernel), _PReLU()]))
    return Stages([*stages, _conv(config, width, 1, config.kernel)])


def read_sqcodec(
    source: Path, *, name: str = "", levels: int | None = None, config: str | os.PathLike[str] | None = None
) -> SQCodec:
    """Reads a folder of `ckpt_*.pth` and `config.yaml`, or the checkpoint file with `config`.

    Args:
        source: the folder or file.
        name: of the tokenizer.
        levels: how the values are rounded, which no file says: 9 or 5 for the models that upstream's readme names so
            (to multiples of 1/9 or 1/5, a row of tokens for each value), 3 for the published SQ-Codec of UniAudio (to
            -1, 0 or 1, nine values in a token).
        config: the yaml file, if it is not the one beside the checkpoint.

    Raises:
        InputError: levels is missing or another number. CheckpointError: missing, broken or hostile files.
    """
    if levels not in LEVELS:
        raise InputError(
            f"sqcodec needs levels=, one of {', '.join(map(str, LEVELS))}, not {levels!r}: no file says it"
        )
    path = one_file(source, ("ckpt_*.pth", "*.pth"), "weights")
    yaml = Path(config) if config is not None else path.parent / "config.yaml"
    network, sample_rate = _network(yaml)
    checkpoint: Any = read_torch(path)
    try:
        tensors = named_tensors(checkpoint["codec_model"], path)
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is no SQ-Codec checkpoint: wanted weights under codec_model") from error
    steps = LEVELS[levels]
    group = _TERNARY_GROUP if levels == 3 else 1
    try:
        sizes = ScalarQuantizer(network.latent, steps, group).codebook_sizes
    except InputError as error:
        raise CheckpointError(f"{yaml}: three levels want a multiple of nine values: {error}") from error
    spec = Spec(
        name=name or f"sqcodec-{sample_rate // 1000}khz",
        sample_rate=sample_rate,
        hop_length=network.hop_length,
        codebook_sizes=sizes,
        streamable=network.causal,
        batching="mask",
    )
    encoder, decoder = layout(lambda: (_encoder(network), _decoder(network)), yaml)
    weights = Weights(folded(tensors, path), path)
    state = weights.fill(encoder, _encoder_names(network), "encoder.")
    state |= weights.fill(decoder, _decoder_names(network), "decoder.")
    weights.finish()
    tokenizer = build(lambda: SQCodec(spec, network, steps=steps, group=group), state, path)
    tokenizer.provenance = {
        "license": "MIT",
        "paper": "arXiv 2406.02328",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer


def _network(yaml: Path) -> tuple[SQCodecConfig, int]:
    """Sizes and sample rate that a configuration names."""
    try:
        facts = read_yaml(yaml)["generator"]["config"]
        network = SQCodecConfig(
            channels=number(facts["init_channel"], "init_channel", yaml),
            latent=number(facts["latent_hidden_dim"], "latent_hidden_dim", yaml),
            downsample_factors=tuple(numbers(facts["downsample_factors"], "downsample_factors", yaml)),
            downsample_kernels=tuple(numbers(facts["downsample_kernel_sizes"], "downsample_kernel_sizes", yaml)),
            upsample_factors=tuple(numbers(facts["upsample_factors"], "upsample_factors", yaml)),
            upsample_kernels=tuple(numbers(facts["upsample_kernel_sizes"], "upsample_kernel_sizes", yaml)),
            kernel=number(facts["default_kernel_size"], "default_kernel_size", yaml),
            delay_kernel=number(facts["delay_kernel_size"], "delay_kernel_size", yaml),
            residual_kernel=number(facts["res_kernel_size"], "res_kernel_size", yaml),
            pool=number(facts.get("num_samples", 1), "num_samples", yaml, high=64),
            causal=flag(facts["causal"], "causal", yaml),
        )
        bands, sample_rate = facts.get("num_bands", 1), number(facts["sample_rate"], "sample_rate", yaml, high=1 << 20)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{yaml} does not describe an SQ-Codec: {error!r} of generator.config") from error
    for factors, kernels in (
        (network.downsample_factors, network.downsample_kernels),
        (network.upsample_factors, network.upsample_kernels),
    ):
        if len(factors) != len(kernels):
            raise CheckpointError(f"{yaml}: {len(factors)} factors, but {len(kernels)} kernels")
    if bands != 1 or math.prod(network.downsample_factors) != math.prod(network.upsample_factors):
        raise CheckpointError(f"{yaml}: wanted one band, and factors that lead back to it")
    return network, sample_rate


def _encoder_names(config: SQCodecConfig) -> dict[str, str]:
    names, stage = {"0": "encoder.0"}, 1
    if config.pool > 1:
        names |= {"1.0": "encoder.1.conv", "1.1": "encoder.1.activation"}
        stage = 2
    for _ in config.downsample_factors:
        there = f"encoder.{stage}"
        names |= _unit_names(f"{stage}", 0, there)
        names |= {f"{stage}.5": f"{there}.down_conv.layer", f"{stage}.6": f"{there}.down_conv.activation"}
        stage += 1
    return names | {f"{stage}": f"encoder.{stage}"}


def _decoder_names(config: SQCodecConfig) -> dict[str, str]:
    names, stage = {"0": "decoder.0"}, 1
    for _ in config.upsample_factors:
        names |= {f"{stage}.0": f"decoder.{stage}.up_conv.layer"}
        names |= _unit_names(f"{stage}", 1, f"decoder.{stage}")
        stage += 1
    if config.pool > 1:
        names |= {f"{stage}.1": f"decoder.{stage}.conv", f"{stage}.2": f"decoder.{stage}.activation"}
        stage += 1
    return names | {f"{stage}": f"decoder.{stage}"}


def _unit_names(ours: str, first: int, theirs: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for unit in range(len(_DILATIONS)):
        here, there = f"{ours}.{first + unit}.branch", f"{theirs}.convs.{unit}"
        parts = ("conv1", "activation1", "conv2", "activation2")
        names |= {f"{here}.{i}": f"{there}.{part}" for i, part in enumerate(parts)}
    return names
