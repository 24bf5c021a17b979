"""The plots of report.md. matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..plotting import COLOURS, FAINT, UsagePanel, dress, new_figure, png, usage_figure


@dataclass(frozen=True)
class Line:
    """One layer, or all codebooks: what is left of the variance, entries used and entropy (bits) at each x."""

    label: str
    x: Sequence[int]
    left: Sequence[float]
    used: Sequence[float]
    entropy: Sequence[float]


def draw_curves(path: Path, lines: Sequence[Line], x_label: str, most_bits: Sequence[float], *, log: bool) -> None:
    """Three panels over k, layers or codebooks: variance left, entropy, entries used.

    Args:
        path: of the PNG.
        lines: at most eight are told apart by colour.
        x_label: what x is.
        most_bits: entropy of entries that are all as frequent, at each x.
        log: whether x doubles.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure((13, 4.3))
    axes = figure.subplots(1, 3)
    for i, line in enumerate(lines):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": "o", "markersize": 5, "linewidth": 1.8}
        axes[0].plot(line.x, [100 * value for value in line.left], label=line.label, **style)
        axes[1].plot(line.x, line.entropy, label=line.label, **style)
        axes[2].plot(line.x, [100 * value for value in line.used], label=line.label, **style)
    axes[1].plot(lines[0].x, most_bits, color=FAINT, linestyle="--", linewidth=1.2, label="all equally frequent")
    titles = ("Variance left, held out (%)", "Entropy (bits per token)", "Entries used, held out (%)")
    for ax, title in zip(axes, titles, strict=True):
        dress(ax, title, x_label)
        if log:
            ax.set_xscale("log", base=2)
        ax.set_xticks(list(lines[0].x), [str(value) for value in lines[0].x])
        ax.minorticks_off()
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
    axes[2].set_ylim(0, 104)
    axes[1].legend(fontsize=10, frameon=False, loc="lower right")
    if len(lines) > 1:
        axes[0].legend(fontsize=10, frameon=False, loc="lower left")
    _save(figure, path)


def draw_usage(path: Path, panels: Sequence[UsagePanel]) -> None:
    """Draws `usage_figure` of held-out frames."""
    _save(usage_figure(panels, "How often each entry occurs, held out"), path)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(png(figure))
