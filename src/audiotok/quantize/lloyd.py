"""K-means in plain torch: a greedy k-means++ start on a sample, then Lloyd steps, on CPU or CUDA.

A good start is worth more than many steps over many rows, and moving centroids between regions (`split_merge`) more
than either: on 500,000 rows of 256 values and 1000 clusters three steps over all rows after a start that was refined
on 64 rows per cluster end 8 % below ten steps from a random one, for a third of the cost (docs/performance.md).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FitError, InputError
from .nearest import SearchTable, nearest
from .rows import Rows, add_by_cluster, count_of
from .split_merge import split_merge

_SCORE_BYTES = 512 << 20
_PLAIN_WIDTH = 128  # from twice this many values on, k-means++ looks at random projections to so many


@dataclass(frozen=True)
class KMeansFit:
    """What `kmeans` gives.

    centroids: [k, D] float32; of unit length for cosine.
    counts: [k] int64, training rows in each cluster at the last assignment.
    distortion: mean squared distance of the training rows to the centroid of their cluster.
    iterations: Lloyd steps done.
    revived: empty clusters that were given a new centroid, over all steps.
    """

    centroids: Tensor
    counts: Tensor
    distortion: float
    iterations: int
    revived: int


def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 5,
    init: str | Tensor = "k-means++",
    seed: int = 0,
    cosine: bool = False,
    rows_per_centroid: int | None = 256,
    init_rows: int | None = None,
    swap_rounds: int = 0,
    max_bytes: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> KMeansFit:
    """Fits k centroids to rows by Lloyd's algorithm (Lloyd 1982).

    Sums are taken in float32 within a chunk and in float64 between chunks. On CPU the same seed gives the
    same centroids, bit for bit, on a given machine and number of threads.

    Args:
        x: [N, D] rows of any float type. On CUDA everything stays there.
        k: number of centroids, from 1 to N.
        iterations: Lloyd steps, at least 1; fewer are done when no centroid moves any more.
        init: "k-means++" (greedy; Arthur & Vassilvitskii 2007), "random" (distinct rows), or [k, D]
            centroids.
        seed: of the rows and centroids drawn.
        cosine: normalise rows and centroids to unit length (spherical k-means; Dhillon & Modha 2001).
        rows_per_centroid: at most this many rows per centroid are used, drawn at random; None for all rows.
        init_rows: rows that "k-means++" looks at; default 16 per centroid, and at least 10,000.
        swap_rounds: how many steps, from the second on, also move centroids from where they are least missed to where
            they help most (`split_merge`); never the last step.
        max_bytes: largest score matrix to hold; see `nearest`.
        progress: called after each step with the steps done and the distortion.

    Returns:
        A `KMeansFit`.

    Raises:
        FitError: there are fewer rows than centroids, or a value is NaN or infinite.
        InputError: an argument is out of range.

    Example:
        >>> rows = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
        >>> fit = kmeans(rows, 2)
        >>> sorted(fit.centroids[:, 0].tolist()), fit.counts.tolist()
        ([0.05000000074505806, 9.050000190734863], [2, 2])
    """
    _check(x, k, iterations, init, rows_per_centroid)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if rows_per_centroid is not None:
            x = _sample(x, rows_per_centroid * k, generator)
        rows = Rows(x, cosine)
        if isinstance(init, Tensor):
            centroids = init.to(x.device).float() - rows.shift
        elif init == "random":
            centroids = rows.take(_draw(len(x), k, generator, x.device))
        else:
            pool = rows.take(_draw(len(x), init_rows or max(16 * k, 10_000), generator, x.device))
            centroids = _plus_plus(pool, k, generator)
        if cosine:
            centroids = torch.nn.functional.normalize(centroids, dim=1)
        return _lloyd(rows, centroids, iterations, swap_rounds, max_bytes, generator, progress)


def _lloyd(
    rows: Rows,
    centroids: Tensor,
    iterations: int,
    swap_rounds: int,
    max_bytes: int | None,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None,
) -> KMeansFit:
    revived, done = 0, 0
    while True:
        found, sums, counts = _assign(rows, centroids, max_bytes)
        means = (sums / counts.clamp(min=1)[:, None]).float()
        if rows.cosine:
            means = torch.nn.functional.normalize(means, dim=1)
        means = torch.where(counts[:, None] > 0, means, centroids)
        moved = not torch.equal(means, centroids)
        done += 1
        # Σ|x − c|² = Σ|x|² − 2 Σ c·S + Σ n|c|², so no further pass over the rows is needed.
        wide = means.double()
        cross = (wide * sums).sum() * 2 - (counts * wide.square().sum(1)).sum()
        distortion = max(0.0, float(rows.energy - cross)) / len(rows)
        if progress is not None:
            progress(done, distortion)
        swap = 1 < done < iterations and done <= swap_rounds + 1
        empty = (counts == 0).nonzero()[:, 0]
        if done == iterations or not (moved or len(empty) or swap):
            return KMeansFit(means + rows.shift, counts, distortion, done, revived)
        if swap:
            means, _ = split_merge(rows, found, means)
            if rows.cosine:
                means = torch.nn.functional.normalize(means, dim=1)
        elif len(empty):
            means[empty] = _far_rows(rows, means, found, len(empty), generator)
        revived += len(empty)
        centroids = means


def _assign(rows: Rows, centroids: Tensor, max_bytes: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The cluster of each row [N], the sum of the rows of each [k, D] in float64, and their number [k]."""
    k, width = centroids.shape
    table = SearchTable.of(centroids)
    found = torch.empty(len(rows), dtype=torch.int64, device=centroids.device)
    sums = torch.zeros(k, width, dtype=torch.float64, device=centroids.device)
    for piece, index in zip(rows.pieces(), torch.split(found, rows.chunk), strict=True):
        index.copy_(_search(piece, table, max_bytes))
        add_by_cluster(sums, piece, index)
    return found, sums, count_of(found, k)


