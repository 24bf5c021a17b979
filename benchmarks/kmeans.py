#!/usr/bin/env python3
"""K-means: audiotok's engines and its one-pass mode against faiss.Kmeans and scikit-learn, same data, one process.

    python benchmarks/kmeans.py                       # 500,000 x 256 rows of a heavy-tailed mixture, k = 1000
    python benchmarks/kmeans.py --audio FOLDER        # log-mel frames of your own audio
    python benchmarks/kmeans.py --manifest FILE       # the same of the files in a JSON-lines manifest
    python benchmarks/kmeans.py --manifest FILE --hubert --rows 200000   # layer 4 of a HuBERT-base with random weights
    python benchmarks/kmeans.py --rows 200000 --dim 1024 --k 2000

Prints process CPU time (user + system of all threads, which does not suffer from other load as wall time does)
and held-out distortion, as ratios to faiss.Kmeans on all rows. "SpeechBrain's recipe" is one epoch of
MiniBatchKMeans.partial_fit over lists of 10,000 rows with its options; FAISS's own start is random rows. Of real audio,
one file in ten is held out, and no more than a minute of a file is used. scikit-learn's KMeans takes minutes (--lloyd).
"""

import os

for name, value in {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)  # spinning threads would count as work

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import sklearn.cluster
import torch
import transformers
from torch import Tensor

from audiotok import audio
from audiotok.fit.engines import ITERATIONS, fit_centroids
from audiotok.quantize.minibatch import MiniBatchKMeans
from audiotok.ssl.encoder import SSLEncoder
from audiotok.ssl.encoder_config import SSLConfig
from audiotok.ssl.encoder_weights import encoder_state
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


def audio_files(folder: Path | None, manifest: Path) -> list[Path]:
    """The audio in a folder, or named in the lines of a manifest, relative to it."""
    if folder is not None:
        return audio.find_audio(folder)
    lines = manifest.read_text(encoding="utf-8").splitlines()
    return [manifest.parent / json.loads(line)["path"] for line in lines]


def logmel() -> Callable[[Tensor], Tensor]:
    mel = LogMel()
    return lambda wav: mel(wav)[0].t()


def hubert(layer: int = 4) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(num_hidden_layers=layer))
    config = SSLConfig.from_transformers(model.config.to_dict(), normalize=True)
    encoder = SSLEncoder(config, [layer])
    encoder.load_state_dict(encoder_state(model.state_dict(), config, [layer]))
    return lambda wav: encoder(wav)[layer][0]


def frames_of(
    files: list[Path], features: Callable[[Tensor], Tensor], rows: int, held_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames in random order: of nine files in ten to fit on, and of the tenth to measure on."""
    frames: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    sizes, wanted = [0, 0], (rows, held_out)
    for number, i in enumerate(np.random.default_rng(0).permutation(len(files))):
        part = int(number % 10 == 0)
        if sizes[0] >= rows and sizes[1] >= held_out:
            break
        wav = audio.load(files[i], sample_rate=16000, channels=1)[0][:, : 60 * 16000]
        if sizes[part] < 1.2 * wanted[part] and wav.shape[1] >= 800:
            frames[part].append(features(wav).numpy())
            sizes[part] += len(frames[part][-1])
    mixed = [np.random.default_rng(1).permutation(np.concatenate(some)) for some in frames]
    return mixed[0][:rows], mixed[1][:held_out]


def distortion(centroids: np.ndarray, rows: np.ndarray) -> float:
    """Mean squared distance to the nearest centroid, in float64."""
    table = torch.from_numpy(np.asarray(centroids, np.float64))
    pieces = torch.from_numpy(rows).double().split(4096)
    return torch.cat([torch.cdist(piece, table).amin(1).square() for piece in pieces]).mean().item()


def speechbrain(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    model = sklearn.cluster.MiniBatchKMeans(
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


def ours(rows: np.ndarray, k: int, engine: str, seed: int, iterations: int = ITERATIONS) -> np.ndarray:
    return fit_centroids(torch.from_numpy(rows), k, engine=engine, iterations=iterations, seed=seed).numpy()


def one_pass(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    stream = MiniBatchKMeans(k, rows.shape[1], seed=seed)
    for piece in torch.from_numpy(rows).split(10_000):
        stream.add(piece)
    return stream.centroids().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=256, help="of the mixture")
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--held-out", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0, help="of the mixture and of every start")
    parser.add_argument("--audio", type=Path, help="fit on features of the audio in this folder")
    parser.add_argument("--manifest", type=Path, help="fit on features of the audio named in this file")
    parser.add_argument("--hubert", action="store_true", help="features of a HuBERT instead of log-mel frames")
    parser.add_argument("--lloyd", action="store_true", help="scikit-learn's KMeans, too")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.audio or args.manifest:
        files = audio_files(args.audio, args.manifest)
        rows, held_out = frames_of(files, hubert() if args.hubert else logmel(), args.rows, args.held_out)
    else:
        data = mixture(args.rows + args.held_out, args.dim, seed=args.seed)
        rows, held_out = np.ascontiguousarray(data[args.held_out :]), data[: args.held_out]
    k, seed = args.k, args.seed
    ways: dict[str, Callable[[], np.ndarray]] = {
        "faiss.Kmeans, all rows, 10 steps": lambda: plain_faiss(rows, k, 10**9, seed),
        "faiss.Kmeans, default (256 rows a centroid), 10 steps": lambda: plain_faiss(rows, k, 256, seed),
        "SpeechBrain's recipe (MiniBatchKMeans)": lambda: speechbrain(rows, k, seed),
        "scikit-learn MiniBatchKMeans": lambda: (
            sklearn.cluster.MiniBatchKMeans(k, random_state=seed).fit(rows).cluster_centers_
        ),
        "scikit-learn KMeans, 10 steps": lambda: (
            sklearn.cluster.KMeans(k, n_init=1, max_iter=10, random_state=seed).fit(rows).cluster_centers_
        ),
        "audiotok, engine=faiss": lambda: ours(rows, k, "faiss", seed),
        "audiotok, engine=torch": lambda: ours(rows, k, "torch", seed),
        "audiotok, engine=torch, 10 steps": lambda: ours(rows, k, "torch", seed, 10),
        "audiotok, one pass (MiniBatchKMeans)": lambda: one_pass(rows, k, seed),
    }
    if not args.lloyd:
        del ways["scikit-learn KMeans, 10 steps"]
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
