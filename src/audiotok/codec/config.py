"""Sizes of a trainable codec, as plain numbers that a YAML file can hold."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args

from ..errors import InputError
from ..quantize import VQOptions

Architecture = Literal["spectral", "convolutional"]
Kind = Literal["rvq", "svq", "gvq", "fsq", "msrvq", "csrvq", "pq"]
Size = Literal["small", "base", "large"]
Phase = Literal["predicted", "griffin-lim"]
Config = TypeVar("Config", bound="_Config")
#: Bounds for what a file may say: of layers, of anything counted, of channels, of entries.
_DEEPEST, _MOST, _WIDEST, _LARGEST = 64, 1024, 1 << 16, 1 << 24


def check_keys(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raises InputError, with near matches, for the first key that is not known."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{what} has no key {key!r}: {hint}")


def _within(least: int, most: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InputError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _all_within(least: int, most: int, counts: range, **lists: tuple[int, ...]) -> None:
    for name, values in lists.items():
        if not isinstance(values, tuple | list) or len(values) not in counts:
            wanted = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
            raise InputError(f"{name} are {wanted} whole numbers, not {values!r}")
        for value in values:
            _within(least, most, **{f"each of {name}": value})


def _finite(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{name} must be a number, not {value!r}")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is one of {', '.join(choices)}, not {value!r}")


def _switch(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} is true or false, not {value!r}")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found[key] = _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
    return found


@dataclass(frozen=True)
class _Config:
    """What the configurations share: plain values, and back with errors that name the key."""

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`; what is not named keeps its default.

        Raises:
            InputError: an unknown key, or a value out of range.
        """
        check_keys(cls.name, values, [one.name for one in fields(cls)])
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            return cls(**given)
        except InputError as error:
            raise InputError(f"{cls.name}: {error}") from error


@dataclass(frozen=True)
class SpectralConfig(_Config):
    """A network that works on the frames of a short-time Fourier transform, of the Vocos family (arXiv 2306.00814).

    Attributes:
        fft: samples of a window, of the transform in and of its inverse.
        stride: frames of the transform to a frame of latents: their hop is hop_length / stride.
        width: channels of the ConvNeXt blocks.
        hidden: channels inside them.
        encoder_blocks: at the transform's rate, and at that of the latents.
        decoder_blocks: at the latents' rate, and at that of the transform.
        phase: "predicted" by the network, as Vocos does, or found by the algorithm of Griffin and Lim ("griffin-lim"),
            for which the network sees and gives magnitudes only: little training goes a long way, but the wave is
            another one, and nothing streams.
        iterations: of that algorithm.
    """

    name: ClassVar[str] = "network"
    fft: int = 640
    stride: int = 2
    width: int = 256
    hidden: int = 768
    encoder_blocks: tuple[int, int] = (2, 3)
    decoder_blocks: tuple[int, int] = (3, 4)
    phase: Phase = "predicted"
    iterations: int = 32

    def __post_init__(self) -> None:
        _within(1, _WIDEST, fft=self.fft, width=self.width, hidden=self.hidden)
        _within(1, _MOST, stride=self.stride, iterations=self.iterations)
        _one_of("phase", self.phase, get_args(Phase))
        blocks = {"encoder_blocks": self.encoder_blocks, "decoder_blocks": self.decoder_blocks}
        _all_within(0, _DEEPEST, range(2, 3), **blocks)
        if not all(map(sum, blocks.values())):
            raise InputError("encoder and decoder need a block each, before or after the change of rate")


@dataclass(frozen=True)
class ConvolutionalConfig(_Config):
    """A network of strided convolutions on the waveform: SEANet, with Snake as DAC has it.

    Attributes:
        filters: channels of the first layer; they double at every stride.
        ratios: strides in the decoder's order; their product is hop_length.
        residual_layers: residual blocks at each rate, with dilations 1, dilation_base, ...
        dilation_base: see there.
        lstm_layers: between convolutions and latents; 0 for none.
        snake: Snake activations in place of ELU.
    """

    name: ClassVar[str] = "network"
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    residual_layers: int = 1
    dilation_base: int = 2
    lstm_layers: int = 0
    snake: bool = True

    def __post_init__(self) -> None:
        _within(1, _MOST, filters=self.filters, dilation_base=self.dilation_base)
        _within(1, _DEEPEST, residual_layers=self.residual_layers)
        _within(0, _DEEPEST, lstm_layers=self.lstm_layers)
        _switch(snake=self.snake)
        _within(1, _WIDEST, **{"the last dilation": self.dilation_base ** (self.residual_layers - 1)})
        _all_within(2, _MOST, range(1, _DEEPEST + 1), ratios=self.ratios)


