"""`Codes`: the tokens of a batch with everything needed to decode, cut, join and store them."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike

import torch
from torch import Tensor

from .checkpoint import read_safetensors, read_safetensors_metadata, write_safetensors
from .errors import CheckpointError, CodesMismatchError, InputError, UnsupportedError
from .spec import Spec


@dataclass(frozen=True, eq=False)
class Codes:
    """Tokens of B audio rows.

    Attributes:
        tokens: [B, K, F] int64; row 0 of K is the first quantizer. Frames beyond a row's length hold 0.
        lengths: [B] int64, valid frames of each row.
        num_samples: [B] int64, audio samples of each row, at `spec.sample_rate`: `decode` gives back as many, or as
            long in seconds where `spec.output_sample_rate` is another.
        spec: of the tokenizer that made them.
        fingerprint: of the tokenizer that made them; another one refuses to decode.
        extras: values beside the tokens (scales, speaker vectors), each with B in front; where rows need different
            sizes, zeros fill up the smaller ones.

    Example:
        >>> spec = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(10, 10))
        >>> codes = Codes(torch.ones(2, 2, 5, dtype=torch.int64), torch.tensor([5, 3]),
        ...               torch.tensor([1600, 900]), spec)
        >>> codes[1].tokens.shape, codes.truncate(1).tokens.shape
        (torch.Size([1, 2, 3]), torch.Size([2, 1, 5]))
    """

    tokens: Tensor
    lengths: Tensor
    num_samples: Tensor
    spec: Spec
    fingerprint: str = ""
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens, lengths, num_samples = self.tokens, self.lengths, self.num_samples
        if tokens.dim() != 3 or tokens.dtype != torch.int64:
            raise InputError(f"tokens must be [B, K, F] int64, not {list(tokens.shape)} {tokens.dtype}")
        if tokens.shape[1] != self.spec.num_codebooks:
            raise InputError(
                f"{tokens.shape[1]} rows of tokens, but {self.spec.name} has {self.spec.num_codebooks} codebooks"
            )
        for name, value in (("lengths", lengths), ("num_samples", num_samples)):
            if value.shape != tokens.shape[:1] or value.dtype != torch.int64:
                raise InputError(f"{name} must be [{len(tokens)}] int64, not {list(value.shape)} {value.dtype}")
        for name, value in self.extras.items():
            if value.shape[:1] != tokens.shape[:1]:
                raise InputError(f"extras[{name!r}] must begin with B = {len(tokens)}, not {list(value.shape)}")

    def __len__(self) -> int:
        """B."""
        return len(self.tokens)

    def __getitem__(self, index: int) -> "Codes":
        """Row `index` as a batch of one, cut to its own length."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        rows = slice(index, index + 1)
        return replace(
            self,
            tokens=self.tokens[rows, :, : int(self.lengths[index])],
            lengths=self.lengths[rows],
            num_samples=self.num_samples[rows],
            extras={name: value[rows] for name, value in self.extras.items()},
        )

    def __iter__(self) -> Iterator["Codes"]:
        return (self[index] for index in range(len(self)))

    @property
    def mask(self) -> Tensor:
        """[B, F] bool, True on valid frames."""
        frames = torch.arange(self.tokens.shape[2], device=self.tokens.device)
        return frames < self.lengths[:, None]

    def to(self, device: torch.device | str) -> "Codes":
        """The same on another device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            lengths=self.lengths.to(device),
            num_samples=self.num_samples.to(device),
            extras={name: value.to(device) for name, value in self.extras.items()},
        )

    def pin_memory(self) -> "Codes":
        """The same in page-locked memory, as `DataLoader(pin_memory=True)` asks for."""
        return replace(
            self,
            tokens=self.tokens.pin_memory(),
            lengths=self.lengths.pin_memory(),
            num_samples=self.num_samples.pin_memory(),
            extras={name: value.pin_memory() for name, value in self.extras.items()},
        )

    def truncate(self, num_codebooks: int) -> "Codes":
        """Only the first rows of tokens: a lower bit rate, where `spec.nested` says that they decode alone."""
        return replace(self, tokens=self.tokens[:, :num_codebooks], spec=self.spec.truncate(num_codebooks))

    def slice(self, start_s: float, end_s: float) -> "Codes":
        """The frames that cover start_s to end_s, in seconds: from floor(start · frame rate) on, before
        ceil(end · frame rate), each row cut where it ends.

        Raises:
            InputError: the interval is empty or begins after the end of a row. UnsupportedError: the frames belong
                to segments with values of their own.
        """
        if self.spec.segmented:
            raise UnsupportedError(f"codes of {self.spec.name} cannot be cut in time: cut the audio before encoding it")
        if not 0 <= start_s < end_s:
            raise InputError(f"wanted 0 <= start_s < end_s, not {start_s} and {end_s}")
        start, end = math.floor(start_s * self.spec.frame_rate), math.ceil(end_s * self.spec.frame_rate)
        first_sample, last_sample = start * self.spec.hop_length, end * self.spec.hop_length
        lengths = self.lengths.clamp(max=end) - start
        num_samples = self.num_samples.clamp(max=last_sample) - first_sample
        if bool(((lengths < 1) | (num_samples < 1)).any()):
            shortest = float(self.num_samples.min()) / self.spec.sample_rate
            raise InputError(f"the slice begins at {start_s} s, but the shortest row has {shortest:.3f} s")
        return replace(self, tokens=self.tokens[:, :, start:end], lengths=lengths, num_samples=num_samples)

    @classmethod
    def batch(cls, rows: Sequence["Codes"]) -> "Codes":
        """Joins codes of the same tokenizer along B, padding tokens with 0.

        Raises:
            InputError: nothing to join. CodesMismatchError: codes of different tokenizers.
        """
        if not rows:
            raise InputError("nothing to join: Codes.batch wants at least one Codes")
        first = rows[0]
        for row in rows:
            if (row.spec, row.fingerprint) != (first.spec, first.fingerprint):
                raise CodesMismatchError(
                    f"cannot join codes of {row.spec.name} with codes of {first.spec.name}: "
                    "they come from different tokenizers or numbers of codebooks"
                )
            if row.extras.keys() != first.extras.keys():
                raise CodesMismatchError(f"extras differ: {sorted(row.extras)} and {sorted(first.extras)}")
        frames = max(row.tokens.shape[2] for row in rows)
        tokens = [torch.nn.functional.pad(row.tokens, (0, frames - row.tokens.shape[2])) for row in rows]
        return replace(
            first,
            tokens=torch.cat(tokens),
            lengths=torch.cat([row.lengths for row in rows]),
            num_samples=torch.cat([row.num_samples for row in rows]),
            extras={name: _joined([row.extras[name] for row in rows]) for name in first.extras},
        )

    @classmethod
    def join(cls, pieces: Sequence["Codes"]) -> "Codes":
        """Joins codes of consecutive pieces of the same audio along F, such as a stream gives.

        Raises:
            InputError: nothing to join, or a piece whose rows differ in length. CodesMismatchError: codes of different
                tokenizers, or with values beside the tokens, which belong to whole audio.
        """
        if not pieces:
            raise InputError("nothing to join: Codes.join wants at least one Codes")
        first = pieces[0]
        for piece in pieces:
            if (piece.spec, piece.fingerprint, len(piece)) != (first.spec, first.fingerprint, len(first)):
                raise CodesMismatchError(
                    f"cannot join {len(first)} rows of {first.spec.name} with {len(piece)} rows of {piece.spec.name}: "
                    "they come from different tokenizers, numbers of codebooks or batches"
                )
            if piece.extras:
                raise CodesMismatchError(
                    f"codes with {', '.join(piece.extras)} beside the tokens cannot be joined in time"
                )
            if bool((piece.lengths != piece.tokens.shape[2]).any()):
                raise InputError("only pieces whose rows are equally long can be joined in time")
        return replace(
            first,
            tokens=torch.cat([piece.tokens for piece in pieces], 2),
            lengths=torch.stack([piece.lengths for piece in pieces]).sum(0),
            num_samples=torch.stack([piece.num_samples for piece in pieces]).sum(0),
        )

    def unbatch(self) -> list["Codes"]:
        """One Codes per row, each cut to its own length."""
        return list(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a safetensors file: tokens in the smallest integer type, facts as JSON in its metadata."""
        largest = max(self.spec.codebook_sizes) - 1
        dtype = torch.uint8 if largest < 2**8 else torch.uint16 if largest < 2**16 else torch.int64
        tensors = {f"extras.{name}": value for name, value in self.extras.items()}
        tensors |= {"tokens": self.tokens.to(dtype), "lengths": self.lengths, "num_samples": self.num_samples}
        facts = {"spec": self.spec.to_dict(), "fingerprint": self.fingerprint}
        write_safetensors(path, tensors, {"audiotok.codes": json.dumps(facts, sort_keys=True)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Codes":
        """Reads what `save` wrote, onto the CPU.

        Raises:
            CheckpointError: no such file, not of this kind, or its contents contradict each other.
        """
        metadata, tensors = read_safetensors_metadata(path), read_safetensors(path)
        try:
            facts = json.loads(metadata["audiotok.codes"])
            spec, fingerprint = Spec.from_dict(facts["spec"]), str(facts["fingerprint"])
            codes = cls(
                tokens=tensors.pop("tokens").to(torch.int64),
                lengths=tensors.pop("lengths"),
                num_samples=tensors.pop("num_samples"),
                spec=spec,
                fingerprint=fingerprint,
                extras={name.removeprefix("extras."): value for name, value in tensors.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a file of audiotok codes: {error!r}") from error
        if bool(((codes.lengths < 0) | (codes.lengths > codes.tokens.shape[2]) | (codes.num_samples < 0)).any()):
            raise CheckpointError(f"{path}: lengths do not fit its {codes.tokens.shape[2]} frames")
        return codes


def _joined(values: list[Tensor]) -> Tensor:
    """Values [1, ...] one under the other, smaller ones filled up with zeros."""
    if len({value.shape[1:] for value in values}) > 1:
        sizes = [max(value.shape[axis] for value in values) for axis in range(1, values[0].dim())]
        missing = [[size - have for size, have in zip(sizes, value.shape[1:], strict=True)] for value in values]
        values = [
            torch.nn.functional.pad(value, [end for more in reversed(lack) for end in (0, more)])
            for value, lack in zip(values, missing, strict=True)
        ]
    return torch.cat(values)
