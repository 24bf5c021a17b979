#!/usr/bin/env python3
"""Make the embedded log-mel tokenizer again, the default before there was audiotok-base-16k, and measure it.

    python build_corpus.py CORPUS            # the project's corpus of freely licensed audio, 6.5 hours
    python scripts/fit_default.py CORPUS     # fits on train, measures on test, writes src/audiotok/assets/logmel-16khz

Takes about 15 minutes on two cores. Needs `pip install 'audiotok[eval]'` for STOI and PESQ.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from pesq import NoUtterancesError, pesq
from pystoi import stoi
from tqdm import tqdm

import audiotok
from audiotok.fit.report import measure
from audiotok.ssl.logmel_kmeans import LogMelKMeans

NAME = "logmel-16khz"
OUT = Path(__file__).parents[1] / "src" / "audiotok" / "assets" / NAME
MAX_FRAMES = 1_200_000  # all of the train split
SOURCES = {
    "asterisk-core-sounds (en, es, fr, it, ru)": "CC-BY-SA-3.0, CC-BY-3.0",
    "asterisk-moh-opsound": "CC-BY-SA-3.0",
    "tuxpaint-stamps-default": "GPL-2",
    "wesnoth-1.16-music": "GPL-2+",
}


def rows(corpus: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]


def quality(tokenizer: LogMelKMeans, paths: list[Path], num_codebooks: int) -> dict[str, float]:
    """Mean STOI, ESTOI and wide-band PESQ of decoded speech."""
    scores = []
    for path in tqdm(paths, desc=f"{num_codebooks} codebooks"):
        wav, rate = audiotok.audio.load(path)
        decoded = tokenizer.decode(tokenizer.encode(wav).truncate(num_codebooks))
        clean, coded = wav[0].numpy(), decoded[0, 0].numpy()
        try:
            wide_band = pesq(rate, clean, coded, "wb")
        except NoUtterancesError:  # PESQ finds no speech in it: left out of its mean
            wide_band = np.nan
        scores.append([stoi(clean, coded, rate), stoi(clean, coded, rate, extended=True), wide_band])
    means = np.nanmean(scores, axis=0).round(3).tolist()
    return {**dict(zip(("STOI", "ESTOI", "PESQ-WB"), means, strict=True)), "clips": len(paths)}


def distortion(tokenizer: LogMelKMeans, paths: list[Path]) -> dict[str, float]:
    """Share of the variance of log-mel frames that the codebooks leave, for 1, 4 and 8 of them."""
    frames = [tokenizer.features(audiotok.audio.load(path)[0])[0][0].t() for path in paths]
    found = measure(tokenizer.quantizer, torch.cat(frames))
    return {str(count): round(found.distortion[count - 1] / found.variance[0], 4) for count in (1, 4, 8)}


def fit(corpus: Path, out: Path) -> None:
    train = rows(corpus, "train")
    tokenizer = audiotok.fit_kmeans(
        [corpus / row["path"] for row in train],
        k=1024,
        num_codebooks=8,
        engine="torch",
        max_frames=MAX_FRAMES,
        iterations=20,
        seed=0,
        name=NAME,
    )
    tokenizer.provenance |= {
        "license": "apache-2.0",
        "fitted_on": f"{sum(row['duration'] for row in train) / 3600:.1f} hours of speech, music and effects from "
        "Debian packages; no single clip can be had back from cluster centres",
        "sources": SOURCES,
        "how": "scripts/fit_default.py: residual k-means over all frames, k-means++ start, 20 steps of Lloyd's "
        "algorithm, the first 10 on a quarter of the frames",
        "limits": "no network and no training objective: a floor for learned codecs, not a rival; 16 kHz, mono",
    }
    tokenizer.save(out)


def figures(tokenizer: LogMelKMeans, corpus: Path) -> dict[str, object]:
    """What is measured on the test split, once."""
    test = rows(corpus, "test")
    clips = {domain: [row for row in test if row["domain"] == domain] for domain in ("speech", "music", "audio")}
    long_speech = [corpus / row["path"] for row in clips["speech"] if row["duration"] > 2]
    return {
        "variance_left_on_test": {
            domain: distortion(tokenizer, [corpus / row["path"] for row in found]) for domain, found in clips.items()
        },
        f"test_speech_over_2_s_{len(long_speech)}_clips": {
            f"{count} codebooks": quality(tokenizer, long_speech, count) for count in (8, 4, 1)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure-only", action="store_true", help="keep the tokenizer in OUT, measure it again")
    args = parser.parse_args()
    if not args.measure_only:
        fit(args.corpus, args.out)
    tokenizer = audiotok.load(args.out)
    tokenizer.provenance |= figures(tokenizer, args.corpus)
    tokenizer.save(args.out)
    print(json.dumps(tokenizer.provenance, indent=2))


if __name__ == "__main__":
    main()