@dataclass(frozen=True)
class QuantizerConfig(_Config):
    """A quantizer of `audiotok.quantize`, by name.

    Attributes:
        kind: "rvq" (residual), "svq" (one codebook), "gvq" (groups of residual codebooks), "fsq" (rounded numbers),
            "msrvq" (levels of different frame rates), "csrvq" (scales of different feature sizes), "pq" (parts side by
            side).
        num_codebooks: rows of tokens. "svq" has 1; of "msrvq" they follow from its strides.
        codebook_size: V; of "fsq" it follows from its levels.
        codebook_dim: width of the space that is searched; 0 is that of the latents, without maps.
            "fsq" and "pq" have no such space.
        dropout: probability that an item of a training batch keeps only its first codebooks ("rvq" and "gvq").
        groups: of "gvq".
        strides: of "msrvq": latents to a token at each level, from coarse to fine.
        scales: of "csrvq"; each has num_codebooks / scales rows, and half the features of the next.
        levels: of "fsq": steps of each number of a row; V is their product.
        lookup, update, gradient, commitment, decay, revive_below: see `VQOptions`.
    """

    name: ClassVar[str] = "quantizer"
    kind: Kind = "rvq"
    num_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 0
    dropout: float = 0.5
    groups: int = 2
    strides: tuple[int, ...] = (4, 2, 1)
    scales: int = 2
    levels: tuple[int, ...] = (4, 4, 4, 4, 4)
    lookup: Literal["euclidean", "cosine"] = "euclidean"
    update: Literal["ema", "gradient"] = "ema"
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    commitment: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.1

    def __post_init__(self) -> None:
        _one_of("a quantizer", self.kind, get_args(Kind))
        _within(1, _MOST, num_codebooks=self.num_codebooks, groups=self.groups)
        _within(1, _DEEPEST, scales=self.scales)
        _within(2, _LARGEST, codebook_size=self.codebook_size)
        _within(0, _WIDEST, codebook_dim=self.codebook_dim)
        _all_within(1, _MOST, range(1, _DEEPEST + 1), strides=self.strides, levels=self.levels)
        _finite(dropout=self.dropout, commitment=self.commitment, decay=self.decay, revive_below=self.revive_below)
        if self.kind == "fsq":
            _within(2, _LARGEST, **{"the product of levels": math.prod(self.levels)})
        if not 0 <= self.dropout <= 1:
            raise InputError(f"dropout is a probability from 0 to 1, not {self.dropout}")
        if self.kind == "svq" and self.num_codebooks != 1:
            raise InputError(f'"svq" has one codebook, not {self.num_codebooks}: "pq" has several side by side')
        if self.kind in ("fsq", "pq") and self.codebook_dim:
            raise InputError(f'"{self.kind}" searches no space of a width of its own: leave codebook_dim 0')
        if self.kind == "gvq" and self.num_codebooks % self.groups:
            raise InputError(f"{self.num_codebooks} codebooks do not make {self.groups} equal groups")
        if self.kind == "csrvq" and self.num_codebooks % self.scales:
            raise InputError(f"{self.num_codebooks} codebooks do not make {self.scales} equal scales")
        _ = self.options()

    def options(self, *, frozen: bool = False) -> VQOptions:
        """How the codebooks learn; `frozen`, not at all."""
        return VQOptions(
            lookup=self.lookup,
            update="frozen" if frozen else self.update,
            gradient=self.gradient,
            commitment_weight=self.commitment,
            decay=self.decay,
            revive_below=self.revive_below,
        )

    @property
    def stride(self) -> int:
        """Latents to a frame of tokens."""
        return max(self.strides) if self.kind == "msrvq" else 1


_NETWORKS: dict[str, type[SpectralConfig] | type[ConvolutionalConfig]] = {
    "spectral": SpectralConfig,
    "convolutional": ConvolutionalConfig,
}


