"""`Spec`: what a tokenizer takes and gives, as plain numbers.

Letters used everywhere in this library: B batch, C channels, T samples, F token frames, K codebooks (rows of
tokens), D feature size, V codebook size.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from .errors import InputError

Batching = Literal["mask", "bucket"]


@dataclass(frozen=True)
class Spec:
    """What a tokenizer takes and gives.

    Attributes:
        name: the tokenizer's name, for messages and cards.
        sample_rate: of the audio in and out, in Hz.
        hop_length: samples per token frame.
        codebook_sizes: V of each row of tokens, K of them.
        channels: of the audio, 1 or 2.
        decodable: whether `decode` exists.
        streamable: whether `stream` exists.
        nested: whether the first k rows of tokens decode without the others (residual quantizers).
        batching: "mask" when the network honours lengths in a padded batch; "bucket" when only rows of equal
            length may share a batch.

    Example:
        >>> spec = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(1024, 1024))
        >>> spec.frame_rate, spec.num_codebooks, spec.bitrate_bps, spec.vocab_size
        (50.0, 2, 1000.0, 2048)
    """

    name: str
    sample_rate: int
    hop_length: int
    codebook_sizes: tuple[int, ...]
    channels: int = 1
    decodable: bool = True
    streamable: bool = False
    nested: bool = False
    batching: Batching = "bucket"

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        for field in ("sample_rate", "hop_length", "channels"):
            _positive(field, getattr(self, field))
        if not self.codebook_sizes:
            raise InputError("a Spec needs at least one codebook size")
        for size in self.codebook_sizes:
            _positive("every codebook size", size)
        if self.batching not in get_args(Batching):
            raise InputError(f"batching must be one of {get_args(Batching)}, not {self.batching!r}")

    @property
    def num_codebooks(self) -> int:
        """K, rows of tokens."""
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Token frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of fixed-length codes: frame rate times the sum of log2 V."""
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def vocab_size(self) -> int:
        """Distinct tokens when each row has ids of its own: the sum of V."""
        return sum(self.codebook_sizes)

    def truncate(self, num_codebooks: int) -> "Spec":
        """The same with only the first rows of tokens."""
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise InputError(f"{self.name} has 1 to {self.num_codebooks} codebooks, not {num_codebooks}")
        return replace(self, codebook_sizes=self.codebook_sizes[:num_codebooks])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "codebook_sizes": list(self.codebook_sizes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        """The inverse of `to_dict`. Raises `InputError` when a field is missing, unknown or of the wrong type."""
        unknown = sorted(set(values) - set(_TYPES))
        if unknown:
            raise InputError(f"a Spec has no field {', '.join(unknown)}: was it written by a newer audiotok?")
        for name, value in values.items():
            wanted = _TYPES[name]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise InputError(f"Spec field {name} cannot be {value!r}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"a Spec is incomplete: {error}") from error


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "batching"), str),
    **dict.fromkeys(("sample_rate", "hop_length", "channels"), int),
    **dict.fromkeys(("decodable", "streamable", "nested"), bool),
    "codebook_sizes": (list, tuple),
}


def _positive(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} must be a whole number of at least 1, not {value!r}")
