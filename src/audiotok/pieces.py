"""Which rows share a call of a network, and how long ones are cut into pieces."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def group_rows(sizes: Sequence[int], *, one_by_one: bool, max_padding: float = 0.0) -> list[list[int]]:
    """Indices of the rows that share a call: each alone, or rows of like size together.

    Args:
        sizes: of the rows.
        one_by_one: each alone.
        max_padding: largest share of the longest row of a group that another may lack; 0 wants equal sizes, 1 puts
            all rows together.

    Example:
        >>> group_rows([4, 7, 4], one_by_one=False), group_rows([4, 7], one_by_one=True)
        ([[1], [0, 2]], [[0], [1]])
        >>> group_rows([90, 100, 50], one_by_one=False, max_padding=0.25)
        [[1, 0], [2]]
    """
    if one_by_one:
        return [[i] for i in range(len(sizes))]
    groups: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if groups and sizes[i] >= (1 - max_padding) * sizes[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Where the pieces of a signal begin and end: as few as there can be of at most `step`, all of about one length.
    Products of few rows are computed by other kernels than those of many and round otherwise, so a short last piece
    would not be quite what it is within a longer one.

    Example:
        >>> list(spans(10, 4)), list(spans(8, 4)), list(spans(1, 4))
        ([(0, 3), (3, 6), (6, 10)], [(0, 4), (4, 8)], [(0, 1)])
    """
    count = -(-total // step)
    for piece in range(count):
        yield piece * total // count, (piece + 1) * total // count


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
