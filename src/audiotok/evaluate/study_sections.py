"""Sections of a report for what `studies` found: codes, robustness, parity, probes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..plotting import UsagePanel
from .document import Section, Table

_MOST_WIDE = 8  # codebooks of which each has a figure in a cell


def study_sections(studies: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> list[Section]:
    """Those for which something was found.

    Args:
        studies: by name and system.
        labels: of systems.
    """
    probes = {name: found for name, found in studies.items() if name.startswith("probe ") and found}
    sections = [_codes(studies.get("codes", {}), labels), _robustness(studies.get("robustness", {}), labels)]
    sections += [_parity(studies.get("parity", {}), labels), _probes(probes, labels)]
    return [section for section in sections if section]


def usage_panels(codes: Mapping[str, Any]) -> list[UsagePanel]:
    """How often each entry of each codebook occurs, of one system's statistics."""
    panels = []
    for number, (codebook, pairs) in enumerate(zip(codes["codebooks"], codes["counts"], strict=True), 1):
        counts = torch.zeros(codebook["size"])
        for token, count in pairs:
            counts[token] = count
        panels.append(UsagePanel(f"codebook {number}" if len(codes["codebooks"]) > 1 else "", {"": counts}))
    return panels


def _codes(found: Mapping[str, Any], labels: Mapping[str, str]) -> Section | None:
    good, reasons = _parted(found)
    if not found:
        return None
    head = ["tokenizer", "tokens/s", "kbit/s, fixed length", "at the entropy", "coded adaptively"]
    head += ["entries used, % by codebook", "perplexity by codebook"]
    rows = [
        [
            labels[system],
            f"{one['tokens_per_second']:g}",
            *(_kbps(one[name]) for name in ("nominal_bps", "entropy_bps", "adaptive_bps")),
            _listed([100 * codebook["usage"] for codebook in one["codebooks"]]),
            _listed([codebook["perplexity"] for codebook in one["codebooks"]]),
        ]
        for system, one in good.items()
    ]
    note = (
        "Over all items together. The entropy is that of single tokens; the adaptive coder of audiotok compress learns "
        "as it goes, so more audio needs fewer bits. Where there are not many more frames than entries, entropy and "
        "perplexity are too low, and entries seem unused."
        + f" Of more than {_MOST_WIDE} codebooks, the first and the range."
        * any(map(_is_long, good.values()))
    )
    return Section("Codes", [Table(head, rows), note, *_why(reasons)])


def _robustness(found: Mapping[str, Any], labels: Mapping[str, str]) -> Section | None:
    good, reasons = _parted(found)
    if not found:
        return None
    changes = list(dict.fromkeys(one["change"] for some in good.values() for one in some))
    head = ["tokenizer", *changes]
    rows = []
    for system, some in good.items():
        by_change = {one["change"]: one for one in some}
        rows.append([labels[system], *(_changed(by_change.get(change)) for change in changes)])
    note = (
        "Share of codes that change when the audio hardly does; in brackets that of the first codebook. Frames keep "
        "their grid, so with a shift some change is right."
    )
    return Section("Robustness of codes, %", [Table(head, rows), note, *_why(reasons)])


def _parity(found: Mapping[str, Any], labels: Mapping[str, str]) -> Section | None:
    good, reasons = _parted(found)
    if not found:
        return None
    ways = list(dict.fromkeys(one["way"] for some in good.values() for one in some))
    rows = []
    for system, some in good.items():
        by_way = {one["way"]: one for one in some}
        rows.append([labels[system], *(_share(by_way[way]) if way in by_way else "—" for way in ways)])
    note = (
        "Share of codes that differ from those of the audio alone and whole; an exclamation mark where it may not be."
    )
    return Section("Parity, %", [Table(["tokenizer", *ways], rows), note, *_why(reasons)])


def _probes(found: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> Section | None:
    if not found:
        return None
    systems = list(dict.fromkeys(system for some in found.values() for system in some))
    head, columns, chances = ["tokenizer"], [], []
    reasons: dict[str, str] = {}
    for name, some in found.items():
        good, bad = _parted(some)
        reasons |= {f"{name}, {system}": reason for system, reason in bad.items()}
        label = name.removeprefix("probe ")
        head.append("language model, bit/s" if label == "lm" else f"{label}, % right")
        columns.append({system: _probe(one) for system, one in good.items()})
        chance = next((one for one in good.values() if "chance" in one), None)
        if chance:
            chances.append(f"{label} {100 * chance['chance']:.1f} % of {chance['classes']} classes")
    rows = [[labels[system], *(column.get(system, "—") for column in columns)] for system in systems]
    note = "Small classifiers, and a small causal transformer, on tokens; mean and standard deviation over seeds."
    note += " Behind a slash, what is kept on one side: all in training, or all held out." * any(
        "/" in n for n in found
    )
    note += f" Guessing gets {', '.join(chances)}." if chances else ""
    return Section("Probes", [Table(head, rows), note, *_why(reasons)])


def _probe(one: Mapping[str, Any]) -> str:
    if "bits_per_second" in one:
        return f"{one['bits_per_second']:.0f} (perplexity {one['perplexity']:.1f} ± {one['perplexity_deviation']:.1f})"
    return f"{100 * one['mean']:.1f} ± {100 * one['deviation']:.1f}"


def _parted(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What was found, and why nothing was."""
    bad = {system: one["reason"] for system, one in found.items() if isinstance(one, dict) and "reason" in one}
    return {system: one for system, one in found.items() if system not in bad}, bad


def _why(reasons: Mapping[str, str]) -> list[list[str]]:
    return [[f"{name}: {reason}" for name, reason in reasons.items()]] if reasons else []


def _is_long(codes: Mapping[str, Any]) -> bool:
    return len(codes["codebooks"]) > _MOST_WIDE


def _kbps(bps: float | None) -> str:
    return "—" if bps is None else f"{bps / 1000:.3g}"


def _listed(values: Sequence[float]) -> str:
    """Each of a few; of many the first, and the range."""
    if len(values) <= _MOST_WIDE:
        return " ".join(map(_short, values))
    return f"{_short(values[0])}, {_short(min(values))} to {_short(max(values))}"


def _short(value: float) -> str:
    """Two digits that count, or whole numbers."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _changed(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "—"
    first = f" ({100 * one['shares'][0]:.1f})" if len(one["shares"]) > 1 else ""
    return f"{100 * one['share']:.1f}{first}"


def _share(one: Mapping[str, Any]) -> str:
    shown = f"{100 * one['share']:.3g}"
    return shown if one["passed"] else f"{shown} !"
