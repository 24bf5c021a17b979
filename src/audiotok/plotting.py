"""What the plots of reports share: a figure without a screen, its dress, usage of codebooks, spectrograms.

matplotlib is imported when one is drawn.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import MissingDependencyError

INK, FAINT, GRID, FRAME = "#1f2430", "#6b7280", "#e5e7eb", "#c9ced6"
COLOURS = ("#2563a8", "#d9730d", "#2f855a", "#a23b72", "#6b4fbb", "#8a6d3b", "#c0392b", "#0f7c8a")
_RANGE_DB = 75.0  # of a spectrogram, below its loudest point
_MOST_PANELS = 8


@dataclass(frozen=True)
class UsagePanel:
    """How often each entry of a codebook [V] occurs, for each of several k."""

    title: str
    counts: dict[str, Tensor]


def import_matplotlib() -> Any:
    """matplotlib, as far as it needs no screen.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import matplotlib.figure
        import matplotlib.ticker
        from matplotlib.backends import backend_agg  # noqa: F401
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("plots need matplotlib: pip install 'audiotok[demo]'") from error
    return matplotlib


def new_figure(size: tuple[float, float]) -> Any:
    """A white figure of so many inches at 110 dots per inch."""
    return import_matplotlib().figure.Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")


def dress(ax: Any, title: str, x_label: str) -> None:
    """Title to the left, a faint grid, no frame above and to the right."""
    ax.set_title(title, fontsize=12, color=INK, loc="left")
    ax.set_xlabel(x_label, fontsize=10, color=INK)
    ax.tick_params(labelsize=10, colors=FAINT, length=3)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FRAME)


def png(figure: Any) -> bytes:
    """The figure as a PNG, the same bytes each time."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def usage_figure(panels: Sequence[UsagePanel], title: str) -> Any:
    """Entries in the order of how often they occur, against how often they would if all were as frequent. At most
    eight codebooks are drawn; `title` is for one that has none.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    panels = panels[:_MOST_PANELS]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    matplotlib = import_matplotlib()
    figure = new_figure((max(6.5, 3.4 * columns), 3.5 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, panel in zip(grid.flat, panels, strict=False):
        shades = _shades(len(panel.counts))
        for (label, counts), colour in zip(panel.counts.items(), shades, strict=True):
            ordered = counts.sort(descending=True).values
            share = ordered / ordered.sum() * len(ordered)
            rank = 100 * torch.arange(1, len(ordered) + 1) / len(ordered)
            used = share > 0
            ax.plot(rank[used].tolist(), share[used].tolist(), color=colour, linewidth=1.8, label=label)
        ax.axhline(1, color=FAINT, linestyle="--", linewidth=1)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xlim(0, 100)
        dress(ax, panel.title or title, "")
    for ax in grid.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in grid[:, 0]:
        ax.set_ylabel("times as often as on average", fontsize=10, color=INK)
    for ax in grid[-1]:
        ax.set_xlabel("entries, most frequent first (%)", fontsize=10, color=INK)
    if len(panels[0].counts) > 1:
        grid[0, 0].legend(fontsize=10, frameon=False, loc="lower left")
    return figure


def _shades(count: int) -> list[Any]:
    """Colours from light to dark, since k is ordered; one alone is the usual blue."""
    if count == 1:
        return [COLOURS[0]]
    shades = import_matplotlib().colormaps["viridis_r"]
    return [shades(0.12 + 0.83 * i / (count - 1)) for i in range(count)]


def draw_spectrogram(ax: Any, wav: Tensor, sample_rate: int, loudest: float | None = None) -> float:
    """Draws magnitudes in dB over seconds and kHz.

    Args:
        ax: of matplotlib.
        wav: [T].
        sample_rate: in Hz.
        loudest: level in dB that has the brightest colour; None means the loudest point.

    Returns:
        The level of the brightest colour, for the next spectrogram to be drawn alike.
    """
    window = 2 ** round(math.log2(0.032 * sample_rate))
    hop = max(1, window // 8, len(wav) // 1200)
    padded = torch.nn.functional.pad(wav, (window // 2, window // 2))
    spectrum = torch.stft(padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True)
    level = 20 * torch.log10(spectrum.abs().clamp(min=1e-7))
    top = float(level.max()) if loudest is None else loudest
    ax.imshow(
        level.numpy(),
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=top - _RANGE_DB,
        vmax=top,
        extent=(0, len(wav) / sample_rate, 0, sample_rate / 2000),
        interpolation="bilinear",
    )
    return top
