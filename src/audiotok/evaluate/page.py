"""report.html: the report on one page that needs nothing beside itself, with plots, spectrograms and players."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import audio
from ..errors import MissingDependencyError
from ..plotting import png, usage_figure
from .document import section_html
from .plots import rate_figure, spectrogram_image
from .report import EvaluationReport, widest, write_text
from .study_sections import usage_panels

HTML = "report.html"
_AXES = "<p>Spectrograms are of kHz over seconds; the brightest colour is the loudest point of the first one.</p>"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; margin: 2em auto; max-width: 1180px; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; margin-bottom: 0.3em; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: 0.25em 0.7em; border-bottom: 1px solid #e5e7eb; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } th { color: #6b7280; font-weight: 600; }
img { max-width: 100%; } figure { margin: 0; width: 270px; } figcaption { font-size: 0.9em; }
.row { display: flex; flex-wrap: wrap; gap: 1em; } audio { width: 100%; height: 32px; }
"""


@dataclass(frozen=True)
class Heard:
    """An item to see and hear.

    Attributes:
        item: its id.
        labels: what there is of it, such as "original" or a system's label.
        flacs: of each.
    """

    item: str
    labels: Sequence[str]
    flacs: Sequence[bytes]


def write_page(folder: Path, report: EvaluationReport, heard: Sequence[Heard], more: Sequence[str]) -> None:
    """Writes report.html.

    Args:
        folder: for it.
        report: whose sections it has.
        heard: items to see and hear.
        more: HTML of further sections.
    """
    summary, *rest = report.sections()
    groups, rest = rest[: len(report.groups)], rest[len(report.groups) :]
    try:
        plots = [_plot(report, group) for group in report.groups]
        rows = [_row(one, _spectrograms(one)) for one in heard]
        usage = _usage(report)
        note, axes = "", _AXES
    except MissingDependencyError as error:
        plots = [""] * len(groups)
        rows = [_row(one, [""] * len(one.labels)) for one in heard]
        usage = ""
        note, axes = f"<p>There are no pictures: {html.escape(str(error))}</p>", ""
    listen = f"<section><h2>Seen and heard</h2>\n{axes}\n{''.join(rows)}</section>" if heard else ""
    parts = [note, section_html(summary)]
    parts += [section_html(section, plot) for section, plot in zip(groups, plots, strict=True)]
    parts += [listen, usage, *(section_html(section) for section in rest), *more]
    title = html.escape(report.title)
    body = "\n".join([f"<h1>{title}</h1>", *filter(None, parts)])
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head += f"<style>{_STYLE}</style>"
    write_text(folder / HTML, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')


def image_html(picture: bytes, alternative: str) -> str:
    """A PNG or JPEG that is part of the page."""
    kind = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
    return f'<img alt="{html.escape(alternative)}" src="{_data(kind, picture)}">'


def _plot(report: EvaluationReport, group: str) -> str:
    lines = [line for line in report.lines if line.group == group]
    picture = rate_figure(lines, {one.system: one.fingerprint for one in report.systems}, report.metrics)
    return image_html(picture, f"rate against quality, {group}: the numbers are in the table above") if picture else ""


def _usage(report: EvaluationReport) -> str:
    """A picture for each tokenizer, of those with several numbers of codebooks the one with the most."""
    found, title = report.studies.get("codes", {}), "How often each entry occurs"
    pictures = [
        f"<h3>{html.escape(one.label)}</h3>\n"
        + image_html(png(usage_figure(usage_panels(found[one.system]), title)), f"{title}, {one.label}")
        for one in widest(report.systems)
        if "counts" in found.get(one.system, {})
    ]
    return "\n".join([f"<section><h2>{title}</h2>", *pictures, "</section>"]) if pictures else ""


def _row(heard: Heard, pictures: Sequence[str]) -> str:
    figures = [
        f"<figure><figcaption>{html.escape(label)}</figcaption>{picture}"
        f'<audio controls preload="none" aria-label="{html.escape(label)}" src="{_data("audio/flac", flac)}"></audio>'
        "</figure>"
        for label, flac, picture in zip(heard.labels, heard.flacs, pictures, strict=True)
    ]
    return f'<h3>{html.escape(heard.item)}</h3>\n<div class="row">\n' + "\n".join(figures) + "\n</div>\n"


def _spectrograms(heard: Heard) -> list[str]:
    """Of each sound, all coloured as the first."""
    found, loudest = [], None
    for label, flac in zip(heard.labels, heard.flacs, strict=True):
        wav, sample_rate = audio.load(io.BytesIO(flac))
        picture, loudest = spectrogram_image(wav[0], sample_rate, loudest)
        found.append(image_html(picture, f"spectrogram, {label}"))
    return found


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
