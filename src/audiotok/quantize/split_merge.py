"""Split and merge: centroids go from where two do the work of one to where one does the work of two.

Lloyd's algorithm only ever moves a centroid a little, so a region that got one too many at the start keeps it. Moves of
this kind are as old as ISODATA (Ball and Hall 1965; Kaukoranta, Fränti and Nevalainen 1998). Here both sides have a
price. Without its centroid, n rows go to the nearest other one, d away: that adds n d² to the squared error. A second
centroid for a cluster cut in two across its first principal axis takes away what `_splits` measures. The cheapest
removal is paired with the best split as long as that gains more, so a round never raises the error. An empty
cluster costs nothing to remove: it is revived, too.
"""

import torch
from torch import Tensor

from .rows import Rows, add_by_cluster

_POWER_STEPS = 2  # of the power iteration: a direction good enough to split along


def split_merge(rows: Rows, found: Tensor, centroids: Tensor) -> tuple[Tensor, int]:
    """Centroids after one round of swaps.

    Args:
        rows: N rows.
        found: [N] int64, the cluster of each.
        centroids: [k, D], the mean of each cluster.

    Returns:
        [k, D] centroids, and the number of swaps.
    """
    step, ahead, count = _splits(rows, found, centroids)
    behind = count - ahead
    gain = step.square().sum(1) * (1 / ahead.clamp(min=1) + 1 / behind.clamp(min=1))
    gain = torch.where(torch.minimum(ahead, behind) > 0, gain, -torch.inf)
    cost, partner = _merges(centroids, count)
    swaps = _pair(cost.tolist(), partner.tolist(), gain.tolist())
    if not swaps:
        return centroids, 0
    freed, split = torch.tensor(swaps, device=centroids.device).t()
    out = centroids.clone()
    out[freed] = centroids[split] + step[split] / ahead[split, None]
    out[split] = centroids[split] - step[split] / behind[split, None]
    return out, len(swaps)


def _splits(rows: Rows, found: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Across each cluster's first principal axis: Σ(x − c) [k, D] of the rows ahead, their number [k], and of all."""
    size, width = centroids.shape
    start = torch.randn(width, generator=torch.Generator().manual_seed(0))
    axes = start.to(centroids).expand(size, -1)
    sums = torch.zeros(size, width, dtype=torch.float64, device=centroids.device)
    ahead = torch.zeros(size, 1, dtype=torch.float64, device=centroids.device)
    for number in range(_POWER_STEPS + 1):
        sums.zero_()
        for piece, index in zip(rows.pieces(), torch.split(found, rows.chunk), strict=True):
            offset = piece - centroids[index]
            along = (offset * axes[index]).sum(1, keepdim=True)
            if number == _POWER_STEPS:
                along = (along > 0).float()
                add_by_cluster(ahead, along, index)
            add_by_cluster(sums, offset.mul_(along), index)
        if number < _POWER_STEPS:
            axes = torch.nn.functional.normalize(sums, dim=1).float()
    return sums.float(), ahead[:, 0].float(), torch.bincount(found, minlength=size).float()


def _merges(centroids: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """What it costs to move each cluster's rows to the nearest other centroid, [k], and which that is, [k]."""
    apart = torch.cdist(centroids, centroids).square_().fill_diagonal_(torch.inf).min(1)
    used, own = count > 0, torch.arange(len(count), device=count.device)
    return torch.where(used, count * apart.values, 0.0), torch.where(used, apart.indices, own)


def _pair(cost: list[float], partner: list[int], gain: list[float]) -> list[tuple[int, int]]:
    """(freed, split) clusters, no two the same, each gaining more than it costs; no partner of a freed one is freed."""
    swaps: list[tuple[int, int]] = []
    freed_or_split: set[int] = set()
    partners: set[int] = set()
    best_first = iter(sorted(range(len(gain)), key=gain.__getitem__, reverse=True))
    split = next(best_first)
    for freed in sorted(range(len(cost)), key=cost.__getitem__):
        kept = partner[freed]
        if freed in freed_or_split or freed in partners or kept in freed_or_split:
            continue
        while split in freed_or_split or split in partners or split in (freed, kept):
            following = next(best_first, None)
            if following is None:
                return swaps
            split = following
        if not gain[split] > cost[freed]:
            return swaps
        swaps.append((freed, split))
        freed_or_split.update(swaps[-1])
        partners.add(kept)
    return swaps
