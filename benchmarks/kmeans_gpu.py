#!/usr/bin/env python3
"""K-means steps of the torch engine against the floors of the device: its matrix product, and reading the rows.

    python benchmarks/kmeans_gpu.py                                 # 10 million x 1024 rows, k = 1000 and 2000
    python benchmarks/kmeans_gpu.py --device cpu --rows 20000 --dim 256 --k 500

A step has to multiply all rows by all centroids and to read the rows once. Both are measured in the same run: a float32
product of one chunk's shape, and a copy of it (which reads and writes, so half its time counts). "Share" is the larger
floor over the time of a step. Seconds by the clock, the device waited for; the best of the steps after the first.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import torch

from audiotok.quantize import kmeans

CHUNK_ROWS = 131_072


def seconds(way: Callable[[], object], device: torch.device, turns: int = 5) -> float:
    """Of one call, the best of several after one to warm up."""
    best = float("inf")
    for turn in range(turns + 1):
        _wait(device)
        started = time.perf_counter()
        way()
        _wait(device)
        if turn:
            best = min(best, time.perf_counter() - started)
    return best


def rows_on(device: torch.device, rows: int, dim: int) -> torch.Tensor:
    """Rows about 3000 centres, made on the device, a chunk at a time."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(3000, dim, generator=generator, device=device)
    x = torch.empty(rows, dim, device=device)
    for piece in torch.split(x, CHUNK_ROWS):
        which = torch.randint(3000, (len(piece),), generator=generator, device=device)
        torch.randn(piece.shape, generator=generator, device=device, out=piece)
        piece += centres[which]
    return x


def step_seconds(x: torch.Tensor, k: int, steps: int) -> float:
    """Of the quickest step but the first, whose time has the check of the rows in it."""
    times: list[float] = []
    start = x[:: len(x) // k][:k].clone()

    def note(*_: float) -> None:
        times.append(time.perf_counter())

    kmeans(x, k, iterations=steps, init=start, rows_per_centroid=None, progress=note)
    return min(later - sooner for sooner, later in itertools.pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--k", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    x = rows_on(device, args.rows, args.dim)
    chunk = x[:CHUNK_ROWS]
    share = len(x) / len(chunk)
    target = torch.empty_like(chunk)
    reading = share * seconds(lambda: target.copy_(chunk), device) / 2
    print(f"{args.rows} x {args.dim} rows on {name}, {torch.get_float32_matmul_precision()} float32 precision\n")
    print("| k | s per step | product, s | TF/s | reading, s | share of the floor | peak GiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for k in args.k:
        centres, scores = x[:k].clone(), torch.empty(len(chunk), k, device=device)

        def product(centres: torch.Tensor = centres, scores: torch.Tensor = scores) -> None:
            torch.mm(chunk, centres.t(), out=scores)

        product_s = share * seconds(product, device)
        rate = 2 * len(x) * args.dim * k / product_s / 1e12
        step = step_seconds(x, k, args.steps)
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
        floor = max(product_s, reading)
        print(f"| {k} | {step:.3f} | {product_s:.3f} | {rate:.2f} | {reading:.3f} | {floor / step:.0%} | {peak:.1f} |")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
