#!/usr/bin/env python3
"""K-means: both engines of audiotok against faiss.Kmeans and scikit-learn's MiniBatchKMeans, same data, one process.

    python benchmarks/kmeans.py                       # 500,000 x 256 rows of a heavy-tailed mixture, k = 1000
    python benchmarks/kmeans.py --audio FOLDER        # log-mel frames of your own audio
    python benchmarks/kmeans.py --rows 200000 --dim 1024

Prints process CPU time (user + system of all threads, which does not suffer from other load as wall time does)
and held-out distortion, as ratios to faiss.Kmeans on all rows. "SpeechBrain's recipe" is one epoch of
MiniBatchKMeans.partial_fit over lists of 10,000 rows with its options; FAISS's own start is random rows.
"""

import os

for name, value in {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)  # spinning threads would count as work

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from audiotok import audio
from audiotok.fit.engines import fit_centroids
from audiotok.fit.fitting import ITERATIONS, ROWS_PER_CENTROID
from audiotok.ssl.logmel import LogMel


def mixture(rows: int, dim: int, components: int = 3000, seed: int = 0) -> np.ndarray:
    """Gaussians of unlike weight and width with Student-t tails (4 degrees of freedom), unlike scales per dimension."""
    rng = np.random.default_rng(seed)
    weights = rng.pareto(1.2, components) + 0.05
    means = rng.standard_normal((components, dim)) * np.exp(rng.normal(0, 0.6, (1, dim)))
    widths = np.exp(rng.normal(-0.3, 0.4, components))
    which = rng.choice(components, rows, p=weights / weights.sum())
    tails = np.sqrt(4 / np.maximum(rng.chisquare(4, rows), 0.05))
    out = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 50_000):
        part = slice(start, start + 50_000)
        noise = rng.standard_normal((len(which[part]), dim), dtype=np.float32)
        out[part] = means[which[part]] + (widths[which[part]] * tails[part])[:, None] * noise
    return out


def logmel_rows(folder: Path, rows: int) -> np.ndarray:
    """Log-mel frames of the files of a folder, in random order."""
    mel, frames, count = LogMel(), [], 0
    files = audio.find_audio(folder)
    for i in np.random.default_rng(0).permutation(len(files)):
        frames.append(mel(audio.load(files[i], sample_rate=mel.sample_rate, channels=1)[0])[0].t().numpy())
        count += len(frames[-1])
        if count >= rows:
            break
    return np.random.default_rng(1).permutation(np.concatenate(frames))[:rows]


def distortion(centroids: np.ndarray, rows: np.ndarray) -> float:
    """Mean squared distance to the nearest centroid, in float64."""
    table = torch.from_numpy(np.asarray(centroids, np.float64))
    pieces = torch.from_numpy(rows).double().split(4096)
    return torch.cat([torch.cdist(piece, table).amin(1).square() for piece in pieces]).mean().item()


def speechbrain(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    model = MiniBatchKMeans(
        k,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        random_state=seed,
        compute_labels=True,
    )
    for start in range(0, len(rows) - 9_999, 10_000):
        model.partial_fit(list(rows[start : start + 10_000]))
    return model.cluster_centers_


def plain_faiss(rows: np.ndarray, k: int, per_centroid: int, seed: int) -> np.ndarray:
    clustering = faiss.Kmeans(rows.shape[1], k, niter=10, seed=seed, max_points_per_centroid=per_centroid)
    clustering.train(rows)
    return clustering.centroids


def ours(rows: np.ndarray, k: int, engine: str, seed: int) -> np.ndarray:
    """What fit_kmeans does with a corpus: a uniform sample, a k-means++ start, a few steps."""
    sample = torch.from_numpy(rows)
    size = ROWS_PER_CENTROID * k
    if size < len(sample):
        sample = sample[torch.randperm(len(sample), generator=torch.Generator().manual_seed(seed))[:size]]
    return fit_centroids(sample, k, engine=engine, iterations=ITERATIONS, seed=seed).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=256, help="of the mixture")
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--held-out", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0, help="of the mixture and of every start")
    parser.add_argument("--audio", type=Path, help="fit on log-mel frames of the audio in this folder")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    total = args.rows + args.held_out
    data = logmel_rows(args.audio, total) if args.audio else mixture(total, args.dim, seed=args.seed)
    rows, held_out = np.ascontiguousarray(data[args.held_out :]), data[: args.held_out]
    k, seed = args.k, args.seed
    ways: dict[str, Callable[[], np.ndarray]] = {
        "faiss.Kmeans, all rows, 10 steps": lambda: plain_faiss(rows, k, 10**9, seed),
        "faiss.Kmeans, default (256 rows a centroid), 10 steps": lambda: plain_faiss(rows, k, 256, seed),
        "SpeechBrain's recipe (MiniBatchKMeans)": lambda: speechbrain(rows, k, seed),
        "audiotok, engine=faiss": lambda: ours(rows, k, "faiss", seed),
        "audiotok, engine=torch": lambda: ours(rows, k, "torch", seed),
    }
    print(f"{len(rows)} x {rows.shape[1]} rows, k = {k}, held-out variance {held_out.var(0).sum():.1f}\n")
    print("| way | CPU s | ratio | held-out distortion | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    base = None
    for name, fit in ways.items():
        started = time.process_time()
        centroids = fit()
        seconds = time.process_time() - started
        left = distortion(centroids, held_out)
        base = base or (seconds, left)
        print(f"| {name} | {seconds:.1f} | {seconds / base[0]:.2f} | {left:.2f} | {left / base[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
