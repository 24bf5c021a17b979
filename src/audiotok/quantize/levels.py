"""Codes of several frame rates as one rectangle of tokens and back, as `Spec.row_levels` describes it."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from .multiscale import pack_levels, unpack_levels


def pack(levels: Sequence[Tensor]) -> Tensor:
    """Codes of several levels, each with a whole number of codes for every code of the first, as one rectangle.

    Row 0 is the first level; a level with n codes for each of its codes has n rows, row j holding codes j, n + j,
    2n + j and so on.

    Args:
        levels: integers [B, n·F] of each level, the first [B, F], F at least 1.

    Returns:
        [B, Σ n, F], inverse of `unpack`.

    Raises:
        InputError: no levels, none of F, or a level that is no multiple of F long.

    Example:
        >>> import torch
        >>> pack([torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6]])])
        tensor([[[1, 2],
                 [3, 5],
                 [4, 6]]])
    """
    frames = levels[0].shape[-1] if levels else 0
    if not frames:
        raise InputError("nothing to pack: the first level needs at least one code")
    return pack_levels(levels, [level.shape[-1] // frames for level in levels])


def unpack(tokens: Tensor, row_levels: Sequence[int]) -> list[Tensor]:
    """The codes of each level in time order, inverse of `pack`.

    Args:
        tokens: [B, K, F].
        row_levels: level of each row, ascending (`Spec.row_levels`); empty where every row is a level of its own.

    Returns:
        [B, n·F] for each level, n being its rows.

    Raises:
        InputError: row_levels is not as long as there are rows, or does not ascend.

    Example:
        >>> import torch
        >>> unpack(torch.tensor([[[1, 2], [3, 5], [4, 6]]]), (0, 1, 1))
        [tensor([[1, 2]]), tensor([[3, 4, 5, 6]])]
    """
    if list(row_levels) != sorted(row_levels):
        raise InputError(f"row_levels must ascend, not {list(row_levels)}")
    rows = Counter(row_levels or range(tokens.shape[1]))
    return unpack_levels(tokens, list(rows.values()))
