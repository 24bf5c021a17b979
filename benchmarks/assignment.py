#!/usr/bin/env python3
"""Assignment of frames to k-means centres: the exact search of audiotok against scikit-learn, faiss and torch.cdist.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/assignment.py --dim 1024 --k 1000

Frames are correlated and heavy-tailed, centres are some of them: nearest and second nearest are close, as with
features of speech. Process CPU time, in turn, best of five, in one process. "Share of sgemm" is of the rate of torch's
own float32 matrix product of the same shape. Codes are compared with those of float64.
"""

import os

for name, value in {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)  # spinning threads would count as work

import argparse
import time
import warnings
from collections.abc import Callable

import faiss
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from audiotok.quantize.nearest import SearchTable, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--k", type=int, default=1000)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faiss.omp_set_num_threads(torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    scale = (-4 * torch.arange(args.dim) / args.dim).exp()
    mix = torch.linalg.qr(torch.randn(args.dim, args.dim, generator=generator))[0]
    noise = torch.randn(args.frames + args.k, args.dim, generator=generator)
    noise *= torch.randn(args.frames + args.k, 1, generator=generator).mul(0.3).exp()
    frames = (noise * scale) @ mix
    frames, centres = frames[args.k :].contiguous(), frames[: args.k].contiguous()
    rows, book = frames.numpy(), centres.numpy()
    index = faiss.IndexFlatL2(args.dim)
    index.add(book)
    peer = MiniBatchKMeans(args.k, init=book, n_init=1, max_iter=1).fit(book)
    peer.cluster_centers_ = book.copy()
    table, product = SearchTable.of(centres), torch.empty(args.frames, args.k)

    ways: dict[str, Callable[[], object]] = {
        "torch's matrix product alone": lambda: torch.mm(frames, centres.t(), out=product),
        "scikit-learn predict": lambda: peer.predict(rows),
        "faiss IndexFlatL2": lambda: index.search(rows, 1)[1][:, 0],
        "torch.cdist and argmin": lambda: torch.cdist(frames, centres).argmin(1),
        "audiotok (exact)": lambda: nearest(frames, table),
    }
    best = dict.fromkeys(ways, float("inf"))
    found = {}
    for _ in range(5):
        for name, way in ways.items():
            started = time.process_time()
            found[name] = way()
            best[name] = min(best[name], time.process_time() - started)
    wide = centres.double()
    exact = (frames.double() @ wide.t() - wide.square().sum(1) / 2).argmax(1).numpy()
    base = best["torch's matrix product alone"]
    print(f"{args.frames} x {args.dim}, k = {args.k}, {torch.get_num_threads()} thread(s)\n")
    print("| way | CPU s | share of sgemm | speed-up over scikit-learn | frames that differ from float64 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, seconds in best.items():
        differ = "" if seconds is base else str(int((np.asarray(found[name]) != exact).sum()))
        faster = best["scikit-learn predict"] / seconds
        print(f"| {name} | {seconds:.3f} | {base / seconds:.0%} | {faster:.2f} | {differ} |")


if __name__ == "__main__":
    main()
