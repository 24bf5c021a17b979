"""Rows of tokens to batches of tensors, for a DataLoader."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..spec import Spec
from .codes_dataset import CodesRow


class CodesBatch(NamedTuple):
    """B rows of tokens; a named tuple, so that DataLoader can pin it and Accelerate can move it.

    Attributes:
        tokens: [B, K, F] int64, F that of the longest row; frames beyond a row's end hold the pad id.
        lengths: [B] int64, frames of each row.
        mask: [B, F] bool, True on frames of the row.
        num_samples: [B] int64, audio samples of each row.
        ids: of the rows.
        columns: carried columns by name, B values each.
        extras: values beside the tokens by name, each with B in front, smaller ones filled up with zeros.
    """

    tokens: Tensor
    lengths: Tensor
    mask: Tensor
    num_samples: Tensor
    ids: list[str]
    columns: dict[str, list[Any]]
    extras: dict[str, Tensor]


class Collate:
    """Pads rows to a batch: the `collate_fn` of a DataLoader over `open_codes`.

    Args:
        spec: of the tokens.
        pad_id: what fills the frames beyond a row's end, in every codebook. None is the largest codebook's size, the
            first id that is no token: an embedding of V + 1 entries holds it. -100 is what losses of torch leave out.
        allow_token: whether the pad id may be an id that is also a token; mask and lengths tell them apart.

    Raises:
        InputError: the pad id is a token.

    Example:
        >>> spec = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(10, 10))
        >>> rows = [CodesRow("a", torch.ones(2, 3, dtype=torch.int64), 960, 0.0, 0.06),
        ...         CodesRow("b", torch.ones(2, 1, dtype=torch.int64), 300, 0.0, 0.02)]
        >>> batch = Collate(spec)(rows)
        >>> batch.tokens[1].tolist(), batch.lengths.tolist()
        ([[1, 10, 10], [1, 10, 10]], [3, 1])
    """

    def __init__(self, spec: Spec, pad_id: int | None = None, *, allow_token: bool = False) -> None:
        size = max(spec.codebook_sizes)
        if pad_id is not None and 0 <= pad_id < size and not allow_token:
            raise InputError(
                f"pad_id {pad_id} is also a token of {spec.name}, which has 0 to {size - 1}: take {size} or -100, or "
                "allow_token=True"
            )
        self.pad_id = size if pad_id is None else pad_id

    def __call__(self, rows: Sequence[CodesRow]) -> CodesBatch:
        """The batch of at least one row.

        Raises:
            InputError: no row, or rows with different numbers of codebooks.
        """
        if len({row.tokens.shape[0] for row in rows}) != 1:
            raise InputError(f"wanted rows with equally many codebooks, not {[list(row.tokens.shape) for row in rows]}")
        lengths = torch.tensor([row.tokens.shape[1] for row in rows])
        return CodesBatch(
            tokens=_padded([row.tokens for row in rows], self.pad_id),
            lengths=lengths,
            mask=torch.arange(int(lengths.max())) < lengths[:, None],
            num_samples=torch.tensor([row.num_samples for row in rows]),
            ids=[row.id for row in rows],
            columns={name: [row.columns[name] for row in rows] for name in rows[0].columns},
            extras={name: _padded([row.extras[name] for row in rows], 0) for name in rows[0].extras},
        )


def _padded(values: Sequence[Tensor], fill: int) -> Tensor:
    """Values of equal rank one under the other, smaller ones filled up at the end of each axis."""
    sizes = [max(value.shape[axis] for value in values) for axis in range(values[0].dim())]
    padded = values[0].new_full((len(values), *sizes), fill)
    for row, value in zip(padded, values, strict=True):
        row[tuple(slice(size) for size in value.shape)] = value
    return padded
