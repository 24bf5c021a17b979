"""`CodeStatistics`: which entries of the codebooks a data set uses, and how many bits its codes really need."""

import hashlib
import math
from bisect import insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import CodesMismatchError, InputError
from ..lm import compress_bytes
from ..spec import Spec

_LONGEST = 1000  # frames of an item that are coded: padded to the longest, many items must still fit in memory


@dataclass(frozen=True)
class CodebookUse:
    """How a data set uses one codebook.

    Attributes:
        size: V.
        used: entries that occur.
        entropy_bits: of the tokens' frequencies, 0 to log2 V. Where there are not many more tokens than entries, it is
            below the entropy of the source, and so are the figures that follow from it.
    """

    size: int
    used: int
    entropy_bits: float

    @property
    def usage(self) -> float:
        """Share of the entries that occur, 0 to 1."""
        return self.used / self.size

    @property
    def dead(self) -> int:
        """Entries that never occur."""
        return self.size - self.used

    @property
    def perplexity(self) -> float:
        """2^entropy: equally likely entries that would have this entropy, 1 to V."""
        return float(2.0**self.entropy_bits)


@dataclass(frozen=True)
class CodeSummary:
    """What `CodeStatistics` found. Rates are of the nominal frame rate, so that they can be compared; the last frame of
    an item, which is counted whole, does not blur them.

    Attributes:
        items: rows of audio.
        frames: in all of them.
        seconds: of audio.
        tokens_per_second: frame rate times K.
        nominal_bps: bits per second at log2 V for each token, `Spec.bitrate_bps`.
        entropy_bps: bits per second at each codebook's entropy: what a table of frequencies reaches.
        adaptive_bps: bits per second under the adaptive coding of `audiotok.lm.compress`, with nothing known before
            the first token; None where it was not asked for. It is a size reached, the entropy an estimate.
        adaptive_frames: that it was measured on. More frames, lower rate: the coder learns as it goes.
        codebooks: K of them.
    """

    items: int
    frames: int
    seconds: float
    tokens_per_second: float
    nominal_bps: float
    entropy_bps: float
    adaptive_bps: float | None
    adaptive_frames: int
    codebooks: tuple[CodebookUse, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with those of the properties."""
        codebooks = [
            {**asdict(one), "usage": one.usage, "dead": one.dead, "perplexity": one.perplexity}
            for one in self.codebooks
        ]
        return {**asdict(self), "codebooks": codebooks}


class CodeStatistics:
    """Counts the codes of a data set, item by item, in as many processes as there are.

    What is kept is the count of each token, and a sample of the items for adaptive coding: those whose tokens have the
    smallest SHA-256. So the result does not depend on the order of items or on which process took which.

    Args:
        spec: of the codes.
        adaptive_frames: that the sample has at least, where there are so many; of an item, at most the first 1000.

    Raises:
        InputError: `adaptive_frames` below 1.

    Example:
        >>> spec = Spec("demo", sample_rate=100, hop_length=2, codebook_sizes=(4,))
        >>> tokens = torch.tensor([[[0, 1, 1, 0]]])
        >>> statistics = CodeStatistics(spec)
        >>> statistics.add(Codes(tokens, torch.tensor([4]), torch.tensor([8]), spec))
        >>> found = statistics.summary(adaptive=False)
        >>> found.nominal_bps, found.entropy_bps, found.codebooks[0].usage, found.codebooks[0].perplexity
        (100.0, 50.0, 0.5, 2.0)
    """

    def __init__(self, spec: Spec, *, adaptive_frames: int = 20_000) -> None:
        if adaptive_frames < 1:
            raise InputError(f"adaptive coding needs at least 1 frame, not {adaptive_frames}")
        self.spec, self.adaptive_frames = spec, adaptive_frames
        self._items = self._frames = self._samples = 0
        self._counts: list[Counter[int]] = [Counter() for _ in spec.codebook_sizes]
        self._sample: list[tuple[str, list[list[int]]]] = []  # digest and tokens [K][F], ascending

    def add(self, codes: Codes) -> None:
        """Counts the tokens of one or more rows.

        Raises:
            CodesMismatchError: of another tokenizer or number of codebooks. InputError: a token outside its codebook.
        """
        if codes.spec != self.spec:
            raise CodesMismatchError(
                f"these statistics are of {self.spec.name} with codebooks {self.spec.codebook_sizes}, "
                f"not of {codes.spec.name} with {codes.spec.codebook_sizes}"
            )
        rows = [row.tokens[0].cpu() for row in codes]
        for row in rows:
            self._check(row)
        for row in rows:
            tokens = row.tolist()
            for counts, one in zip(self._counts, tokens, strict=True):
                counts.update(one)
            if tokens[0]:
                part = row[:, :_LONGEST].contiguous()
                insort(self._sample, (hashlib.sha256(part.numpy().tobytes()).hexdigest(), part.tolist()))
            self._frames += row.shape[1]
        self._items += len(codes)
        self._samples += int(codes.num_samples.sum())
        self._cut()

    def merge(self, other: "CodeStatistics") -> None:
        """Adds what another one, of other items, has counted.

        Raises:
            CodesMismatchError: it is of another tokenizer. InputError: it keeps a sample of another size.
        """
        if other.spec != self.spec:
            raise CodesMismatchError(f"statistics of {other.spec.name} cannot be added to those of {self.spec.name}")
        if other.adaptive_frames != self.adaptive_frames:
            raise InputError(
                f"statistics with adaptive_frames={other.adaptive_frames} cannot be added to those with "
                f"{self.adaptive_frames}"
            )
        for counts, more in zip(self._counts, other._counts, strict=True):
            counts.update(more)
        self._items += other._items
        self._frames += other._frames
        self._samples += other._samples
        self._sample = sorted([*self._sample, *other._sample])
        self._cut()

    def summary(self, *, adaptive: bool = True) -> CodeSummary:
        """The figures so far.

        Args:
            adaptive: whether to code the sample, which takes some seconds, and constriction:
                `pip install 'audiotok[lm]'`.

        Raises:
            InputError: there is not a single frame, or a codebook has more entries than can be coded (2^20).
            MissingDependencyError: constriction is not installed.
        """
        if not self._frames:
            raise InputError("there is not a single frame of codes to count")
        codebooks = tuple(
            CodebookUse(size, len(counts), _entropy_bits(counts))
            for size, counts in zip(self.spec.codebook_sizes, self._counts, strict=True)
        )
        rate, frames = self.spec.frame_rate, sum(len(tokens[0]) for _, tokens in self._sample)
        return CodeSummary(
            items=self._items,
            frames=self._frames,
            seconds=self._samples / self.spec.sample_rate,
            tokens_per_second=rate * self.spec.num_codebooks,
            nominal_bps=self.spec.bitrate_bps,
            entropy_bps=rate * sum(one.entropy_bits for one in codebooks),
            adaptive_bps=rate * self._adaptive_bits() / frames if adaptive else None,
            adaptive_frames=frames if adaptive else 0,
            codebooks=codebooks,
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {
            "spec": self.spec.to_dict(),
            "adaptive_frames": self.adaptive_frames,
            "items": self._items,
            "frames": self._frames,
            "samples": self._samples,
            "counts": [[list(pair) for pair in sorted(counts.items())] for counts in self._counts],
            "sample": [list(one) for one in self._sample],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CodeStatistics":
        """The inverse of `to_dict`. Raises `InputError` for anything else."""
        try:
            found = cls(Spec.from_dict(values["spec"]), adaptive_frames=values["adaptive_frames"])
            found._items, found._frames, found._samples = (int(values[n]) for n in ("items", "frames", "samples"))
            found._counts = [Counter(dict(pairs)) for pairs in values["counts"]]
            found._sample = [(digest, tokens) for digest, tokens in values["sample"]]
            if len(found._counts) != found.spec.num_codebooks:
                raise ValueError(f"counts of {len(found._counts)} codebooks, not of {found.spec.num_codebooks}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these are no statistics of codes: {error!r}") from error
        return found

    def _check(self, row: Tensor) -> None:
        for k, (tokens, size) in enumerate(zip(row, self.spec.codebook_sizes, strict=True)):
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
                raise InputError(
                    f"codebook {k} has tokens 0 to {size - 1}, not {int(tokens.min())}..{int(tokens.max())}"
                )

    def _cut(self) -> None:
        """Leaves the first items of the sample that are enough: those of a whole are among those of its parts."""
        frames = 0
        for count, (_, tokens) in enumerate(self._sample, 1):
            frames += len(tokens[0])
            if frames >= self.adaptive_frames:
                del self._sample[count:]
                break

    def _adaptive_bits(self) -> int:
        rows = [torch.tensor(tokens)[None] for _, tokens in self._sample]
        lengths = torch.tensor([row.shape[2] for row in rows])
        longest = int(lengths.max())
        tokens = torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[2])) for row in rows])
        _, found = compress_bytes(Codes(tokens, lengths, lengths * self.spec.hop_length, self.spec))
        return 8 * found.payload_bytes


def _entropy_bits(counts: Counter[int]) -> float:
    total = counts.total()
    bits = math.fsum(count * math.log2(total / count) for count in counts.values()) / total
    return max(0.0, bits)
