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
        sample_rate: of the audio in, in Hz.
        hop_length: samples in per token frame.
        codebook_sizes: V of each row of tokens, K of them.
        channels: of the audio, 1 or 2.
        decodable: whether `decode` exists.
        streamable: whether `stream` exists.
        nested: whether the first k rows of tokens decode without the others (residual quantizers).
        batching: "mask" when the network honours lengths in a padded batch; "bucket" when only rows of equal
            length may share a batch.
        output_sample_rate: of the audio out, in Hz; 0 means `sample_rate`.
        row_levels: where several rows are consecutive codes of one finer level (SNAC), the level of each row,
            coarsest first: (0, 1, 1, 2, 2, 2, 2). Empty when every row is a level of its own. Rows of a level stay
            together: `truncate` and `use_codebooks` take whole levels.
        segmented: whether frames belong to segments with values of their own in `extras` (EnCodec 48 kHz), so that
            codes cannot be cut in time.

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
    output_sample_rate: int = 0
    row_levels: tuple[int, ...] = ()
    segmented: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        object.__setattr__(self, "row_levels", tuple(self.row_levels))
        if self.output_sample_rate == 0:
            object.__setattr__(self, "output_sample_rate", self.sample_rate)
        for field in ("sample_rate", "hop_length", "channels", "output_sample_rate"):
            _positive(field, getattr(self, field))
        if self.hop_length * self.output_sample_rate % self.sample_rate:
            raise InputError(
                f"a hop of {self.hop_length} samples at {self.sample_rate} Hz is no whole number of samples at "
                f"{self.output_sample_rate} Hz"
            )
        levels = self.row_levels
        if levels and (len(levels) != len(self.codebook_sizes) or list(levels) != sorted(levels)):
            raise InputError(f"row_levels must name a level for each row, coarsest first, not {levels}")
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
    def output_hop_length(self) -> int:
        """Samples out per token frame."""
        return self.hop_length * self.output_sample_rate // self.sample_rate

    def output_samples(self, num_samples: int) -> int:
        """Samples that `decode` gives for audio of so many samples in: as long in seconds, rounded up."""
        return -(-num_samples * self.output_sample_rate // self.sample_rate)

    @property
    def vocab_size(self) -> int:
        """Distinct tokens when each row has ids of its own: the sum of V."""
        return sum(self.codebook_sizes)

    def truncate(self, num_codebooks: int) -> "Spec":
        """The same with only the first rows of tokens."""
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise InputError(f"{self.name} has 1 to {self.num_codebooks} codebooks, not {num_codebooks}")
        if self.row_levels and num_codebooks < self.num_codebooks:
            whole = [i for i in range(1, self.num_codebooks) if self.row_levels[i] != self.row_levels[i - 1]]
            if num_codebooks not in whole:
                counts = ", ".join(str(count) for count in [*whole, self.num_codebooks])
                raise InputError(f"the rows of {self.name} form levels: take {counts} of them, not {num_codebooks}")
        return replace(
            self, codebook_sizes=self.codebook_sizes[:num_codebooks], row_levels=self.row_levels[:num_codebooks]
        )

    def codebooks_for(self, kbps: float) -> int:
        """The most codebooks that a bandwidth in kilobits per second holds, at least 1 (or one whole level)."""
        bits, best = 0.0, 0
        for count, size in enumerate(self.codebook_sizes, 1):
            bits += math.log2(size) * self.frame_rate
            last_of_level = (
                not self.row_levels or self.row_levels[count : count + 1] != self.row_levels[count - 1 : count]
            )
            if last_of_level and (best == 0 or bits <= 1000 * kbps * (1 + 1e-9)):
                best = count
        return best

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is not usual is named only where it holds, so that fingerprints stay."""
        values = {**asdict(self), "codebook_sizes": list(self.codebook_sizes), "row_levels": list(self.row_levels)}
        usual = {"output_sample_rate": self.sample_rate, "row_levels": [], "segmented": False}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

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
    **dict.fromkeys(("sample_rate", "hop_length", "channels", "output_sample_rate"), int),
    **dict.fromkeys(("decodable", "streamable", "nested", "segmented"), bool),
    **dict.fromkeys(("codebook_sizes", "row_levels"), (list, tuple)),
}


def _positive(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} must be a whole number of at least 1, not {value!r}")
