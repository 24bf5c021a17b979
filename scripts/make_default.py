#!/usr/bin/env python3
"""Put a trained codec into the package as the embedded default.

    audiotok train codec scripts/audiotok_base_16k.yaml --data CORPUS/train.jsonl --valid CORPUS/valid.jsonl --out RUN
    python scripts/make_default.py RUN                       # writes src/audiotok/assets/audiotok-base-16k
    python benchmarks/quality.py CORPUS OUT
    python scripts/make_default.py RUN --report OUT/speech OUT/music OUT/audio    # with its figures in the model card

Weights are stored in 16 bits (float16). Codes of the stored tokenizer are those of its weights so rounded.
"""

import argparse
import json
from pathlib import Path

import torch

import audiotok

NAME = "audiotok-base-16k"
OUT = Path(__file__).parents[1] / "src" / "audiotok" / "assets" / NAME
SOURCES = {
    "asterisk-core-sounds (en, es, fr, it, ru)": "CC-BY-SA-3.0, CC-BY-3.0",
    "asterisk-moh-opsound": "CC-BY-SA-3.0",
    "tuxpaint-stamps-default": "GPL-2",
    "wesnoth-1.16-music": "GPL-2+",
}
METRICS = ("stoi", "estoi", "pesq_wb", "mel_distance")


def figures(reports: list[Path]) -> dict[str, str]:
    """Means of the test split by number of codebooks and domain, out of `audiotok eval`'s results.json."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for line in json.loads((report / "results.json").read_text("utf-8"))["lines"]:
            if line["system"].split(":")[0] in ("default", NAME):
                means = [f"{name} {line['cells'][name]['mean']:.3f}" for name in METRICS if name in line["cells"]]
                found.setdefault(line["label"], []).append(f"{line['group']}: {', '.join(means)}")
    return {label: "; ".join(groups) for label, groups in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--report", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    tokenizer = audiotok.load(args.run, dtype=torch.float16)
    facts = tokenizer.provenance
    training = facts["training"]
    seconds = facts["steps"] * training["batch_size"] * training["segment_seconds"]
    tokenizer.provenance = {
        "license": "apache-2.0",
        "trained_on": "6.5 hours of speech (en, es, fr, it, ru, ro, bg, be, ca), music and effects "
        "from Debian packages",
        "sources": SOURCES,
        "how": f"scripts/audiotok_base_16k.yaml: {facts['steps']} steps of {training['batch_size']} crops of "
        f"{training['segment_seconds']:g} s ({seconds / 3600:.0f} hours of crops), log-magnitude and mel losses, Muon, "
        "no discriminators; chosen on the valid split",
        "limits": "16 kHz, mono; magnitudes are coded and phases found anew, so the wave is another one (SDR and "
        "SI-SNR are below 0 dB); voices, languages and instruments unlike those of the training suffer first",
    }
    if args.report:
        tokenizer.provenance["figures_on_test"] = figures(args.report)
    tokenizer.save(args.out)
    print(f"{args.out}: {(args.out / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
