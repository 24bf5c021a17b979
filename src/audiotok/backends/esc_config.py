"""The sizes of an ESC network, and what follows from them alone."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ..errors import InputError
from ..spec import Spec

Backbone = Literal["transformer", "convolution"]

_MAX_SIZE = 2**16  # of any one number
_MAX_COUNT = 64  # of what there are few of
_MAX_STREAMS = 16


@dataclass(frozen=True)
class ESCConfig:
    """Everything but the weights, as plain numbers. Level 0 is the finest resolution; each next one has half the
    bins. There is one more stream than there are steps between levels.

    Attributes:
        backbone: "transformer" (Swin) or "convolution".
        widths: channels of each level, finest first.
        depth: Swin blocks, or residual units, of a layer.
        heads: of the layer below each level but the last, for the transformer; empty for convolutions.
        window: patches along each side of an attention window; 1 for convolutions.
        mlp_ratio: hidden width of a Swin block's feed-forward part, as a multiple of its width.
        patch: (bins, frames) of the spectrum that make a patch.
        overlap: patches in time that share a code.
        groups: codebooks side by side in a stream.
        codebook_size: V.
        codebook_dims: width of the search space of each stream.
        cosine: whether entries are compared by direction only.
        bins: of the spectrum; the transform has 2 · (bins − 1) points.
        sample_rate: in Hz.
        window_length, stft_hop: of the transform, in samples.

    Raises:
        InputError: values of the wrong type, out of range, or that do not fit one another.
    """

    backbone: Backbone
    widths: tuple[int, ...]
    depth: int
    heads: tuple[int, ...]
    window: int
    mlp_ratio: float
    patch: tuple[int, int]
    overlap: int
    groups: int
    codebook_size: int
    codebook_dims: tuple[int, ...]
    cosine: bool
    bins: int
    sample_rate: int
    window_length: int
    stft_hop: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check_value(field.name, value)
        _expect(2 <= self.streams <= _MAX_STREAMS, f"2 to {_MAX_STREAMS} widths", self.widths)
        _expect(len(self.patch) == 2, "a patch of bins and frames", self.patch)
        few = (self.depth, self.groups, self.overlap, *self.patch)
        _expect(max(few) <= _MAX_COUNT, f"depth, groups, overlap and patch of at most {_MAX_COUNT}", few)
        _expect(len(self.codebook_dims) == self.streams, f"{self.streams} codebook_dims", self.codebook_dims)
        scale = self.patch[0] * 2 ** (self.streams - 1)
        _expect(self.bins % scale == 0, f"bins that {scale} divides", self.bins)
        if self.backbone == "transformer":
            _expect(len(self.heads) == self.streams - 1, f"{self.streams - 1} numbers of heads", self.heads)
            pairs = [*zip(self.widths, self.heads, strict=False), *zip(self.widths[1:], self.heads, strict=True)]
            _expect(all(width % heads == 0 for width, heads in pairs), "heads that divide the widths", self.heads)
            _expect(2 <= self.window <= 16, "a window of 2 to 16 patches", self.window)
            _expect(all(int(w * self.mlp_ratio) >= 1 for w in self.widths), "a larger mlp_ratio", self.mlp_ratio)
        else:
            _expect(not self.heads and self.window == 1, "no heads and no window for convolutions", self.heads)
        for stream, dim in enumerate(self.codebook_dims):
            parts = self.part_widths(stream)
            _expect(min(parts) > 0 and dim not in parts, f"codebook_dims other than the parts of {parts} values", dim)
        _expect(2 * self.stft_hop < self.window_length <= self.n_fft, "a window of 2 hops to n_fft", self.window_length)

    @property
    def streams(self) -> int:
        """Streams, which is also the number of levels."""
        return len(self.widths)

    @property
    def n_fft(self) -> int:
        """Points of the transform."""
        return 2 * (self.bins - 1)

    @property
    def stft_frames(self) -> int:
        """Frames of the transform in a code frame."""
        return self.patch[1] * self.overlap

    @property
    def hop_length(self) -> int:
        """Samples in a code frame."""
        return self.stft_hop * self.stft_frames

    @property
    def grid(self) -> int:
        """Code frames after which attention windows begin at the same place again."""
        return self.window // math.gcd(self.window, self.overlap)

    def level(self, stream: int) -> int:
        """Where a stream is quantized; the first two share the coarsest level."""
        return self.streams - max(stream, 1)

    def height(self, level: int) -> int:
        """Patches along frequency at a level."""
        return self.bins // self.patch[0] >> level

    def vector_width(self, stream: int) -> int:
        """Values that a stream quantizes for a code frame."""
        return self.overlap * self.widths[self.level(stream)] * self.height(self.level(stream))

    def part_widths(self, stream: int) -> list[int]:
        """Values that each codebook of a stream quantizes; the last one takes what does not divide."""
        whole = self.vector_width(stream)
        return [whole // self.groups] * (self.groups - 1) + [whole - whole // self.groups * (self.groups - 1)]

    def num_frames(self, num_samples: int) -> int:
        """Code frames of audio, filled up with zeros to the next length that makes whole frames.

        T samples give 1 + T // hop frames of the transform, of which up to one patch less one may be left over.
        """
        transform = 1 + num_samples // self.stft_hop
        frames = (transform + self.stft_frames - self.patch[1]) // self.stft_frames
        shortest = self.n_fft // 2 // self.stft_hop + 2  # frames of the transform, whose ends are reflected
        return max(frames, -(-shortest // self.stft_frames))

    def padded_samples(self, num_samples: int) -> int:
        """Samples that the network sees of so many."""
        return max(num_samples, (self.num_frames(num_samples) * self.stft_frames - 1) * self.stft_hop)

    def spec(self, name: str) -> Spec:
        """What a tokenizer of these sizes takes and gives."""
        rows = self.streams * self.groups
        return Spec(
            name=name,
            sample_rate=self.sample_rate,
            hop_length=self.hop_length,
            codebook_sizes=(self.codebook_size,) * rows,
            nested=True,
            batching="bucket",
            row_levels=tuple(row // self.groups for row in range(rows)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ESCConfig":
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is missing, unknown, of the wrong type or out of range.
        """
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise InputError(f"an ESC has {sorted(names)}, not {sorted(values)}")
        return cls(**values)


def _expect(holds: bool, wanted: str, found: object) -> None:
    if not holds:
        raise InputError(f"an ESC needs {wanted}, not {str(found)[:200]}")


def _check_value(name: str, value: object) -> None:
    """Only the types that the fields have, and no numbers beyond all measure."""
    if name == "backbone":
        fits = value in get_args(Backbone)
    elif name == "cosine":
        fits = isinstance(value, bool)
    elif name == "mlp_ratio":
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 64
    elif name in ("widths", "heads", "patch", "codebook_dims"):
        fits = isinstance(value, tuple) and all(_is_size(item) for item in value)
    else:
        fits = _is_size(value)
    if not fits:
        raise InputError(f"{name} of an ESC cannot be {str(value)[:200]}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SIZE
