"""The sizes of a unit vocoder."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError

_MAX_SIZE = 2**24  # of any one number


@dataclass(frozen=True)
class VocoderConfig:
    """Everything but the weights, as plain numbers. The defaults are those of the published vocoders.

    Attributes:
        layers: numbers of the layers whose tokens it decodes, for instance of an SSL model's; in the order of its
            embedding.
        codebook_sizes: V of each layer.
        sample_rate: of the audio, in Hz.
        embedding_dim: of an embedded token.
        attention_dim: hidden size of the score of a layer.
        speaker_dim: of a speaker vector, 0 where it takes none.
        normalize_speaker: whether speaker vectors are divided by their length.
        duration_dim, duration_kernel: of the duration predictor, 0 where it has none.
        initial_channels, upsample_factors, upsample_kernels, resblock_kernels, resblock_dilations, resblock_type,
            first_kernel, last_kernel, last_bias: see `HifiGanGenerator`.
    """

    layers: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    sample_rate: int = 16000
    embedding_dim: int = 1024
    attention_dim: int = 128
    speaker_dim: int = 0
    normalize_speaker: bool = False
    duration_dim: int = 0
    duration_kernel: int = 3
    initial_channels: int = 512
    upsample_factors: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    resblock_type: int = 1
    first_kernel: int = 7
    last_kernel: int = 7
    last_bias: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                value = tuple(tuple(item) if isinstance(item, list | tuple) else item for item in value)
                object.__setattr__(self, field.name, value)
            _check_value(field.name, value)
        if not self.layers or len(set(self.layers)) < len(self.layers) or len(self.layers) > 256:
            raise InputError(f"a vocoder needs 1 to 256 different layers, not {self.layers}")
        if len(self.codebook_sizes) != len(self.layers) or min(self.codebook_sizes) < 1:
            raise InputError(f"layers {self.layers} need a codebook size each, not {self.codebook_sizes}")
        for name in ("sample_rate", "embedding_dim", "attention_dim", "initial_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.duration_dim and self.duration_kernel % 2 == 0:
            raise InputError(f"duration_kernel must be odd, not {self.duration_kernel}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VocoderConfig":
        """The inverse of `to_dict`, through JSON or not.

        Raises:
            InputError: a field is missing, unknown or of the wrong type.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"a vocoder has no {', '.join(unknown)}: was it written by a newer audiotok?")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"a vocoder's configuration is incomplete: {error}") from error


def _check_value(name: str, value: object) -> None:
    """Only the types that the defaults have, and no numbers beyond all measure."""
    flags = ("normalize_speaker", "last_bias")
    lists = ("layers", "codebook_sizes", "upsample_factors", "upsample_kernels", "resblock_kernels")
    if name in flags:
        fits = isinstance(value, bool)
    elif name in lists:
        fits = isinstance(value, tuple) and all(_is_size(item) for item in value)
    elif name == "resblock_dilations":
        fits = isinstance(value, tuple) and all(isinstance(i, tuple) and all(map(_is_size, i)) for i in value)
    else:
        fits = _is_size(value)
    if not fits:
        raise InputError(f"{name} of a vocoder cannot be {str(value)[:200]}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE
