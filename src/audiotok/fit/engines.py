"""Two engines that fit k centroids to rows: FAISS, and the torch one that is always there."""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError, MissingDependencyError
from ..quantize import kmeans

Engine = Literal["auto", "faiss", "torch"]


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
    """[k, D] float32 centroids of rows [N, D].

    Both engines start from greedy k-means++ centroids of a sample (Arthur and Vassilvitskii 2007): FAISS's own
    random start ends 2 to 3 % higher in held-out distortion (docs/performance.md).

    Raises:
        FitError: fewer rows than centroids, or NaN among them.
    """
    if engine == "torch":
        fit = kmeans(rows, k, iterations=iterations, seed=seed, rows_per_centroid=None, progress=progress)
        return fit.centroids
    start = kmeans(rows, k, iterations=1, seed=seed, rows_per_centroid=max(10, -(-10_000 // k)))
    faiss = _import_faiss()
    clustering = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
        gpu=False,
    )
    clustering.train(rows.cpu().numpy(), init_centroids=start.centroids.cpu().numpy())
    if progress is not None:
        progress(iterations, float(clustering.obj[-1]) / len(rows))
    return torch.from_numpy(clustering.centroids).to(rows.device)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "engine='faiss' needs FAISS: pip install 'audiotok[faiss]', or use engine='torch'"
        ) from error
    return faiss
