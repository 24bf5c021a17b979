"""The files of a report say what was measured, and need nothing beside them."""

import base64
import csv
import io
import json
import math
import re
import statistics
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import soundfile
import torch
from matplotlib.figure import Figure

from audiotok.errors import InputError
from audiotok.evaluate import page, plots
from audiotok.evaluate.document import Section, Table, section_html, to_markdown
from audiotok.evaluate.page import HTML, Heard, write_page
from audiotok.evaluate.plots import spectrogram_image
from audiotok.evaluate.report import EvaluationReport, SystemFacts, save_report, widest
from audiotok.evaluate.rows import Row
from audiotok.evaluate.study_sections import study_sections, usage_panels
from audiotok.evaluate.tables import Reason, lines_of, reasons_of, shown
from audiotok.evaluate.work import flac_of
from audiotok.plotting import png
from audiotok.sources import Item
from audiotok.spec import Spec

METRICS = ["snr", "stoi"]
ITEMS = [Item(name, "", columns={"domain": name[:5]}) for name in ("voice1", "voice2", "voice3", "music1")]
FULL = Spec("tok", sample_rate=100, hop_length=10, codebook_sizes=(4, 4))


def row(item: Item, bits: float, seconds: float = 2.0, reasons: dict[str, str] | None = None, **values: float) -> Row:
    return Row(item.id, seconds=seconds, bits=bits, values=values, reasons=reasons or {})


TOKENIZER = {
    "voice1": row(ITEMS[0], 4000, snr=1.5, stoi=0.5),
    "voice2": row(ITEMS[1], 10000, 4.0, {"stoi": "too | short"}, snr=2.5),
    "voice3": Row("voice3", not_coded="out of memory"),
    "music1": row(ITEMS[3], 4000, snr=-3.0, stoi=0.1),
}
ORIGINAL = {item.id: row(item, 32000, snr=math.inf, stoi=1.0) for item in ITEMS}


@pytest.fixture
def report() -> EvaluationReport:
    systems = [("tok:1", "tok, 1 of 2", TOKENIZER), ("original", "original", ORIGINAL)]
    return EvaluationReport(
        source="some | corpus",
        settings={"longer than": "1 s"},
        items=4,
        unreadable={"bad.flac": "bad.flac is no audio", "b2": "gone"},
        systems=[
            SystemFacts("tok:1", "tok, 1 of 2", "abc", FULL.truncate(1)),
            SystemFacts("original", "original", "", None),
        ],
        metrics=METRICS,
        lines=lines_of(systems, ITEMS, METRICS, "domain"),
        reasons=reasons_of([(text, rows) for text, _, rows in systems], ITEMS, METRICS),
        studies={"codes": {}},
    )


def test_a_line_has_the_means_of_what_there_is(report):
    line = report.lines[0]
    assert (line.system, line.group, line.items, line.not_coded, line.seconds) == ("tok:1", "voice", 3, 1, 6.0)
    assert line.kbps == 14000 / 6 / 1000  # of all audio together: long items count for more
    assert (line.cells["snr"].mean, line.cells["snr"].count, line.cells["snr"].failed) == (2.0, 2, 1)
    assert line.cells["snr"].deviation == pytest.approx(statistics.stdev([1.5, 2.5]))
    assert (line.cells["stoi"].mean, line.cells["stoi"].deviation, line.cells["stoi"].failed) == (0.5, None, 2)
    assert report.cell("original", "snr", "music").mean == math.inf
    assert [line.group for line in report.lines] == ["voice", "voice", "music", "music"]


def test_infinities_of_both_signs_have_no_mean():
    rows = {"voice1": row(ITEMS[0], 1, snr=math.inf), "voice2": row(ITEMS[1], 1, snr=-math.inf)}
    (line,) = lines_of([("x", "x", rows)], ITEMS[:2], ["snr"], "domain")
    assert (line.cells["snr"].mean, line.cells["snr"].count) == (None, 2)


