"""The sizes of FACodec."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError

_MAX_ITEMS = 64  # strides, layers, codebooks: more is a broken configuration, not a network
_MAX_SIZE = 2**16  # of any other number


@dataclass(frozen=True)
class FACodecConfig:
    """Everything but the weights and the codebook sizes, as plain numbers.

    Attributes:
        channels: of the encoder's first convolution; every stride doubles them.
        strides: of the encoder.
        dim: D, of the latent, the codes' vectors and the speaker vector.
        decoder_channels: of the decoder's first convolution; every stride halves them.
        decoder_strides: with the encoder's product.
        codebook_dim: of the space in which codes are searched.
        codebooks: rows of prosody, of content, and (if there are any) of detail.
        layers, hidden, kernel, heads: of the transformers: blocks, width and kernel of the convolution inside a block,
            attention heads.
        mel_bands, n_fft, window: of the spectrogram that prosody is taken from (version 2); all 0 where it is taken
            from the latent (version 1).

    Raises:
        InputError: values that make no such network.
    """

    channels: int
    strides: tuple[int, ...]
    dim: int
    decoder_channels: int
    decoder_strides: tuple[int, ...]
    codebook_dim: int
    codebooks: tuple[int, ...]
    layers: int
    hidden: int
    kernel: int
    heads: int
    mel_bands: int = 0
    n_fft: int = 0
    window: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                fits = _is_size(value) and value <= (_MAX_ITEMS if field.name == "layers" else _MAX_SIZE)
            else:
                value = tuple(value) if isinstance(value, list) else value
                object.__setattr__(self, field.name, value)
                fits = isinstance(value, tuple) and 0 < len(value) <= _MAX_ITEMS and all(map(_is_size, value))
                fits = fits and (field.name != "codebooks" or sum(value) <= _MAX_ITEMS)
            if not fits:
                raise InputError(f"{field.name} of FACodec cannot be {str(value)[:200]}")
        spectrogram = (self.mel_bands, self.n_fft, self.window)
        counts = (self.channels, self.dim, self.decoder_channels >> len(self.decoder_strides), self.codebook_dim)
        checks = {
            "two or three groups of codebooks": len(self.codebooks) in (2, 3) and min(self.codebooks) > 0,
            "strides of at least 2": min(self.strides + self.decoder_strides) > 1,
            "the same hop in and out": math.prod(self.strides) == math.prod(self.decoder_strides),
            f"at most {_MAX_SIZE} channels": self.channels << len(self.strides) <= _MAX_SIZE,
            "at least 1 channel everywhere": min(*counts, self.layers, self.hidden) > 0,
            "an odd kernel": self.kernel % 2 == 1,
            "heads that share the latent evenly": self.heads > 0 and self.dim % self.heads == 0,
            "a whole spectrogram or none": all(spectrogram) or not any(spectrogram),
            "a window of at most n_fft": self.window <= self.n_fft,
            "n_fft above the hop by an even number": not self.n_fft
            or (self.n_fft >= self.hop_length and (self.n_fft - self.hop_length) % 2 == 0),
        }
        for wanted, holds in checks.items():
            if not holds:
                raise InputError(f"FACodec wants {wanted}, not {self}")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def num_frames(self, num_samples: int) -> int:
        """Frames that the encoder's convolutions give."""
        for stride in self.strides:
            num_samples = (num_samples + 2 * padding(stride) - 2 * stride) // stride + 1
        return num_samples

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame and, in version 2, can be reflected at both ends."""
        samples = 1
        for stride in reversed(self.strides):
            samples = (samples + 1) * stride - 2 * padding(stride)
        return max(samples, self.reflection + 1 if self.mel_bands else 1)

    @property
    def reflection(self) -> int:
        """Samples mirrored on each side of the audio for the spectrogram."""
        return (self.n_fft - self.hop_length) // 2


def padding(stride: int) -> int:
    """Of a convolution whose kernel is twice its stride: odd strides get one more on each side than they need."""
    return stride // 2 + stride % 2


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE
