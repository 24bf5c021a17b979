"""Sequences of unlike lengths as one padded batch with its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class PaddedIds:
    """A batch of sequences of ids.

    Attributes:
        ids: [B, L] int64, or [B, K, L] of grids.
        mask: [B, L] bool, True on ids that are not padding: a transformer's attention mask.
    """

    ids: Tensor
    mask: Tensor

    def rows(self) -> list[Tensor]:
        """The sequences without their padding, inverse of `pad_ids`."""
        return [ids[..., mask] for ids, mask in zip(self.ids, self.mask, strict=True)]


def pad_ids(rows: Sequence[Tensor], pad: int, *, side: Literal["left", "right"] = "right") -> PaddedIds:
    """Fills up sequences to the length of the longest.

    Args:
        rows: B sequences [L_i] or grids [K, L_i] of ids, all int64 on one device.
        pad: id that fills.
        side: where it is put: right for training, left for generation.

    Raises:
        InputError: no sequences, sequences of unlike kinds, or another side.

    Example:
        >>> batch = pad_ids([torch.tensor([5, 6, 7]), torch.tensor([8])], pad=0)
        >>> batch.ids, batch.mask.sum(1)
        (tensor([[5, 6, 7],
                [8, 0, 0]]), tensor([3, 1]))
    """
    if side not in ("left", "right"):
        raise InputError(f"side is 'left' or 'right', not {side!r}")
    if not rows:
        raise InputError("nothing to pad: wanted at least one sequence of ids")
    if len({row.shape[:-1] for row in rows}) > 1 or rows[0].dim() not in (1, 2):
        raise InputError(f"sequences of one batch must all be [L] or all [K, L], not {[list(r.shape) for r in rows]}")
    lengths = torch.tensor([row.shape[-1] for row in rows], device=rows[0].device)
    longest = int(lengths.max())
    lacking = [longest - row.shape[-1] for row in rows]
    fills = [(lack, 0) if side == "left" else (0, lack) for lack in lacking]
    ids = torch.stack([torch.nn.functional.pad(row, fill, value=pad) for row, fill in zip(rows, fills, strict=True)])
    places = torch.arange(longest, device=ids.device)
    mask = places >= longest - lengths[:, None] if side == "left" else places < lengths[:, None]
    return PaddedIds(ids, mask)
