#!/usr/bin/env python3
"""What a batch of unlike lengths costs: row by row, as ragged rows, and padded with zeros as peers do it.

    OMP_WAIT_POLICY=passive python benchmarks/codec_batches.py
    python benchmarks/codec_batches.py --device cuda        # where there is a GPU; times are then seconds by the clock

Networks of the published sizes with random weights, eight utterances of 2.3 to 15.6 s. `changed`: share of codes
that are not those of the row alone. Ragged rows (`batching="mask"`) end where they end at every layer; "padded" is the
same network on the zero-padded batch, its codes cut to each row's frames.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from codec_memory import MODELS
from torch import Tensor

from audiotok import Tokenizer, audio

SECONDS = (2.3, 3.7, 5.1, 6.6, 8.2, 9.9, 12.7, 15.6)
CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"


def utterances(rate: int) -> list[Tensor]:
    """Rows [1, T_i] of real speech."""
    track = torch.cat([audio.load(path, sample_rate=rate, channels=1)[0] for path in sorted(CLIPS.glob("speech_*"))], 1)
    found, at = [], 0
    for seconds in SECONDS:
        size = int(seconds * rate)
        at = at if at + size <= track.shape[1] else 0
        found.append(track[:, at : at + size])
        at += size
    return found


def padded(tokenizer: Tokenizer, rows: list[Tensor]) -> list[Tensor]:
    """The zero-padded batch as rows of one length, codes cut."""
    longest = max(row.shape[1] for row in rows)
    batch = torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])
    codes = tokenizer.encode(batch).tokens
    frames = [tokenizer.num_frames(row.shape[1]) for row in rows]
    return [codes[i : i + 1, :, :count] for i, count in enumerate(frames)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    print("| | way | seconds | against row by row | changed |\n| --- | --- | ---: | ---: | ---: |")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        tokenizer = make().requires_grad_(False).to(args.device)
        rows = [row.to(args.device) for row in utterances(tokenizer.spec.sample_rate)]

        def one_by_one(tokenizer: Tokenizer = tokenizer, rows: list[Tensor] = rows) -> list[Tensor]:
            tokenizer.row_by_row = True
            return [code.tokens for code in tokenizer.encode(rows)]

        def ragged(tokenizer: Tokenizer = tokenizer, rows: list[Tensor] = rows) -> list[Tensor]:
            tokenizer.row_by_row, tokenizer.max_padding = False, 0.25
            return [code.tokens for code in tokenizer.encode(rows)]

        def all_together(tokenizer: Tokenizer = tokenizer, rows: list[Tensor] = rows) -> list[Tensor]:
            tokenizer.row_by_row, tokenizer.max_padding = False, 1.0
            return [code.tokens for code in tokenizer.encode(rows)]

        def as_peers(tokenizer: Tokenizer = tokenizer, rows: list[Tensor] = rows) -> list[Tensor]:
            tokenizer.row_by_row = False
            return padded(tokenizer, rows)

        ways: dict[str, Callable[[], list[Tensor]]] = {
            "row by row": one_by_one,
            "ragged, at most a quarter padding": ragged,
            "ragged, all together": all_together,
            "padded with zeros, as peers do": as_peers,
        }
        best, found = dict.fromkeys(ways, float("inf")), {}
        for _ in range(args.turns):
            for way, call in ways.items():
                started = clock()
                found[way] = call()
                if not on_cpu:
                    torch.cuda.synchronize()
                best[way] = min(best[way], clock() - started)
        for way, codes in found.items():
            pairs = list(zip(codes, found["row by row"], strict=True))
            share = sum(int((a != b).sum()) for a, b in pairs) / sum(b.numel() for _, b in pairs)
            ratio = best["row by row"] / best[way]
            print(f"| {name} | {way} | {best[way]:.2f} | {ratio:.2f} | {share:.2%} |", flush=True)


if __name__ == "__main__":
    main()
