"""Which rows share a call of a network, and how long token rows are decoded piece by piece."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def group_rows(sizes: Sequence[int], *, one_by_one: bool, equal: bool = True) -> list[list[int]]:
    """Indices of the rows that share a call: each alone, all of equal size together, or all together.

    Example:
        >>> group_rows([4, 7, 4], one_by_one=False), group_rows([4, 7], one_by_one=True)
        ([[0, 2], [1]], [[0], [1]])
    """
    if one_by_one:
        return [[i] for i in range(len(sizes))]
    groups: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        groups.setdefault(size if equal else 0, []).append(i)
    return list(groups.values())


def decode_in_pieces(
    tokens: Tensor, decode: Callable[[Tensor], Tensor], *, step: int, context: int | None, hop: int
) -> Tensor:
    """What `decode` gives for all tokens, from pieces that reach `context` frames beyond what is kept of them.

    Args:
        tokens: [B, K, F].
        decode: tokens [B, K, f] to wav [B, C, about f·hop], frame i filling samples i·hop to (i+1)·hop.
        step: frames kept of a piece.
        context: frames on each side that a frame's audio depends on; None decodes all at once.
        hop: samples per frame.
    """
    frames = tokens.shape[2]
    if context is None or frames <= step + 2 * context:
        return decode(tokens)
    kept = []
    for start in range(0, frames, step):
        end = min(start + step, frames)
        first, last = max(0, start - context), min(frames, end + context)
        wav = decode(tokens[:, :, first:last])
        kept.append(wav[:, :, (start - first) * hop : None if end == frames else (end - first) * hop])
    return torch.cat(kept, dim=2)