def test_markdown_shows_means_failures_and_bad_files(report):
    text = report.markdown()
    assert text.startswith(
        "# Evaluation: some | corpus\n\n4 items (longer than 1 s); 2 could not be read.\n\n## voice: 3 items\n"
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| system | kbit/s measured | SNR ↑ | STOI ↑ |"
    assert table[2] == "| tok, 1 of 2 | 2.33 | 2.00 (1 failed) | 0.500 (2 failed) |"
    assert table[3] == "| original | 16.00 | ∞ | 1.000 |"
    assert table[6] == "| tok, 1 of 2 | 2.00 | -3.00 | 0.100 |"
    assert "SNR in dB" in text
    failed = text.split("## What failed\n\n")[1]
    assert "- coding of tok:1: 1 of 4 items, such as voice3: out of memory\n" in failed
    assert "- STOI of tok:1: 1 of 4 items, such as voice2: too | short\n" in failed
    assert text.endswith("## What could not be read\n\n- bad.flac is no audio\n- b2: gone\n")


def test_many_bad_files_are_cut_short(report):
    many = {f"{i}.flac": f"{i}.flac is no audio" for i in range(30)}
    text = EvaluationReport(**{**vars(report), "unreadable": many}).markdown()
    assert "- 19.flac is no audio\n- ... results.json has all 30\n" in text
    assert "20.flac" not in text


def test_many_reasons_are_cut_short_the_most_frequent_first(report):
    many = [Reason("tok:1", "snr", f"{i} s is too short", 1 + i % 25, "x") for i in range(50)]
    failed = replace(report, reasons=many).markdown().split("## What failed\n\n")[1].split("\n\n")[0].splitlines()
    assert len(failed) == 21
    assert failed[:2] == [
        "- SNR of tok:1: 25 of 4 items, such as x: 24 s is too short",
        "- SNR of tok:1: 25 of 4 items, such as x: 49 s is too short",
    ]
    assert failed[-1] == "- ... results.json has all 50"


def test_a_cell_that_is_not_there_is_said_to_be_missing(report):
    for asked in (("tok:1", "snr", "speech"), ("tok", "snr", "voice"), ("tok:1", "sdr", "voice")):
        with pytest.raises(InputError, match="no .* it has snr, stoi of tok:1, original on voice, music"):
            report.cell(*asked)


def test_csv_and_json_have_every_number(report, tmp_path):
    save_report(tmp_path, report, ITEMS, {"tok:1": TOKENIZER, "original": ORIGINAL}, "domain")
    with (tmp_path / "results.csv").open(newline="") as file:
        means = list(csv.DictReader(file))
    assert [(line["system"], line["group"]) for line in means] == [
        *(("tok:1", "voice"), ("original", "voice"), ("tok:1", "music"), ("original", "music"))
    ]
    assert (means[0]["snr"], means[0]["snr_items"], means[0]["stoi_deviation"]) == ("2.0", "2", "")
    assert float(means[1]["snr"]) == math.inf
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1] == {
        **{"system": "tok:1", "item": "voice2", "group": "voice", "seconds": "4.0", "bits": "10000"},
        **{"snr": "2.5", "stoi": "", "reasons": "stoi: too | short"},
    }
    assert rows[2]["reasons"] == "out of memory"
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["lines"][1]["cells"]["snr"] == {"mean": "inf", "deviation": None, "count": 3, "failed": 0}
    assert found["systems"][0]["spec"]["codebook_sizes"] == [4]
    assert (tmp_path / "report.md").read_text() == report.markdown()


def test_numbers_have_three_digits_that_count():
    assert [shown(value) for value in (0.0004, 0.99949, 1.0, 9.994, 9.996, 123.456, -0.5, -45.67)] == [
        *("0.000", "0.999", "1.000", "9.99", "10.0", "123.5", "-0.500", "-45.7")
    ]
    assert (shown(math.inf), shown(-math.inf), shown(None)) == ("∞", "-∞", "—")


