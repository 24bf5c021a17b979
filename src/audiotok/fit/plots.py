"""The plots of report.md. matplotlib is imported when one is drawn."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError
from ..files import atomic_write

_INK, _FAINT, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_COLOURS = ("#2563a8", "#d9730d", "#2f855a", "#a23b72", "#6b4fbb", "#8a6d3b", "#c0392b", "#0f7c8a")
_MOST_PANELS = 8


@dataclass(frozen=True)
class Line:
    """One layer, or all codebooks: what is left of the variance, entries used and entropy (bits) at each x."""

    label: str
    x: Sequence[int]
    left: Sequence[float]
    used: Sequence[float]
    entropy: Sequence[float]


@dataclass(frozen=True)
class UsagePanel:
    """How often each entry of a codebook [V] occurs, for each of several k."""

    title: str
    counts: dict[str, Tensor]


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
    figure = _new_figure((13, 4.3))
    axes = figure.subplots(1, 3)
    for i, line in enumerate(lines):
        style = {"color": _COLOURS[i % len(_COLOURS)], "marker": "o", "markersize": 5, "linewidth": 1.8}
        axes[0].plot(line.x, [100 * value for value in line.left], label=line.label, **style)
        axes[1].plot(line.x, line.entropy, label=line.label, **style)
        axes[2].plot(line.x, [100 * value for value in line.used], label=line.label, **style)
    axes[1].plot(lines[0].x, most_bits, color=_FAINT, linestyle="--", linewidth=1.2, label="all equally frequent")
    titles = ("Variance left, held out (%)", "Entropy (bits per token)", "Entries used, held out (%)")
    for ax, title in zip(axes, titles, strict=True):
        _dress(ax, title, x_label)
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
    """Entries in the order of how often they occur, against how often they would if all were as frequent. At most
    eight codebooks are drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    panels = panels[:_MOST_PANELS]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    matplotlib = _matplotlib()
    figure = _new_figure((max(6.5, 3.4 * columns), 3.5 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, panel in zip(grid.flat, panels, strict=False):
        shades = _shades(len(panel.counts))
        for (label, counts), colour in zip(panel.counts.items(), shades, strict=True):
            ordered = counts.sort(descending=True).values
            share = ordered / ordered.sum() * len(ordered)
            rank = 100 * torch.arange(1, len(ordered) + 1) / len(ordered)
            used = share > 0
            ax.plot(rank[used].tolist(), share[used].tolist(), color=colour, linewidth=1.8, label=label)
        ax.axhline(1, color=_FAINT, linestyle="--", linewidth=1)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xlim(0, 100)
        _dress(ax, panel.title or "How often each entry occurs, held out", "")
    for ax in grid.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in grid[:, 0]:
        ax.set_ylabel("times as often as on average", fontsize=10, color=_INK)
    for ax in grid[-1]:
        ax.set_xlabel("entries, most frequent first (%)", fontsize=10, color=_INK)
    if len(panels[0].counts) > 1:
        grid[0, 0].legend(fontsize=10, frameon=False, loc="lower left")
    _save(figure, path)


def _shades(count: int) -> list[Any]:
    """Colours from light to dark, since k is ordered; one alone is the usual blue."""
    if count == 1:
        return [_COLOURS[0]]
    shades = _matplotlib().colormaps["viridis_r"]
    return [shades(0.12 + 0.83 * i / (count - 1)) for i in range(count)]


def _dress(ax: Any, title: str, x_label: str) -> None:
    ax.set_title(title, fontsize=12, color=_INK, loc="left")
    ax.set_xlabel(x_label, fontsize=10, color=_INK)
    ax.tick_params(labelsize=10, colors=_FAINT, length=3)
    ax.grid(color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#c9ced6")


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
        import matplotlib.ticker
        from matplotlib.backends import backend_agg  # noqa: F401
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("plots need matplotlib: pip install 'audiotok[demo]'") from error
    return matplotlib


def _new_figure(size: tuple[float, float]) -> Any:
    return _matplotlib().figure.Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")


def _save(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    with atomic_write(path) as file:
        file.write(data.getvalue())
