"""Two engines that fit k centroids to rows: FAISS, and the torch one that is always there."""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError, MissingDependencyError
from ..quantize import kmeans

Engine = Literal["auto", "faiss", "torch"]
_START_ROWS = 16  # per centroid, for k-means++
_QUARTER_ROWS = 64  # per centroid, at least, in a quarter of the rows


def choose_engine(engine: Engine, device: torch.device) -> Literal["faiss", "torch"]:
    """ "auto" is FAISS on a CPU where it is installed, else torch, which works where the frames already are.

    Raises:
        MissingDependencyError: FAISS was asked for and is not installed. InputError: no such engine.
    """
    if engine == "auto":
        found = device.type == "cpu" and importlib.util.find_spec("faiss") is not None
        return "faiss" if found else "torch"
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
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """[k, D] float32 centroids of rows [N, D], by Lloyd's algorithm.

    Both engines start from greedy k-means++ centroids of a sample (Arthur and Vassilvitskii 2007), and take the first
    half of their steps on a quarter of the rows. On the same rows that ends lower than as many steps on all of them
    from FAISS's own random start, for less than half the work (docs/performance.md).

    Args:
        rows: in random order, so that every fourth is a fair sample.
        k: number of centroids.
        engine: which one.
        iterations: steps.
        seed: of the start.
        progress: called now and then with the steps done and the distortion of the rows in use.

    Raises:
        FitError: fewer rows than centroids, or NaN among them.
    """
    start = kmeans(rows, k, iterations=1, seed=seed, rows_per_centroid=max(_START_ROWS, -(-10_000 // k)))
    centroids, done = start.centroids, 0
    for part, steps in _schedule(rows, k, iterations):

        def report(step: int, distortion: float, before: int = done) -> None:
            if progress is not None:
                progress(before + step, distortion)

        if engine == "torch":
            fit = kmeans(part, k, iterations=steps, init=centroids, rows_per_centroid=None, progress=report)
            centroids = fit.centroids
        else:
            centroids = _faiss_steps(part, centroids, steps, report)
        done += steps
    return centroids


def _schedule(rows: Tensor, k: int, iterations: int) -> list[tuple[Tensor, int]]:
    """Which rows, and how many steps on them: all steps on all rows where a quarter would be too few."""
    early = (iterations + 1) // 2
    if iterations == 1 or len(rows) < 4 * _QUARTER_ROWS * k:
        return [(rows, iterations)]
    return [(rows[::4].contiguous(), early), (rows, iterations - early)]


def _faiss_steps(rows: Tensor, centroids: Tensor, steps: int, report: Callable[[int, float], None]) -> Tensor:
    faiss = _import_faiss()
    clustering = faiss.Kmeans(
        rows.shape[1],
        len(centroids),
        niter=steps,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
        gpu=False,
    )
    clustering.train(rows.cpu().numpy(), init_centroids=centroids.cpu().numpy())
    report(steps, float(clustering.obj[-1]) / len(rows))
    return torch.from_numpy(clustering.centroids).to(rows.device)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "engine='faiss' needs FAISS: pip install 'audiotok[faiss]', or use engine='torch'"
        ) from error
    return faiss
