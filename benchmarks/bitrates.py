#!/usr/bin/env python3
"""Real bit rates: what entropy coding makes of tokens, against the fixed rate of log2 V bits each.

    python benchmarks/bitrates.py --fit-manifest train.jsonl --manifest valid.jsonl
    python benchmarks/bitrates.py ... --tokenizer logmel-16khz:1 --tokenizer ./my-tok:4 --kmeans 0 --limit 100

Tables are fitted on one manifest (JSON lines with a "path", relative to it), rates are measured on the other, whose
audio must not be in the first. Every file is decompressed again and compared. Prints two tables in Markdown, in
kbit/s: all clips in one file, and a file for each clip, there also with headers. Order 0 is the entropy of single
tokens, each codebook's own frequencies over all clips taken as known: no code of single tokens alone does better.
Speeds are tokens per second of CPU time, compressing and decompressing all clips in one file.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

import audiotok
from audiotok import Codes, Tokenizer
from audiotok.lm.container import compress_bytes, decompress_bytes
from audiotok.lm.entropy import EntropyModel, fit_entropy_model

WAYS = (
    ("static", "static", True),
    ("codebook", "codebook", False),
    ("adaptive", "adaptive", False),
    ("adaptive + table", "adaptive", True),
)


def paths_of(manifest: Path, limit: int | None) -> list[Path]:
    """The files of a manifest; with a limit so many of them, spread evenly."""
    paths = [manifest.parent / json.loads(line)["path"] for line in manifest.read_text().splitlines()]
    return paths if limit is None else paths[:: max(1, len(paths) // limit)][:limit]


def encoded(tokenizer: Tokenizer, paths: Sequence[Path]) -> list[Codes]:
    """One Codes per file."""
    return [tokenizer.encode_file(path) for path in paths]


def order_0(codes: Codes) -> float:
    """kbit/s of an ideal code of single tokens."""
    tokens = codes.tokens.transpose(0, 1)[:, codes.mask].numpy()
    bits = 0.0
    for row, size in zip(tokens, codes.spec.codebook_sizes, strict=True):
        counts = np.bincount(row, minlength=size)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / seconds_of(codes) / 1000


def seconds_of(codes: Codes) -> float:
    return int(codes.num_samples.sum()) / codes.spec.sample_rate


class Measured:
    """Rates of one way for some Codes, after all came back as they were."""

    def __init__(self, several: Iterable[Codes], coding: str, table: EntropyModel | None) -> None:
        self.payload = self.total = self.tokens = 0
        self.encode_s = self.decode_s = seconds = 0.0
        for codes in several:
            started = time.process_time()
            data, result = compress_bytes(codes, coding=coding, table=table)
            middle = time.process_time()
            back = decompress_bytes(data, table=table)
            self.decode_s += time.process_time() - middle
            self.encode_s += middle - started
            if not torch.equal(back.tokens, codes.tokens):
                raise SystemExit("tokens did not come back")
            self.payload, self.total = self.payload + result.payload_bytes, self.total + result.total_bytes
            self.tokens, seconds = self.tokens + result.tokens, seconds + result.seconds
        self.kbps, self.kbps_total = 8 * self.payload / seconds / 1000, 8 * self.total / seconds / 1000

    @property
    def speeds(self) -> str:
        """Thousands of tokens per second, both ways."""
        return f"{self.tokens / self.encode_s / 1000:,.0f} / {self.tokens / self.decode_s / 1000:,.0f}"


def rows_of(tokenizer: Tokenizer, label: str, counts: Sequence[int], fit: Sequence[Path], measure: Sequence[Path]):
    """A line for each of both tables and each number of codebooks."""
    table = fit_entropy_model(encoded(tokenizer, fit))
    clips = encoded(tokenizer, measure)
    for count in counts:
        some = [codes.truncate(count) for codes in clips]
        whole, spec = Codes.batch(some), some[0].spec
        known = EntropyModel(table.counts[:count], table.pairs[:count])
        fixed = f"{spec.bitrate_bps / 1000:.3f}"
        name = f"{label}, {count} x {spec.codebook_sizes[0]}"
        one = {way: Measured([whole], coding, known if uses else None) for way, coding, uses in WAYS}
        each = {way: Measured(some, coding, known if uses else None) for way, coding, uses in WAYS}
        rates = [f"{one[way].kbps:.3f}" for way, *_ in WAYS]
        speeds = [one[way].speeds for way in ("static", "adaptive + table")]
        yield (
            (name, fixed, f"{order_0(whole):.3f}", *rates, *speeds),
            (
                name,
                fixed,
                *(f"{each[way].kbps:.3f} ({each[way].kbps_total:.3f})" for way, *_ in WAYS),
            ),
        )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit-manifest", type=Path, required=True, help="what tables are fitted on")
    parser.add_argument("--manifest", type=Path, required=True, help="what is measured")
    parser.add_argument("--fit-limit", type=int, metavar="N", help="only N clips of --fit-manifest")
    parser.add_argument("--limit", type=int, metavar="N", help="only N clips of --manifest")
    parser.add_argument("--split-note", default="", metavar="TEXT", help="printed with the tables: what was measured")
    parser.add_argument(
        "--tokenizer",
        action="append",
        metavar="NAME:K,K",
        help=f"name or folder, and numbers of codebooks; default {audiotok.DEFAULT}:1,2,4,8",
    )
    parser.add_argument("--kmeans", type=int, default=500, metavar="K", help="entries of a k-means fitted here, 0 none")
    args = parser.parse_args()
    fit, measure = paths_of(args.fit_manifest, args.fit_limit), paths_of(args.manifest, args.limit)
    jobs = []
    for text in args.tokenizer or [f"{audiotok.DEFAULT}:1,2,4,8"]:
        name, _, counts = text.rpartition(":")
        jobs.append((audiotok.load(name), name, [int(count) for count in counts.split(",")]))
    if args.kmeans:
        fitted = audiotok.fit_kmeans([str(path) for path in fit], k=args.kmeans, progress=False)
        jobs.append((fitted, "log-mel k-means", [1]))
    rows = [row for job in jobs for row in rows_of(*job, fit, measure)]
    ways = [way for way, *_ in WAYS]
    note = args.split_note or f"fitted on {args.fit_manifest.stem}, measured on {args.manifest.stem}"
    print(f"{len(fit)} clips to fit on, {len(measure)} measured; {note}.\n\nAll clips in one file, kbit/s:\n")
    speeds = ["static, ktok/s", "adaptive + table, ktok/s"]
    print(markdown(["tokenizer", "fixed", "order 0", *ways, *speeds], (one for one, _ in rows)))
    print("\nA file for each clip, kbit/s (with headers):\n")
    print(markdown(["tokenizer", "fixed", *ways], (each for _, each in rows)))


if __name__ == "__main__":
    main()
