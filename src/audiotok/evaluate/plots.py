"""The plots of a report: rate against quality, spectrograms. matplotlib is imported when one is drawn."""

import io
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..plotting import COLOURS, FAINT, INK, draw_spectrogram, dress, new_figure, png
from .metrics import METRICS
from .tables import Line

_COUNTED = re.compile(r"(.+):\d+")
_ANCHOR_MARKERS = ("D", "s", "^", "v", "P", "X")
_MOST_PANELS = 9


def rate_figure(lines: Sequence[Line], anchors: set[str], metrics: Sequence[str]) -> bytes:
    """A panel for each metric: its mean over the rate that was measured, as a PNG. A tokenizer with several numbers of
    codebooks is a line; anchors are markers, and the audio itself is a level.

    Args:
        lines: of one group of items.
        anchors: systems that are no tokenizers.
        metrics: the first nine are drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    metrics = metrics[:_MOST_PANELS]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = new_figure((4.6 * columns + 0.4, 3.4 * rows + 0.7))
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn = [line for line in lines if line.kbps and line.system != "original"]
    for ax, metric in zip(grid.flat, metrics, strict=False):
        dress(ax, f"{METRICS[metric].label} ({METRICS[metric].better} is better)", "kbit/s, measured")
        for line in lines:
            level = line.cells[metric].mean
            if line.system == "original" and level is not None and math.isfinite(level):
                ax.axhline(level, color=FAINT, linestyle="--", linewidth=1.2, label="the audio itself")
        for style, members in _series(drawn, anchors):
            points = [(line.kbps, line.cells[metric].mean) for line in members]
            points = sorted((x, y) for x, y in points if x and y is not None and math.isfinite(y))
            ax.plot([x for x, _ in points], [y for _, y in points], **style)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_ylabel(METRICS[metric].unit, fontsize=10, color=INK)
    for ax in grid.flat[len(metrics) :]:
        ax.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize=10, frameon=False
        )
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


def _series(lines: Sequence[Line], anchors: set[str]) -> list[tuple[dict[str, Any], list[Line]]]:
    """Style and lines of each tokenizer, whatever its number of codebooks, and of each kind of anchor."""
    tokenizers: dict[str, list[Line]] = {}
    others: dict[str, list[Line]] = {}
    for line in lines:
        if line.system in anchors:
            others.setdefault(line.system.partition(":")[0], []).append(line)
        else:
            counted = _COUNTED.fullmatch(line.system)
            tokenizers.setdefault(counted[1] if counted else line.system, []).append(line)
    colours, markers = itertools.cycle(COLOURS), itertools.cycle(_ANCHOR_MARKERS)
    lined = {"marker": "o", "markersize": 5, "linewidth": 1.8}
    alone = {"linestyle": "none", "markersize": 7, "color": INK}
    return [
        *(({"label": name, **lined, "color": next(colours)}, found) for name, found in tokenizers.items()),
        *(({"label": name, **alone, "marker": next(markers)}, found) for name, found in others.items()),
    ]
