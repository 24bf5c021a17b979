"""Encode in the workers of a DataLoader, and keep the tokens in a folder for the epochs and runs to come.

python examples/collate_and_cache.py FOLDER_OF_AUDIO CACHE [--epochs 3] [--workers 2] [--tokenizer NAME]
"""

import argparse
import time
from pathlib import Path

from torch.utils.data import DataLoader

import audiotok
from audiotok.dataset import CachedTokenizer


class EncodeFiles:
    """Paths in, Codes out. Only this object goes to the workers: its tokenizer with it, what it remembers not."""

    def __init__(self, tokenizer: CachedTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, paths: list[Path]) -> audiotok.Codes:
        spec = self.tokenizer.tokenizer.spec
        wavs = [audiotok.audio.load(path, sample_rate=spec.sample_rate, channels=spec.channels)[0] for path in paths]
        return self.tokenizer.encode(wavs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("cache")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", default=audiotok.DEFAULT)
    args = parser.parse_args()
    tokenizer = CachedTokenizer(audiotok.load(args.tokenizer, mode="encode"), folder=args.cache)
    loader = DataLoader(
        audiotok.audio.find_audio(args.folder),
        batch_size=8,
        shuffle=True,
        collate_fn=EncodeFiles(tokenizer),
        num_workers=args.workers,
        persistent_workers=args.workers > 0,  # or what a worker remembers ends with the epoch
    )
    for epoch in range(args.epochs):
        start = time.perf_counter()
        frames = sum(int(codes.lengths.sum()) for codes in loader)  # here a model would be trained
        print(f"epoch {epoch}: {frames} frames of tokens in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
