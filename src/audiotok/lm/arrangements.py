"""Where each token of [K, F] lies in a sequence, as numbers: every layout is one of two kinds.

A *sequence* [L] is a list of groups of codebooks, one group after the other, each frame by frame: flat is one group of
all codebooks, codebook-major a group for each. A *grid* [K, L] shifts each row by its delay. A slot is the number
k·F + f of a token of codebook k and frame f; `BEFORE` and `AFTER` are slots that hold a filling id.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

SEQUENCES = ("flat", "codebook-major", "coarse-first", "depth-first")
GRIDS = ("parallel", "delay")
BEFORE, AFTER = -1, -2


def depth_first(row_levels: Sequence[int]) -> tuple[int, ...]:
    """The rows of a multi-rate codec by the time at which their codes begin, coarse levels first where equal.

    Where each level has a whole multiple of the rows of the one before, this is the walk through the tree of codes
    that visits a code, then all that refine it, then the next.

    Args:
        row_levels: level of each row, ascending (`Spec.row_levels`).

    Example:
        >>> depth_first((0, 1, 1, 2, 2, 2, 2))  # SNAC at 24 kHz: c0, c1a, c2a, c2b, c1b, c2c, c2d
        (0, 1, 3, 4, 2, 5, 6)
    """
    levels = list(row_levels)
    begins = [Fraction(row - levels.index(level), levels.count(level)) for row, level in enumerate(levels)]
    return tuple(sorted(range(len(levels)), key=lambda row: (begins[row], levels[row])))


def groups_of(name: str, num_codebooks: int, row_levels: Sequence[int], coarse: int) -> tuple[tuple[int, ...], ...]:
    """The groups of codebooks of a sequence layout, each with its codebooks in order."""
    rows = tuple(range(num_codebooks))
    if name == "codebook-major":
        return tuple((row,) for row in rows)
    if name == "coarse-first":
        return tuple(group for group in (rows[:coarse], rows[coarse:]) if group)
    if name == "depth-first":
        return (depth_first(row_levels or rows),)
    return (rows,)


def sequence_slots(groups: Sequence[Sequence[int]], frames: int) -> Tensor:
    """Slots [K·F] of a sequence layout.

    Example:
        >>> sequence_slots([(0, 1)], 3)  # flat: codebook 0 and 1 of frame 0, then of frame 1, ...
        tensor([0, 3, 1, 4, 2, 5])
    """
    times = torch.arange(frames)[:, None]
    return torch.cat([(torch.tensor(group) * frames + times).flatten() for group in groups])


def grid_slots(delays: Sequence[int], frames: int) -> Tensor:
    """Slots [K, F + the largest delay] of a grid layout.

    Example:
        >>> grid_slots((0, 1), 3)
        tensor([[ 0,  1,  2, -2],
                [-1,  3,  4,  5]])
    """
    starts = torch.tensor(delays)[:, None]
    times = torch.arange(frames + max(delays)) - starts  # [K, L], of the frame that stands there
    slots = torch.arange(len(delays))[:, None] * frames + times
    return slots.masked_fill(times < 0, BEFORE).masked_fill(times >= frames, AFTER)
