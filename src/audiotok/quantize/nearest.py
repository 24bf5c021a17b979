"""Nearest codebook entry, exactly: the same answer whatever the batch, the chunk, the device or TF32.

One matrix product gives every score x·c − ½|c|², whose largest entry is the nearest in Euclidean distance.
Float32 products of different shapes round differently, so a frame that lies almost half-way between two
entries could change its code with the size of the batch. The product's error is bounded (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 3.5), so the few rows whose two best scores are closer than
that bound are decided again in float64. No score matrix larger than a byte budget is ever held.

On CPUs with bfloat16 products a first pass in bfloat16 does most of the work; the answer is the same (`screen`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .exact import exact_among
from .screen import CoarseTable, screen

_FOLDS = 32  # the score row is searched in this many slices: two short maxima beat one long arg-max by 1.2
_CPU_BYTES = 8 << 20  # stays near the cache
_GPU_BYTES = 256 << 20
_LEAST_SCREENED = 64  # rows; with fewer a first pass does not pay


@dataclass(frozen=True)
class SearchTable:
    """A codebook made ready for `nearest`: entries padded to whole folds, and half their squared norms."""

    entries: Tensor  # [V, D] float32
    padded: Tensor  # [P, D], P >= V
    half_norms: Tensor  # [P]; infinite in the padding, so that it never wins
    largest: float  # largest |c|
    coarse: CoarseTable | None  # for a first pass in bfloat16, where that pays

    @classmethod
    def of(cls, codebook: Tensor) -> "SearchTable":
        """Prepares a codebook [V, D] of any float type."""
        with torch.no_grad():
            entries = codebook.detach().float().contiguous()
            size, width = entries.shape
            folds = _FOLDS if size >= 4 * _FOLDS else 1
            padded = entries.new_zeros(-(-size // folds) * folds, width)
            padded[:size] = entries
            half_norms = padded.square().sum(1).mul_(0.5)
            largest = float(half_norms.amax().mul(2).sqrt()) if size else 0.0
            half_norms[size:] = torch.inf
            return cls(entries, padded, half_norms, largest, CoarseTable.of(padded, half_norms))


def nearest(x: Tensor, table: SearchTable, *, max_bytes: int | None = None) -> Tensor:
    """Index of the codebook entry nearest to each row; the lowest one on a tie.

    Args:
        x: [N, D] vectors of any float type, on the table's device.
        table: the codebook, from `SearchTable.of`.
        max_bytes: largest score matrix to hold; default 8 MiB on CPU, 256 MiB elsewhere.

    Returns:
        [N] int64 indices.

    Example:
        >>> book = SearchTable.of(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> nearest(torch.tensor([[0.2, 0.1], [0.9, 0.8]]), book)
        tensor([0, 1])
    """
    budget = max_bytes or (_CPU_BYTES if x.device.type == "cpu" else _GPU_BYTES)
    rows = max(1, budget // (4 * len(table.padded)))
    found = torch.empty(len(x), dtype=torch.int64, device=x.device)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        coarse = table.coarse if min(rows, len(x)) >= _LEAST_SCREENED else None
        buffer = (table.padded if coarse is None else coarse.entries).new_empty(min(rows, len(x)), len(table.padded))
        for start in range(0, len(x), rows):
            piece, out = x[start : start + rows], buffer[: len(x) - start]
            if coarse is None:
                found[start : start + rows] = _nearest_piece(piece, table, out)
            else:
                found[start : start + rows] = screen(piece, table.entries, table.half_norms, table.largest, coarse, out)
    return found


def _nearest_piece(x: Tensor, table: SearchTable, buffer: Tensor) -> Tensor:
    size, width = table.entries.shape
    folds = _FOLDS if size >= 4 * _FOLDS else 1
    x32 = x.float()
    scores = torch.addmm(table.half_norms, x32, table.padded.t(), beta=-1, out=buffer)
    folded = scores.view(len(x), folds, -1)  # [N, folds, columns]
    # Best column over all folds, then best fold within it; what is left in both gives the second best score.
    columns = folded.amax(1)
    best, column = columns.max(1, keepdim=True)
    within = folded.gather(2, column[:, None].expand(-1, folds, 1))[:, :, 0]
    fold = within.max(1, keepdim=True).indices
    columns.scatter_(1, column, -torch.inf)
    within.scatter_(1, fold, -torch.inf)
    found = (fold * folded.shape[2] + column)[:, 0].clamp_(max=size - 1)  # a row of NaN could find the padding

    # With the true distance d to the entry found, a better one c has |x − c| <= d and so |c| <= |x| + d. That
    # is a tighter limit than the largest entry's norm, which one outlier would spoil for every row.
    best, second = best[:, 0], torch.maximum(columns.amax(1), within.amax(1))
    norms = torch.linalg.vector_norm(x32, dim=1)
    error = _relative_error(width, x.device)
    found_norms = table.half_norms[found].mul_(2).sqrt_()
    distances = norms.square().sub_(best, alpha=2).add_((norms + found_norms).square_(), alpha=2 * error)
    limit = norms.add(distances.clamp_(min=0).sqrt_()).mul_(1.001).clamp_(max=table.largest)
    bound = error * limit * (norms + limit) + width * 2.0**-125 * (1 + limit)  # the second term: underflow
    unsure = (best - second <= 2 * bound).nonzero()[:, 0]
    for some in torch.split(unsure, max(1, len(buffer) // 8)):  # if all rows are ties, there are many pairs
        floor = best[some] - 2 * bound[some]
        row, entry = (scores[some] >= floor[:, None]).nonzero().unbind(1)
        found[some] = exact_among(x[some], row, entry, table.entries, 4 * buffer.numel())
    return found


def _relative_error(width: int, device: torch.device) -> float:
    """Bound on the error of a score, as a share of |c| (|x| + |c|), under PyTorch's present precision setting."""
    precision = torch.get_float32_matmul_precision()
    operands = 0.0  # rounding of the operands
    if precision != "highest":
        if device.type == "cuda":
            operands = 2.0**-11  # TensorFloat-32, or three bfloat16 products
        elif precision == "medium":
            operands = 2.0**-8  # oneDNN may use bfloat16
    return 2.05 * operands + (width + 4) * (2.0**-23 if operands else 2.0**-24)
