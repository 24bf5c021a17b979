"""Two engines that fit k centroids to rows: FAISS, and the torch one that is always there."""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import FitError, InputError, MissingDependencyError
from ..quantize import kmeans
from ..quantize.nearest import SearchTable, nearest
from ..quantize.rows import Rows
from ..quantize.screen import fast_bfloat16

Engine = Literal["auto", "faiss", "torch"]
ITERATIONS = 3  # on all rows; from a start as good as this, more change little
_START_ROWS = 8  # per centroid, for k-means++
_EARLY_ROWS = 64  # per centroid, for the early steps
_EARLY_STEPS = 8
_SWAP_ROUNDS = 6
_JUDGED_ROWS = 64  # per centroid, on which restarts are compared
_SEED_STRIDE = 1_000_003  # callers count their codebooks up from the seed


def choose_engine(engine: Engine, device: torch.device) -> Literal["faiss", "torch"]:
    """ "auto" is torch, which works where the frames already are, and costs less than FAISS for the same centroids by
    virtue of its search (docs/performance.md); but FAISS, where it is installed, on a CPU without bfloat16 products:
    there the search has no first pass.

    Raises:
        MissingDependencyError: FAISS was asked for and is not installed. InputError: no such engine.
    """
    if engine == "auto":
        found = device.type == "cpu" and importlib.util.find_spec("faiss") is not None
        return "faiss" if found and not fast_bfloat16() else "torch"
    if engine not in ("faiss", "torch"):
        raise InputError(f'engine must be "auto", "faiss" or "torch", not {engine!r}')
    if engine == "faiss":
        _import_faiss()
    return engine


def fit_centroids(
    rows: Tensor,
    k: int,
    *,
    engine: Literal["faiss", "torch"],
    iterations: int,
    seed: int,
    restarts: int = 1,
    spherical: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """[k, D] float32 centroids of rows [N, D], by Lloyd's algorithm from a good start.

    The start is the same for both engines: greedy k-means++ centroids of a sample (Arthur and Vassilvitskii 2007),
    then some steps on up to 64 rows per centroid, which also move centroids from where they are least missed to
    where they help most (`split_merge`). The engine then takes its steps on all rows.

    Args:
        rows: in random order, so that evenly spaced ones are a fair sample.
        k: number of centroids.
        engine: which one. FAISS makes copies of the rows; torch does not.
        iterations: steps on all rows.
        seed: of the start.
        restarts: how often to start, each time with another seed; the centroids of the lowest distortion on the
            same evenly spaced rows are given. One start is the first of several.
        spherical: compare directions only: rows count with unit length, and centroids have it (Dhillon and Modha 2001).
        progress: called now and then with the steps done, of restarts · iterations, and the distortion.

    Raises:
        FitError: fewer rows than centroids, or NaN or infinite values among them.
        InputError: iterations or restarts below 1.
        MissingDependencyError: rows are on CUDA, and the FAISS installed cannot use it.

    Example:
        >>> rows = torch.tensor([[0.0], [9.0], [0.2], [9.2]])
        >>> found = fit_centroids(rows, 2, engine="torch", iterations=2, seed=0, restarts=3)
        >>> [round(value, 2) for value in sorted(found[:, 0].tolist())]
        [0.1, 9.1]
    """
    if iterations < 1 or restarts < 1:
        raise InputError(f"iterations and restarts must be at least 1: {iterations}, {restarts}")
    best, lowest = None, float("inf")
    for number in range(restarts):

        def report(step: int, distortion: float, before: int = number * iterations) -> None:
            if progress is not None:
                progress(before + step, distortion)

        start = _start(rows, k, seed + number * _SEED_STRIDE, spherical)
        if engine == "torch":
            fit = kmeans(
                rows, k, iterations=iterations, init=start, rows_per_centroid=None, cosine=spherical, progress=report
            )
            centroids = fit.centroids
        else:
            centroids = _faiss_steps(rows, start, iterations, spherical, report)
        if restarts == 1:
            return centroids
        distortion = _distortion(_spaced(rows, _JUDGED_ROWS * k), centroids, spherical)
        if best is None or distortion < lowest:
            best, lowest = centroids, distortion
    assert best is not None
    return best


def _start(rows: Tensor, k: int, seed: int, spherical: bool) -> Tensor:
    fit = kmeans(
        _spaced(rows, _EARLY_ROWS * k),
        k,
        iterations=_EARLY_STEPS,
        seed=seed,
        cosine=spherical,
        rows_per_centroid=None,
        init_rows=max(_START_ROWS * k, 10_000),
        swap_rounds=_SWAP_ROUNDS,
    )
    return fit.centroids


def _spaced(rows: Tensor, count: int) -> Tensor:
    """At most `count` rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // count))]


def _distortion(rows: Tensor, centroids: Tensor, spherical: bool) -> float:
    table, total = SearchTable.of(centroids), 0.0
    for piece in Rows(rows, spherical, centre=False).pieces():
        total += float((piece - centroids[nearest(piece, table)]).square().sum(dtype=torch.float64))
    return total / len(rows)


def _faiss_steps(
    rows: Tensor, centroids: Tensor, steps: int, spherical: bool, report: Callable[[int, float], None]
) -> Tensor:
    """Steps of FAISS, which splits a big cluster where one is empty."""
    faiss = _import_faiss()
    if spherical:
        rows = torch.nn.functional.normalize(rows.float(), dim=1)
    if not bool(torch.isfinite(rows).all()):
        raise FitError("the rows hold NaN or infinite values: drop those frames before fitting")
    clustering = faiss.Kmeans(
        rows.shape[1],
        len(centroids),
        niter=steps,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
        spherical=spherical,
        gpu=_faiss_gpu(faiss, rows.device),
    )
    clustering.train(rows.float().cpu().numpy(), init_centroids=centroids.cpu().numpy())
    value = float(clustering.obj[-1]) / len(rows)  # the mean inner product of unit vectors, if spherical
    report(steps, max(0.0, 2 - 2 * value) if spherical else value)
    return torch.from_numpy(clustering.centroids).to(rows.device)


def _faiss_gpu(faiss: Any, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    if not getattr(faiss, "get_num_gpus", int)():
        raise MissingDependencyError(
            "engine='faiss' on CUDA needs FAISS for GPUs: pip install 'audiotok[faiss-gpu]' instead of faiss-cpu, or "
            "use engine='torch'"
        )
    return True


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "engine='faiss' needs FAISS: pip install 'audiotok[faiss]', or use engine='torch'"
        ) from error
    return faiss
