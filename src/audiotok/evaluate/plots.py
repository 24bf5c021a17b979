"""The plots of a report: rate against quality, spectrograms. matplotlib is imported when one is drawn."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..plotting import COLOURS, FAINT, INK, draw_spectrogram, dress, new_figure, png
from .metrics import METRICS
from .tables import Line

_CODEBOOKS = re.compile(r", \d+ of \d+ codebooks")  # of a label
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven, beside eight colours: 56 pairs
_LONGEST_NAME = 40

_Series = tuple[dict[str, Any], list[Line]]  # how it looks, and of what it is


def rate_figure(lines: Sequence[Line], fingerprints: Mapping[str, str], metrics: Sequence[str]) -> bytes | None:
    """A panel for each metric: its mean over the rate that was measured, as a PNG. A tokenizer with several numbers of
    codebooks is a line; anchors are hollow markers, and the audio itself is a level.

    Args:
        lines: of one group of items.
        fingerprints: by system, of its tokenizer; empty for an anchor.
        metrics: names; those that have no finite mean are left out.

    Returns:
        None where there is nothing to draw.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    original = [line for line in lines if line.system == "original"]
    drawn = [line for line in lines if line.kbps and line.system != "original"]
    metrics = [name for name in metrics if any(_finite(line, name) for line in drawn)]
    if not metrics:
        return None
    series = _series(drawn, fingerprints)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    width = 4.6 * columns + 0.4
    legend_columns = _columns(width, [style["label"] for style, _ in series])
    legend_rows = -(-(len(series) + len(original)) // legend_columns)
    figure = new_figure((width, 3.4 * rows + 0.4 + 0.25 * legend_rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    levels: list[Any] = []
    for ax, metric in zip(grid.flat, metrics, strict=False):
        dress(ax, f"{METRICS[metric].label} ({METRICS[metric].better} is better)", "kbit/s, measured")
        curves = [_plot(ax, one, metric) for one in series]
        for line in original:
            if _finite(line, metric):
                level = line.cells[metric].mean
                levels = [ax.axhline(level, color=FAINT, linestyle="--", linewidth=1.2, label="the audio itself")]
        ax.set_xscale("log", base=2)
        ax.set_xlim(*_octaves([line.kbps for line in drawn if line.kbps]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_ylabel(METRICS[metric].unit, fontsize=10, color=INK)
    for ax in grid.flat[len(metrics) :]:
        ax.set_visible(False)
    figure.legend(handles=curves + levels, loc="outside lower center", ncols=legend_columns, fontsize=10, frameon=False)
    return png(figure)


def spectrogram_image(wav: Tensor, sample_rate: int, loudest: float | None) -> tuple[bytes, float]:
    """A small spectrogram of wav [T] as a JPEG, and the level in dB of its brightest colour (`draw_spectrogram`)."""
    figure = new_figure((3.2, 1.7))
    ax = figure.subplots()
    top = draw_spectrogram(ax, wav, sample_rate, loudest)
    ax.tick_params(labelsize=8, colors=FAINT, length=2)
    data = io.BytesIO()
    figure.savefig(data, format="jpeg", pil_kwargs={"quality": 85})  # a PNG of it has eight times as many bytes
    return data.getvalue(), top


def _series(lines: Sequence[Line], fingerprints: Mapping[str, str]) -> list[_Series]:
    """Each tokenizer, whatever its number of codebooks, and each kind of anchor. No two look alike."""
    tokenizers: dict[str, list[Line]] = {}
    anchors: dict[str, list[Line]] = {}
    for line in lines:
        fingerprint = fingerprints[line.system]
        of, name = (tokenizers, fingerprint) if fingerprint else (anchors, line.system.partition(":")[0])
        of.setdefault(name, []).append(line)
    series: list[_Series] = []
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(_MARKERS), strict=False)
    for found, (colour, marker) in zip(tokenizers.values(), looks, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8}
        series.append(({"label": _named(found[0].label), **style}, found))
    for (name, found), marker in zip(anchors.items(), itertools.cycle(_MARKERS), strict=False):
        style = {"color": INK, "marker": marker, "markersize": 7, "markerfacecolor": "white", "linestyle": "none"}
        series.append(({"label": name, **style}, found))
    return series


def _plot(ax: Any, series: _Series, metric: str) -> Any:
    style, lines = series
    points = sorted((line.kbps, line.cells[metric].mean) for line in lines if _finite(line, metric))
    (curve,) = ax.plot([x for x, _ in points], [y for _, y in points], **style)
    return curve


def _finite(line: Line, metric: str) -> bool:
    mean = line.cells[metric].mean
    return mean is not None and math.isfinite(mean)


def _named(label: str) -> str:
    """A tokenizer as the legend names it. To matplotlib, what is between dollars is a formula, and what begins with an
    underscore is not to be named."""
    name = _CODEBOOKS.sub("", label)
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return f"{' ' * name.startswith('_')}{name}".replace("$", r"\$")


def _columns(width: float, names: Sequence[str]) -> int:
    """Of the legend, that fit in so many inches."""
    return max(1, min(5, int(width / (0.7 + 0.09 * max(len("the audio itself"), *map(len, names))))))


def _octaves(rates: Sequence[float]) -> tuple[float, float]:
    """An axis from one power of two to another, a little wider: two ticks at least, and like rates look alike."""
    low, high = math.floor(math.log2(min(rates))), math.ceil(math.log2(max(rates)))
    return 0.92 * 2.0**low, 1.09 * 2.0 ** max(high, low + 1)