def _search(x: Tensor, table: SearchTable, max_bytes: int | None) -> Tensor:
    """`nearest`; on CUDA without its second look at near ties, for which the host would have to wait each time."""
    if x.device.type != "cuda":
        return nearest(x, table, max_bytes=max_bytes)
    half_norms = table.half_norms[: len(table.entries)]
    pieces = torch.split(x, max(1, (max_bytes or _SCORE_BYTES) // (4 * len(half_norms))))
    return torch.cat([torch.addmm(half_norms, some, table.entries.t(), beta=-1).argmax(1) for some in pieces])


def cluster_sums(x: Tensor, found: Tensor, k: int) -> Tensor:
    """[k, D] float64 sums of the rows x [N, D] that were assigned to each cluster."""
    total = torch.zeros(k, x.shape[1], dtype=torch.float64, device=x.device)
    add_by_cluster(total, x, found)
    return total


def _plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each step draws a few rows by D² sampling and keeps the most useful one."""
    x = x.contiguous()
    candidates = 2 + int(math.log(k))
    draws = torch.rand(k, candidates, generator=generator, dtype=torch.float64).to(x.device)
    if x.shape[1] >= 2 * _PLAIN_WIDTH:  # squared distances stay right to within 12 % or so (Johnson, Lindenstrauss)
        mixing = torch.randn(x.shape[1], _PLAIN_WIDTH, generator=generator).to(x.device)
        seen = x @ mixing
    else:
        seen = x
    centred = seen - seen.mean(0)  # smaller norms, less cancellation in |x|² − 2x·c + |c|²
    norms = centred.square().sum(1)
    chosen = torch.empty(k, dtype=torch.int64, device=x.device)
    closest = torch.full_like(norms, torch.inf)
    for step in range(k):
        if step == 0:
            index = (draws[0, :1] * len(x)).long()
        else:
            running = closest.cumsum(0, dtype=torch.float64)
            index = torch.searchsorted(running, draws[step] * running[-1], right=True).clamp_(max=len(x) - 1)
        # [candidates, N], so that each row is read in order
        distance = torch.addmm(norms, centred[index], centred.t(), alpha=-2).add_(norms[index, None])
        torch.minimum(distance.clamp_(min=0), closest, out=distance)
        best = distance.sum(1).argmin()
        chosen[step] = index[best]
        closest = distance[best]
    return x[chosen]


def _far_rows(rows: Rows, centroids: Tensor, found: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different rows, the far ones likelier (weighted draw of Efraimidis & Spirakis 2006)."""
    pieces = zip(rows.pieces(), torch.split(found, rows.chunk), strict=True)
    distance = torch.cat([(piece - centroids[index]).square().sum(1) for piece, index in pieces])
    race = torch.empty(len(rows), dtype=torch.float64).exponential_(generator=generator).to(distance)
    return rows.take((distance / race.clamp(min=1e-30)).topk(count).indices)


def _draw(total: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers of at most `count` of `total` rows, each at most once, in order."""
    if count >= total:
        return torch.arange(total, device=device)
    return torch.randperm(total, generator=generator)[:count].sort().values.to(device)


def _sample(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` rows of x, each at most once, in their first order."""
    return x if count >= len(x) else x[_draw(len(x), count, generator, x.device)]


def _check(x: Tensor, k: int, iterations: int, init: str | Tensor, rows_per_centroid: int | None) -> None:
    if x.dim() != 2 or not torch.is_floating_point(x):
        raise InputError(f"k-means wants floating point rows [N, D], not {list(x.shape)} of {x.dtype}")
    if k < 1 or iterations < 1 or (rows_per_centroid is not None and rows_per_centroid < 1):
        raise InputError("k, iterations and rows_per_centroid must be at least 1")
    if len(x) < k:
        raise FitError(f"{k} centroids were asked for, but there are only {len(x)} rows: lower k or give more data")
    if isinstance(init, Tensor):
        if list(init.shape) != [k, x.shape[1]]:
            raise InputError(f"init must be [{k}, {x.shape[1]}], not {list(init.shape)}")
    elif init not in ("k-means++", "random"):
        raise InputError(f'init must be "k-means++", "random" or a [k, D] tensor, not {init!r}')
