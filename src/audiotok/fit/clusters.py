"""Codebooks of sampled frames: what can be fitted, and how."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import FitError, FitWarning
from ..quantize import KMeansQuantizer
from .checkpoint import Checkpoint
from .engines import fit_centroids
from .stream import Streams

_ROWS_TOGETHER = 1 << 16


@dataclass(frozen=True)
class Method:
    """How codebooks are fitted, whatever their k."""

    engine: Literal["faiss", "torch"]
    num_codebooks: int
    iterations: int
    seed: int
    restarts: int
    spherical: bool
    minibatch: bool
    device: str

    @property
    def lookup(self) -> str:
        """Of the quantizer that the codebooks make."""
        return "cosine" if self.spherical else "euclidean"


@dataclass(frozen=True)
class Codebooks:
    """Residual codebooks [k, D], and the seconds that fitting them took."""

    tables: list[Tensor]
    seconds: float


def check_frames(frames: Tensor, k: int, readable: int) -> None:
    """Raises `FitError` when k clusters cannot be had of frames [N, D]; warns when there are few."""
    if len(frames) < k:
        raise FitError(
            f"{k} clusters were asked for, but the {readable} readable items give {len(frames)} frames "
            "to fit on: lower k, give more audio, or raise max_frames or max_bytes"
        )
    if float(frames.std(dim=0, correction=0).max()) < 1e-6:
        raise FitError("all frames are the same: is the audio silent or constant?")
    distinct = len(torch.unique(frames, dim=0)) if len(frames) < 10 * k else k
    if distinct < k:
        raise FitError(f"{k} clusters were asked for, but only {distinct} of the frames differ: lower k")
    if len(frames) < 20 * k:
        message = f"{len(frames)} frames for {k} clusters is few: 20 or more for each fit better"
        warnings.warn(message, FitWarning, stacklevel=4)


def fit_residual(
    frames: Tensor, k: int, method: Method, *, group: int, checkpoint: Checkpoint | None, progress: bool
) -> Codebooks:
    """Codebooks of frames [N, D], each fitted on what the ones before leave over.

    Args:
        frames: of one layer.
        k: entries of each.
        method: how.
        group: number of the layer.
        checkpoint: where finished codebooks are kept.
        progress: whether to show a bar.
    """
    residual, codebooks, seconds = frames.contiguous(), [], 0.0
    total = method.num_codebooks * method.iterations * method.restarts
    with tqdm(total=total, desc=f"k-means, k = {k}", unit="it", disable=not progress) as bar:
        for stage in range(method.num_codebooks):

            def step(done: int, distortion: float, first: int = stage * method.iterations * method.restarts) -> None:
                bar.n = first + done
                bar.set_postfix(distortion=f"{distortion:.4g}")

            def fit(
                rows: Tensor = residual,
                seed: int = method.seed + group + stage,
                step: Callable[[int, float], None] = step,
            ) -> Tensor:
                found = fit_centroids(
                    rows,
                    k,
                    engine=method.engine,
                    iterations=method.iterations,
                    seed=seed,
                    restarts=method.restarts,
                    spherical=method.spherical,
                    progress=step,
                )
                return with_lengths(found, rows) if method.spherical else found

            centroids, spent = _kept(checkpoint, f"k{k}-{group}-{stage}", fit)
            centroids = centroids.to(frames)
            seconds += spent
            codebooks.append(centroids)
            if stage + 1 < method.num_codebooks:
                quantizer = KMeansQuantizer([centroids])
                residual = residual - quantizer.decode(quantizer.encode(residual.t()[None]))[0].t()
        bar.n = total
        bar.refresh()
    return Codebooks(codebooks, seconds)


def fit_stream(
    frames: Tensor, k: int, method: Method, streams: Streams, *, group: int, checkpoint: Checkpoint | None
) -> Codebooks:
    """The codebook that mini-batches of all frames made; frames [N, D] are a sample of them."""

    def fit() -> Tensor:
        found = streams.centroids(k, group, method.iterations)
        return with_lengths(found, frames) if method.spherical else found

    table, seconds = _kept(checkpoint, f"k{k}-{group}-0", fit)
    return Codebooks([table.to(frames)], seconds)


def _kept(checkpoint: Checkpoint | None, name: str, fit: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What `fit` gives, now or before, and the seconds that it took."""
    if checkpoint is not None:
        return checkpoint.table(name, fit)
    began = time.perf_counter()
    return fit(), time.perf_counter() - began


def with_lengths(directions: Tensor, rows: Tensor) -> Tensor:
    """Directions [k, D], each as long as the rows [N, D] nearest to it are along it on average: of all vectors of that
    direction the one that decodes them best. The lookup, by cosine, does not change."""
    unit = torch.nn.functional.normalize(directions, dim=1)
    tokens = KMeansQuantizer([unit], lookup="cosine").encode(rows.t()[None])[0, 0]
    along = torch.cat(
        [
            (part * unit[index]).sum(1, dtype=torch.float64)
            for part, index in zip(torch.split(rows, _ROWS_TOGETHER), torch.split(tokens, _ROWS_TOGETHER), strict=True)
        ]
    )
    sums = torch.zeros(len(unit), dtype=torch.float64, device=rows.device).index_add_(0, tokens, along)
    counts = torch.bincount(tokens, minlength=len(unit))
    lengths = torch.where(sums > 0, sums / counts.clamp(min=1), 1.0)
    return unit * lengths[:, None].float()
