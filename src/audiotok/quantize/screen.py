"""A first pass in bfloat16 for the exact nearest search, on CPUs that multiply bfloat16 natively.

The product of rounded vectors is about four times as fast and finds the answer for most rows: how far rounding can
move a score is known row by row, so a best entry that leads by more than that is certain. For the other rows the few
entries within reach are compared in float64. The answer is the same as without this pass; only the time differs.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .exact import exact_among

FOLDS = 16  # the score row is searched in this many slices
_BIAS = 3  # a half norm is the sum of three bfloat16 numbers, to 2^-24
_ROUNDOFF = 2.0**-8  # unit roundoff of bfloat16, in which the scores come back


@dataclass(frozen=True)
class CoarseTable:
    """A codebook in bfloat16, its half squared norms as further values of each entry."""

    entries: Tensor  # [P, D + a few] bfloat16
    rounding: float  # largest |c − rounded c| / |c|

    @classmethod
    def of(cls, padded: Tensor, half_norms: Tensor) -> "CoarseTable | None":
        """For padded entries [P, D] and half norms [P]; None where it would not pay, or would not be safe."""
        size, width = padded.shape
        if padded.device.type != "cpu" or not fast_bfloat16() or size < 256 or width < 32 or size % FOLDS:
            return None
        finite = half_norms.isfinite()
        norms = half_norms[finite].mul(2).sqrt_()
        if not norms.numel() or not 1e-12 < norms.max() < 1e12:  # native products flush tiny numbers to zero
            return None
        entries = torch.zeros(size, -(-(width + _BIAS) // 16) * 16, dtype=torch.bfloat16)
        entries[:, :width] = padded
        rest = half_norms.clone()
        for column in range(width, width + _BIAS):
            entries[:, column] = -rest
            rest = torch.where(finite, rest + entries[:, column].float(), 0.0)
        errors = torch.linalg.vector_norm(padded - entries[:, :width].float(), dim=1)[finite]
        return cls(entries, float((errors / norms.clamp(min=1e-30)).max()))


def screen(
    x: Tensor, entries: Tensor, half_norms: Tensor, largest: float, coarse: CoarseTable, buffer: Tensor
) -> Tensor:
    """Index [N] of the entry nearest to each of the rows x [N, D]: `nearest` for one buffer of rows.

    Args:
        x: [N, D] rows of any float type.
        entries: [V, D] float32.
        half_norms: [P]; infinite in the padding.
        largest: largest norm of an entry.
        coarse: the same codebook in bfloat16.
        buffer: [N, P] bfloat16, for the scores.

    Returns:
        [N] int64.
    """
    x32, size = x.float(), len(entries)
    width = x.shape[1]
    rounded = torch.zeros(len(x), coarse.entries.shape[1], dtype=torch.bfloat16)
    rounded[:, :width] = x32
    rounded[:, width : width + _BIAS] = 1
    scores = torch.mm(rounded, coarse.entries.t(), out=buffer)
    folded = scores.view(len(x), FOLDS, -1)
    columns = folded.amax(1)
    best, column = columns.max(1, keepdim=True)
    within = folded.gather(2, column[:, None].expand(-1, FOLDS, 1))[:, :, 0]
    fold = within.max(1, keepdim=True).indices
    found = (fold * folded.shape[2] + column)[:, 0].clamp_(max=size - 1)  # a row of NaN could find the padding
    columns.scatter_(1, column, -torch.inf)
    within.scatter_(1, fold, -torch.inf)
    second = torch.maximum(columns.amax(1), within.amax(1)).float()
    columns.scatter_(1, column, best)

    lead = best[:, 0].float()
    norms = torch.linalg.vector_norm(x32, dim=1)
    lost = torch.linalg.vector_norm(x32 - rounded[:, :width].float(), dim=1)
    # |error of a score| <= slope · |c| + 2^-8 |score| for an entry c; the sum itself is made in float32.
    slope = lost + coarse.rounding * (norms + lost)
    sums = (width + 8) * 2.0**-22
    found_norms = half_norms[found].mul_(2).sqrt_()
    error = (slope + sums * (norms + found_norms)) * found_norms + _ROUNDOFF * lead.abs()
    # As in `nearest`: what is better than the entry found is no farther, so not longer than |x| + d.
    distances = (norms.square() - 2 * lead + 2.1 * error).clamp_(min=0).sqrt_()
    limit = (norms + distances).mul_(1.001).clamp_(max=largest)
    bound = ((slope + sums * (norms + limit)) * limit + _ROUNDOFF * lead.abs()).mul_(1.03)
    bound += width * 2.0**-125 * (1 + limit)  # tiny numbers and products are flushed to zero
    unsure = (lead - second <= 2 * bound).nonzero()[:, 0]

    if len(unsure):
        floor = (lead - 2 * bound)[unsure]
        found[unsure] = _among_contenders(x, unsure, folded, columns[unsure], floor, entries)
    return found


def _among_contenders(
    x: Tensor, rows: Tensor, folded: Tensor, columns: Tensor, floor: Tensor, entries: Tensor
) -> Tensor:
    """Index [U] of the nearest entry to each of the `rows` of x, among those whose score reaches its floor [U]."""
    row, place = (columns >= floor[:, None]).nonzero().unbind(1)  # first the columns, then the place in them
    max_bytes = 2 * folded.numel()
    if 16 * FOLDS * len(row) > max_bytes and len(rows) > 1:  # only if very many entries are nearly equal
        half = len(rows) // 2
        parts = [
            _among_contenders(x, rows[part], folded, columns[part], floor[part], entries)
            for part in (slice(half), slice(half, None))
        ]
        return torch.cat(parts)
    values = folded[rows[row], :, place]  # [pairs, folds]
    pair, slot = (values >= floor[row, None]).nonzero().unbind(1)
    entry = slot * folded.shape[2] + place[pair]
    return exact_among(x[rows], row[pair], entry, entries, max_bytes)


@functools.cache
def fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # in torch 2.6 and later
    return any(getattr(torch.cpu, test, bool)() for test in tests)
