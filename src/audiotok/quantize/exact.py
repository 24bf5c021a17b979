"""Float64 comparison of a few rows with the few entries that may be nearest to each."""

import torch
from torch import Tensor


def exact_among(x: Tensor, row: Tensor, entry: Tensor, entries: Tensor, max_bytes: int) -> Tensor:
    """Index of the nearest entry to each row, among the pairs given.

    Scores x·c − ½|c|² equal to within 1e-13 of |c| (|x| + |c|) are a tie, and the lowest index wins it.

    Args:
        x: [N, D] rows of any float type.
        row, entry: [P] int64; each of the N rows is in at least one pair.
        entries: [V, D] float32.
        max_bytes: largest tensor to make.

    Returns:
        [N] int64.

    Example:
        >>> x, entries = torch.tensor([[0.4]]), torch.tensor([[0.0], [1.0], [0.0]])
        >>> exact_among(x, torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), entries, 1 << 20)
        tensor([0])
    """
    if x.device.type == "mps":  # has no float64
        return exact_among(x.cpu(), row.cpu(), entry.cpu(), entries.cpu(), max_bytes).to(x.device)
    scores = torch.empty(len(row), dtype=torch.float64, device=x.device)
    pairs = max(1, max_bytes // (8 * x.shape[1]))
    for start in range(0, len(row), pairs):
        part = slice(start, start + pairs)
        c = entries.index_select(0, entry[part]).double()
        scores[part] = x.index_select(0, row[part]).double().sub_(c, alpha=0.5).mul_(c).sum(1)
    best = scores.new_full((len(x),), -torch.inf).scatter_reduce_(0, row, scores, "amax")
    norms = x.double().norm(dim=1)
    limit = norms + (norms.square() - 2 * best).clamp_(min=0).sqrt_()  # what ties with the best is no longer
    tie = 1e-13 * limit * (norms + limit)
    candidate = torch.where(scores >= (best - tie)[row], entry, len(entries))
    return entry.new_full((len(x),), len(entries)).scatter_reduce_(0, row, candidate, "amin")
