#!/usr/bin/env python3
"""One light codec with each quantizer, at one bit rate, on speech, music, effects and all three: the third study of the
survey "Discrete Audio Tokens: More Than a Survey!" (arXiv 2506.10274), small enough for two cores.

    python benchmarks/ablation.py CORPUS OUT                     # trains what is missing, evaluates, prints the tables
    python benchmarks/ablation.py CORPUS OUT --steps 200 --domains speech --quantizers rvq svq --limit 20

CORPUS is the folder of train.jsonl and test.jsonl; another seed wants another OUT. Every codec has the same network,
steps, crops and 1 kbit/s: two codebooks of 1024 (FSQ: of 4^5 points) at 50 frames a second, and SVQ, which has one
codebook, one of 1024 at 100. k-means is fitted to the latents of the same network trained without a quantizer, whose
decoder never saw its centres.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import audiotok
from audiotok.evaluate import EvaluationReport, evaluate
from audiotok.train import parse_config, train_codec

DOMAINS = {"speech": ["speech"], "music": ["music"], "audio": ["audio"], "all": ["speech", "music", "audio"]}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "rvq": {"kind": "rvq", "num_codebooks": 2},
    "fsq": {"kind": "fsq", "num_codebooks": 2},
    "gvq": {"kind": "gvq", "num_codebooks": 2, "groups": 2},
    "svq": {"kind": "svq", "num_codebooks": 1},
    "kmeans": {"kind": "rvq", "num_codebooks": 2},
}
LABELS = {"rvq": "RVQ", "fsq": "FSQ", "gvq": "GVQ", "svq": "SVQ", "kmeans": "k-means"}
METRICS = {"sdr": "SDR", "si_snr": "SI-SNR", "pesq_wb": "PESQ", "stoi": "STOI", "mel_distance": "mel distance"}
SPEECH_ONLY = ("pesq_wb", "stoi")
IN_SURVEY = ("sdr", "si_snr", "pesq_wb")

#: What the survey found at 16 kHz (the table of its website, 2025): SDR, SI-SNR and, of speech, PESQ by what was
#: tested on, the quantizer, and the domain trained on. Its codecs are DAC's network, its k-means is of an SSL model.
SURVEY: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {
    "speech": {
        ("rvq", "speech"): (4.08, 1.15, 2.59),
        ("rvq", "audio"): (0.59, -3.36, 2.02),
        ("rvq", "music"): (2.80, -0.68, 2.00),
        ("rvq", "all"): (2.46, -1.12, 2.43),
        ("svq", "speech"): (-4.90, -13.59, 1.43),
        ("svq", "audio"): (-11.80, -33.46, 1.19),
        ("svq", "music"): (-5.19, -11.17, 1.20),
        ("svq", "all"): (-5.90, -15.13, 1.29),
        ("fsq", "speech"): (3.89, 1.75, 2.08),
        ("fsq", "audio"): (1.14, -1.89, 1.94),
        ("fsq", "music"): (-1.08, -4.39, 1.39),
        ("fsq", "all"): (2.41, 0.01, 1.97),
        ("kmeans", "speech"): (-18.21, -42.98, 1.05),
    },
    "music": {
        ("rvq", "speech"): (0.45, -2.29),
        ("rvq", "audio"): (5.78, 2.87),
        ("rvq", "music"): (6.34, 3.82),
        ("rvq", "all"): (5.75, 3.32),
        ("svq", "speech"): (-14.25, -27.16),
        ("svq", "audio"): (-6.54, -14.76),
        ("svq", "music"): (-0.35, -2.94),
        ("svq", "all"): (-2.75, -6.75),
        ("fsq", "speech"): (-5.04, -8.42),
        ("fsq", "audio"): (0.90, -1.14),
        ("fsq", "music"): (1.54, -0.67),
        ("fsq", "all"): (0.89, -1.38),
        ("kmeans", "speech"): (-19.53, -46.03),
    },
    "audio": {
        ("rvq", "speech"): (-4.05, -10.07),
        ("rvq", "audio"): (-0.59, -5.56),
        ("rvq", "music"): (0.65, -4.07),
        ("rvq", "all"): (0.14, -4.47),
        ("svq", "speech"): (-14.80, -31.86),
        ("svq", "audio"): (-13.08, -30.70),
        ("svq", "music"): (-6.53, -13.43),
        ("svq", "all"): (-9.28, -19.50),
        ("fsq", "speech"): (-7.32, -14.22),
        ("fsq", "audio"): (-2.79, -7.05),
        ("fsq", "music"): (-3.37, -8.23),
        ("fsq", "all"): (-3.22, -7.86),
        ("kmeans", "speech"): (-21.01, -47.37),
    },
}


def configuration(quantizer: str, domain: str, steps: int, seed: int) -> dict[str, Any]:
    """Of `audiotok train codec`."""
    single = quantizer == "svq"
    return {
        "codec": {
            "preset": "small",
            "hop_length": 160 if single else 320,
            "network": {"stride": 1 if single else 2},
            "quantizer": {**QUANTIZERS[quantizer], "codebook_size": 1024, "dropout": 0.0},
        },
        "training": {
            "steps": steps,
            "seed": seed,
            "batch_size": 8,
            "optimizer": "muon",
            "learning_rate": 0.002,
            "betas": [0.8, 0.95],
            "clip_norm": 1.0,
            "warmup_steps": 100,
            "quantize_from": steps if quantizer == "kmeans" else 100,
            "precision": "bf16",
            "ema_decay": 0.99,
            "balancer": False,
            "adversarial_from": -1,
            "weights": {"mel": 2.0, "stft": 0.0, "time": 10.0},
            "domains": dict.fromkeys(DOMAINS[domain], 1.0),
            "save_every": steps,
            "validate_every": steps,
            "validation_items": 4,
            "samples": 0,
        },
    }


def train(corpus: Path, out: Path, quantizer: str, domain: str, steps: int, seed: int) -> Path:
    """The folder of a trained tokenizer, trained unless it is there."""
    folder = out / f"{quantizer}-{domain}"
    if (folder / "done").exists():
        return folder
    network = folder.with_name(f"autoencoder-{domain}") if quantizer == "kmeans" else folder
    config, training = parse_config(configuration(quantizer, domain, steps, seed), f"{quantizer} on {domain}")
    train_codec(config, corpus / "train.jsonl", network, training=training, device="cpu", tensorboard=False)
    if quantizer == "kmeans":
        lines = (corpus / "train.jsonl").read_text("utf-8").splitlines()
        paths = [
            corpus / row["path"] for row in map(json.loads, lines) if row["domain"] in DOMAINS[domain]
        ]  # a fit takes every item of its source
        fitted = audiotok.fit_kmeans(
            paths, features=str(network), k=1024, num_codebooks=2, max_frames=200_000, seed=seed, name=folder.name
        )
        fitted.save(folder)
    (folder / "done").touch()
    return folder


def table(report: EvaluationReport, domain: str, folders: dict[tuple[str, str], Path]) -> Iterator[str]:
    """Markdown, of test items of one domain; the survey's figures beside ours."""
    metrics = [name for name in METRICS if domain == "speech" or name not in SPEECH_ONLY]
    theirs = IN_SURVEY[: 3 if domain == "speech" else 2]
    header = [*(METRICS[name] for name in metrics), *(f"{METRICS[name]} (survey)" for name in theirs)]
    yield f"\n### Tested on {domain} ({report.items} items)\n"
    yield f"| quantizer | trained on | {' | '.join(header)} |"
    yield f"| --- | --- |{' ---: |' * len(header)}"
    for (quantizer, trained), folder in folders.items():
        means = [report.cell(str(folder), name, domain).mean for name in metrics]
        survey = SURVEY[domain].get((quantizer, trained))
        values = ["" if mean is None else f"{mean:.3f}" for mean in means]
        values += [f"{value:.2f}" for value in survey] if survey else [""] * len(theirs)
        yield f"| {LABELS[quantizer]} | {trained} | {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--quantizers", nargs="+", choices=QUANTIZERS, default=list(QUANTIZERS))
    parser.add_argument("--limit", type=int, default=60, help="test items of each domain")
    parser.add_argument("--num-processes", type=int, default=1)
    args = parser.parse_args()
    out = args.out.resolve()
    folders = {
        (quantizer, domain): train(args.corpus, out, quantizer, domain, args.steps, args.seed)
        for domain in args.domains
        for quantizer in args.quantizers
    }
    for domain in ("speech", "music", "audio"):
        report = evaluate(
            [str(folder) for folder in folders.values()],
            args.corpus / "test.jsonl",
            out / "report" / domain,
            metrics=list(METRICS),
            where={"domain": domain},
            longer_than=2.0 if domain == "speech" else 0.0,
            limit=args.limit,
            cost=False,
            robustness=False,
            num_processes=args.num_processes,
        )
        print("\n".join(table(report, domain, folders)))


if __name__ == "__main__":
    main()
