"""`TokenSequence`, what the exporters take and their readers give, and `TokenFile`, many of them mapped from files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError

Ids = Tensor | NDArray[Any] | Sequence[int]


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """One sequence of token ids with what is known of it.

    Attributes:
        ids: [N] whole numbers: a tensor, an array or a list.
        id: a name, such as that of the audio; empty when there is none.
        metadata: anything else that JSON can hold.
    """

    ids: Ids
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    """What an exporter wrote.

    Attributes:
        sequences: number of them.
        tokens: ids in all of them.
        files: written, in the order in which they appeared.
    """

    sequences: int
    tokens: int
    files: tuple[str, ...]


class TokenFile(Sequence[NDArray[Any]]):
    """Sequences of ids in one flat array, mapped from a file: only what is looked at is read.

    Attributes:
        tokens: [total] of all sequences, one after the other.
        offsets: [len + 1] int64: sequence i is `tokens[offsets[i]:offsets[i + 1]]`.

    Example:
        >>> file = TokenFile(np.array([5, 6, 7]), np.array([0, 1, 3]))
        >>> len(file), file[1].tolist(), file[-2].tolist()
        (2, [6, 7], [5])
    """

    def __init__(self, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        self.tokens, self.offsets = tokens, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """Sequence `index` as an array that must not be written to; for a slice a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        index %= len(self)
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def checked(sequences: Iterable[Ids | TokenSequence], vocab_size: int | None) -> Iterator[TokenSequence]:
    """The sequences, each with its ids as an array [N] of integers that was found fit for a vocabulary.

    Raises:
        InputError: ids that are no whole numbers, not in one row, none at all, negative, or not below `vocab_size`.
    """
    for number, given in enumerate(sequences):
        one = given if isinstance(given, TokenSequence) else TokenSequence(given)
        name = f"sequence {number}" + (f" ({one.id})" if one.id else "")
        ids = one.ids.detach().cpu().numpy() if isinstance(one.ids, torch.Tensor) else np.asarray(one.ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise InputError(
                f"{name} must be one row of at least one whole number, not {list(ids.shape)} {ids.dtype}: leave out "
                "what is empty"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            wanted = "at least 0" if vocab_size is None else f"0 to {vocab_size - 1}"
            raise InputError(f"{name} holds the id {low if low < 0 else high}, wanted {wanted}")
        yield TokenSequence(ids, one.id, one.metadata)