class Seen(HTMLParser):
    """What a browser would load and show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.sources: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.sources += [(tag, value or "") for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def seen(path) -> Seen:
    parser = Seen()
    parser.feed(path.read_text())
    parser.close()
    return parser


def wav_of(flac: bytes) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(flac), dtype="float32")[0])


@pytest.fixture
def heard(speech) -> list[Heard]:
    sounds = [flac_of(speech[0], 16000), flac_of(0.5 * speech[0], 16000)]
    return [Heard("<voice> & co", ["the audio itself", "tok:1"], sounds)]


def test_the_page_holds_tables_plots_spectrograms_and_sounds(report, heard, speech, tmp_path):
    write_page(tmp_path, report, heard, [section_html(Section("Cost", ["dear"]))])
    page = seen(tmp_path / HTML)
    assert [tag for tag, _ in page.sources] == ["img", "img", "img", "audio", "img", "audio"]  # two groups, two sounds
    assert all(re.match(r"data:(image/png|image/jpeg|audio/flac);base64,", source) for _, source in page.sources)
    played = [base64.b64decode(source.partition(",")[2]) for tag, source in page.sources if tag == "audio"]
    assert soundfile.info(io.BytesIO(played[1])).samplerate == 16000
    assert torch.allclose(wav_of(played[1]), 0.5 * speech[0][0], atol=1 / 32768)
    text = " ".join(page.words)
    for words in ("<voice> & co", "voice: 3 items", "0.500 (2 failed)", "out of memory", "Cost", "dear", "b2: gone"):
        assert words in text
    assert "http" not in (tmp_path / HTML).read_text()


def test_spectrograms_of_an_item_are_coloured_as_the_first(report, heard, tmp_path, monkeypatch):
    loudest = []

    def image(wav, sample_rate, given):
        loudest.append((given, spectrogram_image(wav, sample_rate, given)[1]))
        return b"", loudest[-1][1]

    monkeypatch.setattr(page, "spectrogram_image", image)
    write_page(tmp_path, report, heard * 2, [])
    top = loudest[0][1]
    assert loudest == [(None, top), (top, top)] * 2
    assert spectrogram_image(wav_of(heard[0].flacs[1]), 16000, None)[1] == pytest.approx(top - 6.02, abs=0.01)


def test_without_matplotlib_the_page_has_no_pictures_and_says_so(report, heard, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_page(tmp_path, report, heard, [])
    page = seen(tmp_path / HTML)
    assert [tag for tag, _ in page.sources] == ["audio", "audio"]
    assert "There are no pictures: plots need matplotlib: pip install 'audiotok[demo]'" in page.words


def test_the_plot_has_a_line_per_tokenizer_and_markers_for_anchors(report, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "png", lambda figure: drawn.append(figure) or b"")
    rows = {
        name: {"voice1": row(ITEMS[0], bits, snr=snr)}
        for name, bits, snr in (
            ("tok:2", 8000, 4.0),
            ("tok:1", 4000, 3.0),
            ("./run", 2000, 1.0),
            ("opus:6", 12000, 5.0),
            ("original", 1e6, 9.0),
        )
    }
    labels = {"tok:2": "tok, 2 of 4 codebooks", "tok:1": "tok, 1 of 4 codebooks", "./run": "run", "opus:6": "Opus"}
    lines = lines_of([(name, labels.get(name, ""), rows[name]) for name in rows], ITEMS[:1], ["snr"], "domain")
    fingerprints = {"tok:2": "a", "tok:1": "a", "./run": "b", "opus:6": "", "original": ""}
    plots.rate_figure(lines, fingerprints, ["snr"])
    curves = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    assert list(curves) == ["tok", "run", "opus", "the audio itself"]
    assert (list(curves["tok"].get_xdata()), list(curves["tok"].get_ydata())) == ([2.0, 4.0], [3.0, 4.0])
    assert list(curves["opus"].get_xdata()) == [6.0]
    assert (curves["tok"].get_linestyle(), curves["opus"].get_linestyle()) == ("-", "None")
    assert set(curves["the audio itself"].get_ydata()) == {9.0}


def plotted(values: dict[str, tuple[str, float, list[float]]], metrics: list[str], monkeypatch) -> Figure:
    """The figure of systems with label, bits of 2 s, and values of metrics; anchors have no label."""
    drawn = []
    monkeypatch.setattr(plots, "png", lambda figure: drawn.append(figure) or png(figure))
    found = [
        (name, label, {"voice1": row(ITEMS[0], bits, **dict(zip(metrics, numbers, strict=True)))})
        for name, (label, bits, numbers) in values.items()
    ]
    picture = plots.rate_figure(
        lines_of(found, ITEMS[:1], metrics, "domain"), {name: label for name, label, _ in found}, metrics
    )
    assert picture.startswith(b"\x89PNG")
    return drawn[0]


def test_the_legend_names_what_any_panel_shows_and_fits(monkeypatch):
    odd = {"./x": ("_a_{$b", 4000, [1.0, 0.2]), "./y": ("$a_{$b$" + 60 * "y", 8000, [1.0, 0.3])}
    figure = plotted({**odd, "original": ("", 1e6, [math.inf, 1.0])}, METRICS, monkeypatch)
    (legend,) = figure.legends
    texts = legend.get_texts()
    names = [text.get_text().replace("\\$", "$").strip() for text in texts]
    assert names == ["_a_{$b", "$a_{$b$" + 32 * "y" + "…", "the audio itself"]
    assert not any(math_text for text in texts for math_text in [text._preprocess_math(text.get_text())[1]])
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0 < box.y1 < min(ax.bbox.y0 for ax in figure.axes)


def test_many_tokenizers_of_one_rate_can_be_told_apart(monkeypatch):
    systems = {f"./run-{i}": (f"a codec of some length {i}", 4000 + i, [0.1 * i]) for i in range(24)}
    figure = plotted(systems, ["snr"], monkeypatch)
    (ax,) = figure.axes
    looks = {(line.get_color(), line.get_marker()) for line in ax.get_lines()}
    assert len(looks) == len(figure.legends[0].get_texts()) == 24
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [2.0, 4.0]
    assert ax.bbox.height > 200


def test_a_panel_with_nothing_in_it_is_left_out(report, monkeypatch):
    figure = plotted({"./x": ("x", 4000, [math.inf, 0.2])}, METRICS, monkeypatch)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()] == ["STOI (higher is better)"]
    low, high = figure.axes[0].get_xlim()
    assert 1.5 < low < 2 < 4 < high < 5  # an octave, of the single rate 2
    fingerprints = {one.system: one.fingerprint for one in report.systems}
    assert plots.rate_figure(report.lines, fingerprints, []) is None
    assert plots.rate_figure([line for line in report.lines if line.kbps is None], fingerprints, METRICS) is None


def test_a_page_without_metrics_has_no_plots(report, tmp_path):
    write_page(tmp_path, replace(report, metrics=[]), [], [])
    assert seen(tmp_path / HTML).sources == []


def test_names_are_no_html(report, speech, tmp_path):
    bad = "\"'><script src=x onerror=y>alert(1)</script>&amp;|`"
    lines = [replace(line, label=bad, group=bad) for line in report.lines]
    hostile = replace(report, source=bad, settings={bad: bad}, unreadable={bad: bad}, lines=lines)
    counts = {"size": 4, "used": 1, "usage": 0.25, "perplexity": 1.0}
    codes = {"codebooks": [counts], "counts": [[[0, 3]]], "tokens_per_second": 1.0, "nominal_bps": 1.0}
    studies = {"codes": {"tok:1": {**codes, "entropy_bps": 0.0, "adaptive_bps": None}, bad: {"reason": bad}}}
    systems = [replace(one, label=bad) for one in report.systems]
    hostile = replace(hostile, studies=studies, systems=systems, reasons=[replace(report.reasons[0], reason=bad)])
    write_page(tmp_path, hostile, [Heard(bad, [bad], [flac_of(speech[0], 16000)])], [])
    page = seen(tmp_path / HTML)
    assert "script" not in page.tags
    assert {name for _, name in page.attributes} == {
        *("lang", "charset", "name", "content", "class", "scope", "alt", "src", "controls", "preload", "aria-label")
    }
    assert all(source.startswith("data:") for _, source in page.sources)
    assert " ".join(page.words).count(bad) == 17


def test_headings_go_down_step_by_step(report, heard, tmp_path):
    codebook = {"size": 4, "used": 2, "usage": 0.5, "perplexity": 1.9}
    codes = {"codebooks": [codebook], "counts": [[[0, 3], [2, 1]]], "tokens_per_second": 10.0, "nominal_bps": 20.0}
    studies = {"codes": {"tok:1": {**codes, "entropy_bps": 9.0, "adaptive_bps": 8.0}}}
    write_page(tmp_path, replace(report, studies=studies), heard, [])
    page = seen(tmp_path / HTML)
    assert re.findall(r"<(h\d)>([^<]*)<", (tmp_path / HTML).read_text()) == [
        ("h1", "Evaluation: some | corpus"),
        ("h2", "voice: 3 items"),
        ("h2", "music: 1 items"),
        ("h2", "Seen and heard"),
        ("h3", "&lt;voice&gt; &amp; co"),
        ("h2", "How often each entry occurs"),
        ("h3", "tok, 1 of 2"),
        ("h2", "Codes"),
        ("h2", "What failed"),
        ("h2", "What could not be read"),
    ]
    assert [tag for tag, _ in page.sources] == ["img", "img", "img", "audio", "img", "audio", "img"]


def test_each_tokenizer_is_studied_once_with_the_most_codebooks():
    facts = [SystemFacts(f"tok:{k}", "", "abc", FULL.truncate(k)) for k in (1, 2, 1)]
    other = SystemFacts("other", "", "def", FULL.truncate(1))
    assert widest([*facts[:2], SystemFacts("opus:6", "", "", None), other, facts[2]]) == [facts[1], other]


def test_sections_of_studies():
    books = [
        {"size": 4, "used": 2, "usage": 0.5, "perplexity": 1.9},
        {"size": 4, "used": 4, "usage": 1.0, "perplexity": 4},
    ]
    codes = {
        "codebooks": books,
        "tokens_per_second": 20.0,
        "nominal_bps": 40.0,
        "entropy_bps": 29.0,
        "adaptive_bps": None,
    }
    studies = {
        "codes": {"a": codes, "b": {"reason": "no frames"}},
        "robustness": {"a": [{"change": "noise at 40 dB", "share": 0.25, "shares": [0.1, 0.4]}]},
        "parity": {
            "a": [{"way": "batch", "share": 0.0, "passed": True}, {"way": "chunked", "share": 0.5, "passed": False}]
        },
        "probe speaker/room": {"a": {"mean": 0.75, "deviation": 0.05, "chance": 0.25, "classes": 4}},
        "probe lm": {
            "a": {"bits_per_second": 123.4, "perplexity": 5.0, "perplexity_deviation": 0.2},
            "b": {"reason": "few"},
        },
    }
    text = to_markdown("", study_sections(studies, {"a": "A", "b": "B"}))
    assert "| A | 20 | 0.04 | 0.029 | — | 50 100 | 1.9 4 |" in text
    assert "- b: no frames" in text
    assert "| tokenizer | noise at 40 dB |\n| --- | ---: |\n| A | 25.0 (10.0) |" in text
    assert "| tokenizer | batch | chunked |\n| --- | ---: | ---: |\n| A | 0 | 50 ! |" in text
    assert "| A | 75.0 ± 5.0 | 123 (perplexity 5.0 ± 0.2) |\n| B | — | — |" in text
    assert (
        "Behind a slash, what is kept on one side: all in training, or all held out. Guessing gets speaker/room 25.0 % "
        "of 4 classes." in text
    )
    assert "- probe lm, b: few" in text
    assert study_sections({"codes": {}}, {}) == []


def test_of_many_codebooks_there_is_the_first_and_the_range():
    books = [{"usage": usage, "perplexity": 10 * usage} for usage in (0.5, 0.001, *[1.0] * 7)]
    codes = {"codebooks": books, "tokens_per_second": 1.0, "nominal_bps": 1.0, "entropy_bps": 1.0, "adaptive_bps": 1.0}
    text = to_markdown("", study_sections({"codes": {"a": codes}}, {"a": "A"}))
    assert "| 50, 0.1 to 100 | 5, 0.01 to 10 |" in text
    assert "Of more than 8 codebooks, the first and the range." in text


def test_usage_is_counted_entry_by_entry():
    panels = usage_panels({"codebooks": [{"size": 4}, {"size": 3}], "counts": [[[1, 5], [3, 2]], [[0, 7]]]})
    assert [panel.counts[""].tolist() for panel in panels] == [[0, 5, 0, 2], [7, 0, 0]]
    assert [panel.title for panel in panels] == ["codebook 1", "codebook 2"]


def test_a_document_is_the_same_in_markdown_and_html():
    section = Section("A <b>", ["some\ntext", Table(["x", "y|z"], [["1 & 2", "3"]]), ["one", "two"]])
    assert to_markdown("T", [section]) == (
        "# T\n\n## A <b>\n\nsome text\n\n| x | y\\|z |\n| --- | ---: |\n| 1 & 2 | 3 |\n\n- one\n- two\n"
    )
    html = section_html(section)
    assert "<h2>A &lt;b&gt;</h2>" in html
    assert "<tr><td>1 &amp; 2</td><td>3</td></tr>" in html
    assert "<li>one</li><li>two</li>" in html
