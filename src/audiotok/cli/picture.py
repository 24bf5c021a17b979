"""The picture of `audiotok demo`: what went in, the tokens, what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import MissingDependencyError
from ..plotting import FAINT, FRAME, INK, draw_spectrogram

MAX_CLIPS = 5  # side by side in 1600 pixels
MAX_SECONDS = 4.0


@dataclass(frozen=True)
class Panel:
    """One column of the picture.

    Attributes:
        title: above it.
        wav, decoded: [C, T] in and out, mixed to mono for the picture.
        codes: of one row.
        stoi: of decoded against wav, or None.
    """

    title: str
    wav: Tensor
    decoded: Tensor
    codes: Codes
    stoi: float | None


def import_matplotlib() -> Any:
    """matplotlib.figure, which draws without a screen.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure
        from matplotlib.backends import backend_agg  # noqa: F401
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError(
            "the picture needs matplotlib: pip install 'audiotok[demo]', or --no-picture"
        ) from error
    return matplotlib.figure


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Writes the picture: for each clip a column of waveform, tokens, spectrogram in and spectrogram out."""
    panels = panels[:MAX_CLIPS]
    spec = panels[0].codes.spec
    figure = import_matplotlib().Figure(figsize=(16, 9.2), dpi=100, facecolor="white")
    lengths = [min(MAX_SECONDS, panel.wav.shape[1] / spec.sample_rate) for panel in panels]
    grid = figure.subplots(
        4,
        len(panels),
        squeeze=False,
        gridspec_kw={
            "height_ratios": (1, 0.6 + 0.06 * min(spec.num_codebooks, 16), 2, 2),
            "width_ratios": [max(length, 0.4 * max(lengths)) for length in lengths],
            "hspace": 0.16,
            "wspace": 0.09,
        },
    )
    figure.subplots_adjust(left=0.055, right=0.99, top=0.89, bottom=0.065)
    size = max(spec.codebook_sizes)
    figure.text(0.055, 0.955, spec.name, fontsize=17, fontweight="bold", color=INK)
    figure.text(
        0.99,
        0.957,
        f"{spec.num_codebooks} codebook{'s' * (spec.num_codebooks > 1)} \N{MULTIPLICATION SIGN} {size} entries   ·   "
        f"{spec.frame_rate:g} frames/s   ·   {spec.bitrate_bps / 1000:.4g} kbit/s   ·   {spec.sample_rate} Hz   ·   "
        f"colour is the token, 0 to {size - 1}",
        fontsize=12,
        color=FAINT,
        ha="right",
    )
    for column, (panel, length) in enumerate(zip(panels, lengths, strict=True)):
        _draw_panel(grid[:, column], panel, length, first=column == 0)
    figure.savefig(path)


def _draw_panel(axes: Any, panel: Panel, length: float, *, first: bool) -> None:
    spec = panel.codes.spec
    samples = round(length * spec.sample_rate)
    wav, decoded = panel.wav.mean(0)[:samples], panel.decoded.mean(0)[:samples]
    axes[0].set_title(_shortened(panel.title, axes[0]), fontsize=12, color=INK, loc="left")
    _draw_waveform(axes[0], wav, length)
    _draw_tokens(axes[1], panel.codes)
    loudest = draw_spectrogram(axes[2], wav, spec.sample_rate)
    draw_spectrogram(axes[3], decoded, spec.sample_rate, loudest)
    if panel.stoi is not None:
        place = {"transform": axes[3].transAxes, "ha": "right", "va": "top"}
        axes[3].text(0.985, 0.965, f"STOI {panel.stoi:.2f}", fontsize=11, color="white", **place)
    labels = ("waveform", "tokens\ncodebook", "spectrogram in\nkHz", "spectrogram decoded\nkHz")
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xlim(0, length)
        ax.tick_params(labelsize=10, colors=FAINT, labelleft=first, labelbottom=ax is axes[3], length=3)
        for spine in ax.spines.values():
            spine.set_color(FRAME)
        if first:
            ax.set_ylabel(label, fontsize=11, color=INK)
        ax.locator_params(axis="x", nbins=5, steps=(1, 2, 5, 10))
        ax.xaxis.set_major_formatter("{x:g}")
    axes[3].set_xlabel("seconds", fontsize=11, color=INK)


def _shortened(title: str, ax: Any) -> str:
    """A title that ends where its column does."""
    fits = int(ax.get_position().width * 1600 / 9.5)
    return title if len(title) <= fits else title[: max(1, fits - 1)] + "\N{HORIZONTAL ELLIPSIS}"


def _draw_waveform(ax: Any, wav: Tensor, length: float) -> None:
    """The range of the samples in each of some hundred strips, which no resolution hides."""
    strips = min(700, len(wav))
    pieces = torch.tensor_split(wav, strips)
    low, high = [float(piece.min()) for piece in pieces], [float(piece.max()) for piece in pieces]
    time = [(i + 0.5) * length / strips for i in range(strips)]
    ax.fill_between(time, low, high, color="#2563a8", linewidth=0.4)
    top = 1.08 * max(float(wav.abs().max()), 1e-4)
    ax.set_ylim(-top, top)
    ax.set_yticks([0])


def _draw_tokens(ax: Any, codes: Codes) -> None:
    """Token ids as colours, the first codebook on top."""
    spec = codes.spec
    tokens = codes.tokens[0, :, : int(codes.lengths[0])]
    sizes = torch.tensor(spec.codebook_sizes)[:, None]
    extent = (0, tokens.shape[1] / spec.frame_rate, spec.num_codebooks + 0.5, 0.5)
    ax.imshow(
        (tokens / sizes).numpy(),
        aspect="auto",
        cmap="turbo",
        vmin=0,
        vmax=1,
        extent=extent,
        interpolation="nearest",
    )
    step = -(-spec.num_codebooks // 8)
    ax.set_yticks(range(1, spec.num_codebooks + 1, step))
