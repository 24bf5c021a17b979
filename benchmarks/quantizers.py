"""Residual quantization of frames: audiotok against vector-quantize-pytorch, in one process.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/quantizers.py --frames 20000

Both sides hold the same 8 codebooks of 1024 x 128 values, fitted by residual k-means on part of the frames,
and run in turn (ours, theirs, ours, ...). The cost is process CPU time, user and system, which other jobs on
the machine disturb less than the clock does; GF/s counts the products of frames and codebooks alone, per CPU
second.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from audiotok.quantize import KMeansQuantizer


def make_frames(count: int, dim: int, seed: int = 0) -> Tensor:
    """[count, dim] correlated frames with heavy tails, in clusters of uneven size, as features of sound are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(400, dim, generator=generator)
    weights = torch.rand(400, generator=generator).pow(3)
    which = torch.multinomial(weights, count, replacement=True, generator=generator)
    noise = torch.randn(count, dim, generator=generator) * torch.randn(count, 1, generator=generator).exp()
    scale = (-0.02 * torch.arange(dim)).exp()
    mix = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    return ((centres[which] + 0.5 * noise) * scale) @ mix


def peer(ours: KMeansQuantizer) -> torch.nn.Module:
    """vector-quantize-pytorch's ResidualVQ with our codebooks, in evaluation."""
    from vector_quantize_pytorch import ResidualVQ

    theirs = ResidualVQ(
        dim=ours.dim,
        codebook_size=ours.codebook_sizes[0],
        num_quantizers=ours.num_codebooks,
        kmeans_init=False,
    ).eval()
    for layer, table in zip(theirs.layers, ours.codebooks, strict=True):
        layer._codebook.embed.copy_(table[None])
    return theirs


def cpu_seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least process CPU time of each run, taken in turn."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return best


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000, help="frames to encode (default 20000)")
    parser.add_argument("--repeats", type=int, default=5, help="times each side runs; the best counts (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--dim", type=int, default=128, help="values in a frame (default 128)")
    parser.add_argument("--entries", type=int, default=1024, help="entries of a codebook (default 1024)")
    parser.add_argument("--codebooks", type=int, default=8, help="codebooks (default 8)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    frames = make_frames(arguments.frames, arguments.dim)
    train = frames[:: max(1, len(frames) // (20 * arguments.entries))]
    ours = KMeansQuantizer.fit(train, arguments.entries, arguments.codebooks, iterations=2).eval()
    theirs = peer(ours)
    x = frames.t()[None].contiguous()  # [1, D, F], as a codec's encoder gives it
    transposed = frames[None]  # [1, F, D], as vector-quantize-pytorch wants it: its transpose is not counted

    with torch.no_grad():
        runs: dict[str, Callable[[], Tensor]] = {
            "vector-quantize-pytorch ResidualVQ": lambda: theirs(transposed)[1][0].t(),
            "audiotok ResidualVQ": lambda: ours.encode(x)[0],
        }
        codes = {name: run() for name, run in runs.items()}
        seconds = cpu_seconds(runs, arguments.repeats)
    flops = 2 * arguments.frames * arguments.dim * arguments.entries * arguments.codebooks
    first = next(iter(runs))
    differ = (codes[first] != codes["audiotok ResidualVQ"]).any(0).float().mean()
    setting = f"{arguments.threads} thread(s), {arguments.frames} frames, best of {arguments.repeats}"
    print(f"torch {torch.__version__}, {setting}\n")
    print("| | CPU s | speed-up | GF/s per CPU second |")
    print("| --- | --- | --- | --- |")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {seconds[first] / value:.2f} | {flops / value / 1e9:.0f} |")
    print(f"\nframes with any code that differs: {100 * differ:.4f} %")


if __name__ == "__main__":
    main()