@dataclass(frozen=True)
class CodecConfig(_Config):
    """A codec: network, quantizer, and what both share.

    Attributes:
        architecture: "spectral", light enough for a CPU, or "convolutional".
        sample_rate: of the audio, in Hz, one channel.
        hop_length: samples to a frame of latents.
        latent: D, features of a frame that is quantized.
        causal: whether nothing looks ahead, so that the codec streams.
        network: sizes of the architecture.
        quantizer: see there.

    Raises:
        InputError: sizes that do not fit one another.

    Example:
        >>> config = CodecConfig.from_dict({"preset": "small", "quantizer": {"num_codebooks": 4}})
        >>> config.network.width, config.quantizer.num_codebooks, config.frame_rate
        (192, 4, 50.0)
    """

    name: ClassVar[str] = "codec"
    architecture: Architecture = "spectral"
    sample_rate: int = 16000
    hop_length: int = 320
    latent: int = 64
    causal: bool = False
    network: SpectralConfig | ConvolutionalConfig = field(default_factory=SpectralConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        _one_of("an architecture", self.architecture, get_args(Architecture))
        if not isinstance(self.network, _NETWORKS[self.architecture]):
            raise InputError(f"the network of a {self.architecture} codec is a {_NETWORKS[self.architecture].__name__}")
        _within(1, _LARGEST, sample_rate=self.sample_rate)
        _within(1, _WIDEST, hop_length=self.hop_length, latent=self.latent)
        _switch(causal=self.causal)
        if isinstance(self.network, SpectralConfig):
            hop = self.hop_length // self.network.stride
            if hop * self.network.stride != self.hop_length or hop % 2 or not 2 <= hop <= self.network.fft:
                raise InputError(
                    f"hop_length {self.hop_length} in {self.network.stride} frames of the transform: each must be an "
                    f"even number of samples, at most its window of {self.network.fft}"
                )
            if self.causal and self.network.phase == "griffin-lim":
                raise InputError("the algorithm of Griffin and Lim looks ahead: a causal codec predicts its phase")
        else:
            product = math.prod(self.network.ratios)
            if product != self.hop_length:
                raise InputError(f"ratios {self.network.ratios} make a hop of {product}, not {self.hop_length}")

    @property
    def frame_rate(self) -> float:
        """Frames of tokens per second."""
        return self.sample_rate / (self.hop_length * self.quantizer.stride)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CodecConfig":
        """The inverse of `to_dict`. `preset` names a size that the other values then change.

        Raises:
            InputError: an unknown key, or values that do not fit one another.
        """
        check_keys(cls.name, values, [*(one.name for one in fields(cls)), "preset"])
        given = dict(values)
        start = preset(given.pop("preset", "base"), given.get("architecture", "spectral"))
        for name in ("network", "quantizer"):
            part = {} if given.get(name) is None else given[name]
            if not isinstance(part, Mapping):
                raise InputError(f"{cls.name}: {name} is a group of keys, not {part!r}")
            kind = type(getattr(start, name))
            given[name] = kind.from_dict({**getattr(start, name).to_dict(), **part})
        return replace(start, **given)


_PRESETS: dict[str, dict[str, SpectralConfig | ConvolutionalConfig]] = {
    "spectral": {
        "small": SpectralConfig(width=192, hidden=576, encoder_blocks=(1, 2), decoder_blocks=(2, 2)),
        "base": SpectralConfig(),
        "large": SpectralConfig(width=512, hidden=1536, encoder_blocks=(4, 4), decoder_blocks=(4, 8)),
    },
    "convolutional": {
        "small": ConvolutionalConfig(filters=16),
        "base": ConvolutionalConfig(filters=32, residual_layers=2),
        "large": ConvolutionalConfig(filters=64, residual_layers=3),
    },
}


def preset(size: Size = "base", architecture: Architecture = "spectral") -> CodecConfig:
    """A codec of a usual size: 16 kHz, 50 frames a second, 8 codebooks of 1024.

    Raises:
        InputError: no such size or architecture.
    """
    _one_of("an architecture", architecture, get_args(Architecture))
    _one_of("a preset", size, get_args(Size))
    return CodecConfig(architecture=architecture, network=_PRESETS[architecture][size])
