#!/usr/bin/env python3
"""How good the default is, beside Opus, Codec 2, log-mel k-means and two codecs that learned nothing: docs/quality.md
and its picture.

    apt install opus-tools codec2
    python benchmarks/quality.py CORPUS OUT                  # about twenty minutes on two cores; goes on when stopped
    python benchmarks/quality.py CORPUS OUT --limit 20       # a sample of each domain

CORPUS is the folder of test.jsonl, OUT one for the report, which is `audiotok eval`'s. The codecs that learned nothing
are EnCodec (24 kHz) and Mimi as they are published, with weights drawn at random: what metrics give to anything.
"""

import argparse
import os
from pathlib import Path

import torch
from transformers import EncodecConfig, EncodecModel, MimiConfig, MimiModel

import audiotok
from audiotok.evaluate import EvaluationReport, evaluate
from audiotok.evaluate.plots import rate_figure

PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
RANDOM = {"encodec": (EncodecModel, EncodecConfig, 4), "mimi": (MimiModel, MimiConfig, 8)}
DOMAINS = {"Speech": "speech", "Music": "music", "Effects": "audio"}
WITHOUT_WORDS = ["sdr", "si_snr", "mel_distance", "stft_distance"]  # PESQ and STOI are about speech
CLEAN = sorted((PAGE.parents[1] / "tests" / "data" / "audio").glob("speech_*.flac"))
INTRODUCTION = """\
Written by `benchmarks/quality.py`: `audiotok eval` on the corpus's `test` split, voices, languages, rooms, tracks and
sounds that nothing here was fitted, trained or tuned on; of speech the clips longer than 2 s. The clean clips at the
end are the exception: they are few, and the training split has their voices.
[evaluation.md](evaluation.md) says what is measured and how, [metrics.md](metrics.md) what each metric means. SDR and
SI-SNR compare waves: of codecs that find phases anew, as the default, the log-mel one and Codec 2 do, they tell
little."""


def random_codec(family: str, folder: Path) -> str:
    """The folder of a wrapped codec with random weights, made if need be."""
    model, config, codebooks = RANDOM[family]
    made = folder / f"random-{family}"
    if not (made / "config.json").exists():
        torch.manual_seed(0)
        network = model(config())
        for name, value in network.state_dict().items():
            if name.endswith(("codebook.embed", "embed_sum")):
                value.normal_()
            if name.endswith("cluster_usage"):
                value.fill_(1.0)
        network.save_pretrained(folder / f"upstream-{family}")
        audiotok.convert(family, folder / f"upstream-{family}", name=f"random-{family}").save(made)
    return f"./{made.name}:{codebooks}"


def picture(report: EvaluationReport) -> bytes:
    """Rate against quality, as a PNG."""
    drawn = rate_figure(
        report.lines, {one.system: one.fingerprint for one in report.systems}, ["pesq_wb", "estoi", "mel_distance"]
    )
    assert drawn is not None  # there are lines with rates
    return drawn


def page(reports: dict[str, EvaluationReport], costs: str) -> str:
    """docs/quality.md."""
    parts = [
        "# Quality",
        INTRODUCTION,
        "![Rate against quality of speech: the numbers are in the first table](quality.png)",
    ]
    for title, report in reports.items():
        text = report.markdown().split("\n", 1)[1].strip()  # without its own title
        parts += [f"## {title}", text.replace("\n## ", "\n### ")]
    return "\n\n".join([*parts, costs.strip().replace("# ", "## ", 1)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, help="items of each domain")
    parser.add_argument("--num-processes", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE, help="default docs/quality.md")
    args = parser.parse_args()
    corpus, out, page_path = args.corpus.resolve(), args.out.resolve(), args.page.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # so that the page names the random codecs by their folders alone
    systems = [
        *("default", "default:4", "default:2", "default:1", "logmel-16khz", "logmel-16khz:4"),
        *("opus:6", "opus:8", "opus:12", "codec2:3200", "codec2:1600"),
        *(random_codec(family, out) for family in RANDOM),
        "original",
    ]
    reports = {
        title: evaluate(
            systems,
            corpus / "test.jsonl",
            out / domain,
            metrics=None if domain == "speech" else WITHOUT_WORDS,
            where={"domain": domain},
            longer_than=2.0 if domain == "speech" else 0.0,
            limit=args.limit,
            num_processes=args.num_processes,
            cost=domain == "speech",
            robustness=domain == "speech",
            probes=["speaker"] if domain == "speech" else [],
        )
        for title, domain in DOMAINS.items()
    }
    reports["Clean speech, of voices known from training"] = evaluate(
        systems, CLEAN, out / "clean", num_processes=args.num_processes, cost=False, robustness=False
    )
    page_path.with_suffix(".png").write_bytes(picture(reports["Speech"]))
    page_path.write_text(page(reports, (out / "speech" / "cost.md").read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
