"""report.md of a fit: what the codebooks keep of held-out audio, and how many clusters are enough."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import FitWarning, MissingDependencyError
from ..files import atomic_write, remove_unfinished
from ..plotting import UsagePanel
from ..tokenizer import Tokenizer
from .plots import Line, draw_curves, draw_usage
from .report import FitReport

ERRORS, PAGE, CURVES, USAGE = "errors.jsonl", "report.md", "report-curves.png", "report-usage.png"
_MOST_FAILURES = 20


@dataclass(frozen=True)
class Fitted:
    """A tokenizer, its report, how often each entry [V] of each codebook occurs in held-out frames, and the items that
    could not be read (id, kind, reason)."""

    tokenizer: Tokenizer
    report: FitReport
    counts: list[Tensor]
    failures: list[dict[str, str]]


def save_fits(folder: Path, fits: Sequence[Fitted]) -> None:
    """Writes the tokenizers, in folders kN where there are several, report.md with its plots, and errors.jsonl."""
    remove_unfinished(folder)
    for one in fits:
        target = folder / f"k{one.report.k}" if len(fits) > 1 else folder
        remove_unfinished(target)
        one.tokenizer.save(target)
    write_page(folder, fits)
    if fits[0].failures:
        with atomic_write(folder / ERRORS) as file:
            for failure in fits[0].failures:
                file.write(json.dumps(failure, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def failure_line(failure: dict[str, str]) -> str:
    """What could not be read, and why."""
    name, reason = failure["id"], failure["reason"]
    return reason if name in reason else f"{name}: {reason}"


def write_page(folder: Path, fits: Sequence[Fitted]) -> None:
    """Writes report.md and, where matplotlib is installed, its plots.

    Args:
        folder: that the tokenizers are in.
        fits: by ascending k, of the same sample.
    """
    failures = fits[0].failures
    reports = [one.report for one in fits]
    pictures = {CURVES: "What is left, how the entries are used", USAGE: "How often each entry occurs"}
    try:
        if not _draw_curves(folder / CURVES, reports):
            del pictures[CURVES]
        _draw_usage(folder / USAGE, fits)
    except MissingDependencyError as error:
        warnings.warn(f"{folder / PAGE} has no plots: {error}", FitWarning, stacklevel=4)
        pictures = {}
    lines = [f"# {_title(fits)}", "", *_facts(fits), "", *_table(reports), ""]
    lines += [line for name, alt in pictures.items() for line in (f"![{alt}]({name})", "")]
    lines += _explained(several=len(fits) > 1)
    for report in reports if reports[0].num_codebooks > 1 else ():
        lines += ["", f"## Codebook by codebook, k = {report.k}", "", report.table()]
    if failures:
        lines += ["", f"## {len(failures)} items could not be read", ""]
        lines += [f"- {failure_line(one)}" for one in failures[:_MOST_FAILURES]]
        lines += [f"- ... {ERRORS} has them all"] * (len(failures) > _MOST_FAILURES)
    with atomic_write(folder / PAGE) as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def _title(fits: Sequence[Fitted]) -> str:
    if len(fits) == 1:
        return fits[0].tokenizer.spec.name
    return f"How many clusters? {fits[0].report.features}, k = {', '.join(str(one.report.k) for one in fits)}"


def _facts(fits: Sequence[Fitted]) -> list[str]:
    report, spec = fits[0].report, fits[0].tokenizer.spec
    layers = f", layers {', '.join(map(str, report.layers))}" if report.layers else ""
    how = ["spherical"] * report.spherical + ["mini-batch"] * report.minibatch
    how += [f"best of {report.restarts}"] * (report.restarts > 1)
    rows = [
        ("corpus", f"{report.source}: {report.files - report.files_failed} items, {report.hours:.3g} h"),
        ("features", f"{report.features}{layers}"),
        ("audio", f"{spec.sample_rate} Hz, hop {spec.hop_length}: {spec.frame_rate:g} frames per second"),
        ("frames", f"{report.frames_seen} seen, {report.frames_used} fitted on, {report.frames_held_out} held out"),
        ("held out", report.held_out or "one item in twenty, or one frame in twenty where there are few items"),
        ("k-means", f"{' '.join([*how, report.engine])}, {report.iterations} iterations, seed {report.seed}"),
        (
            "time",
            f"{report.seconds_reading:.1f} s reading, {sum(f.report.seconds_fitting for f in fits):.1f} s fitting",
        ),
        ("made with", str(fits[0].tokenizer.provenance.get("made_with", ""))),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def _table(reports: Sequence[FitReport]) -> list[str]:
    """A line for each layer and k; residual codebooks together, as they decode."""
    layered = bool(reports[0].layers)
    head = ["layer"] * layered + ["k", "held-out distortion", "variance left", "less per doubling", "entries used"]
    head += ["perplexity", "entropy, bits", "bits per second", "after entropy coding", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    for group in range(len(reports[0].layers) or 1):
        for before, report in zip([None, *reports], reports, strict=False):
            lines.append("| " + " | ".join(_row(report, before, group)) + " |")
    return lines


def _row(report: FitReport, before: FitReport | None, group: int) -> list[str]:
    rows = slice(group, group + 1) if report.layers else slice(None)
    left = report.share_left[rows][-1]
    gain = "" if before is None else f"{gain_per_doubling(before, report, group):.1%}"
    bits = sum(report.entropy[rows])
    count = len(report.entropy[rows])
    return [
        *([str(report.layers[group])] if report.layers else []),
        str(report.k),
        f"{report.distortion[rows][-1]:.4g}",
        f"{left:.2%}",
        gain,
        f"{sum(report.usage[rows]) / count:.1%}",
        f"{2 ** (bits / count):.0f}",
        f"{bits:.2f} of {count * math.log2(report.k):.2f}",
        f"{report.frame_rate * count * math.log2(report.k):.0f}",
        f"{report.frame_rate * bits:.0f}",
        f"{report.seconds_fitting:.1f}",
    ]


def gain_per_doubling(before: FitReport, report: FitReport, group: int = 0) -> float:
    """By what share of itself the distortion falls with each doubling of k between two fits."""
    row = group if report.layers else -1
    ratio = report.distortion[row] / before.distortion[row] if before.distortion[row] else 1.0
    return 1 - math.pow(ratio, 1 / math.log2(report.k / before.k))


def _explained(several: bool) -> list[str]:
    lines = [
        "Distortion is the mean squared distance of held-out frames to what their tokens decode to; *variance left* is",
        "its share of what one single cluster would leave. *Perplexity* is how many equally frequent entries would be",
        "as hard to guess, *entropy* its logarithm, to which a lossless coder of single tokens comes down.",
    ]
    if several:
        lines += [
            "*Less per doubling* is by how much the distortion falls each time that k doubles: where it and the share",
            "of entries used drop, more clusters buy little. Downstream tasks have the last word.",
        ]
    return lines


def _draw_curves(path: Path, reports: Sequence[FitReport]) -> bool:
    """Over k where there are several, else over codebooks or layers; False where there is one point only."""
    first = reports[0]
    groups = len(first.layers) or 1
    if len(reports) > 1:
        lines = [
            Line(
                f"layer {first.layers[group]}" if first.layers else "",
                [report.k for report in reports],
                [report.share_left[group if first.layers else -1] for report in reports],
                [_mean(report.usage, group, first) for report in reports],
                [_mean(report.entropy, group, first) for report in reports],
            )
            for group in range(groups)
        ]
        draw_curves(path, lines, "k, clusters", [math.log2(report.k) for report in reports], log=True)
        return True
    if len(first.usage) == 1:
        return False
    names = first.layers or list(range(1, len(first.usage) + 1))
    line = Line("", names, first.share_left, first.usage, first.entropy)
    draw_curves(path, [line], "layer" if first.layers else "codebooks", [math.log2(first.k)] * len(names), log=False)
    return True


def _mean(values: Sequence[float], group: int, report: FitReport) -> float:
    return values[group] if report.layers else sum(values) / len(values)


def _draw_usage(path: Path, fits: Sequence[Fitted]) -> None:
    """A panel for each layer or codebook, a line for each k."""
    first = fits[0].report
    names = [f"layer {layer}" for layer in first.layers] or [f"codebook {i + 1}" for i in range(len(first.usage))]
    panels = [
        UsagePanel(name if len(names) > 1 else "", {f"k = {one.report.k}": one.counts[row] for one in fits})
        for row, name in enumerate(names)
    ]
    draw_usage(path, panels)
