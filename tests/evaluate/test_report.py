"""The files of a report say what was measured, and need nothing beside them."""

import base64
import csv
import io
import json
import math
import re
import statistics
import sys
from html.parser import HTMLParser

import pytest
import soundfile
import torch

from audiotok.evaluate import plots
from audiotok.evaluate.document import Section, Table, section_html, to_markdown
from audiotok.evaluate.page import HTML, Heard, write_page
from audiotok.evaluate.report import EvaluationReport, SystemFacts, save_report, widest
from audiotok.evaluate.rows import Row
from audiotok.evaluate.study_sections import study_sections, usage_panels
from audiotok.evaluate.tables import lines_of, reasons_of, shown
from audiotok.evaluate.work import flac_of
from audiotok.sources import Item
from audiotok.spec import Spec

METRICS = ["snr", "stoi"]
ITEMS = [Item(name, "", columns={"domain": name[:5]}) for name in ("voice1", "voice2", "voice3", "music1")]
FULL = Spec("tok", sample_rate=100, hop_length=10, codebook_sizes=(4, 4))


def row(item: Item, bits: float, seconds: float = 2.0, reasons: dict[str, str] | None = None, **values: float) -> Row:
    return Row(item.id, seconds=seconds, bits=bits, values=values, reasons=reasons or {})


TOKENIZER = {
    "voice1": row(ITEMS[0], 4000, snr=1.5, stoi=0.5),
    "voice2": row(ITEMS[1], 8000, 4.0, {"stoi": "too | short"}, snr=2.5),
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
    assert line.kbps == 12000 / 6 / 1000
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
    assert table[2] == "| tok, 1 of 2 | 2.00 | 2.00 (1 failed) | 0.500 (2 failed) |"
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
        **{"system": "tok:1", "item": "voice2", "group": "voice", "seconds": "4.0", "bits": "8000"},
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
        self.sources: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [(tag, value or "") for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def seen(path) -> Seen:
    parser = Seen()
    parser.feed(path.read_text())
    parser.close()
    return parser


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
    wav, rate = soundfile.read(io.BytesIO(played[1]), dtype="float32")
    assert rate == 16000
    assert torch.allclose(torch.from_numpy(wav), 0.5 * speech[0][0], atol=1 / 32768)
    text = " ".join(page.words)
    for words in ("<voice> & co", "voice: 3 items", "0.500 (2 failed)", "out of memory", "Cost", "dear", "b2: gone"):
        assert words in text
    assert "http" not in (tmp_path / HTML).read_text()


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
    lines = lines_of([(name, name, found) for name, found in rows.items()], ITEMS[:1], ["snr"], "domain")
    plots.rate_figure(lines, {"opus:6", "original"}, ["snr"])
    curves = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    assert list(curves) == ["the audio itself", "tok", "./run", "opus"]
    assert (list(curves["tok"].get_xdata()), list(curves["tok"].get_ydata())) == ([2.0, 4.0], [3.0, 4.0])
    assert list(curves["opus"].get_xdata()) == [6.0]
    assert (curves["tok"].get_linestyle(), curves["opus"].get_linestyle()) == ("-", "None")
    assert set(curves["the audio itself"].get_ydata()) == {9.0}


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
    assert "| A | 20 | 0.04 | 0.029 | — | 50 100 | 2 4 |" in text
    assert "- b: no frames" in text
    assert "| tokenizer | noise at 40 dB |\n| --- | ---: |\n| A | 25.0 (10.0) |" in text
    assert "| tokenizer | batch | chunked |\n| --- | ---: | ---: |\n| A | 0 | 50 ! |" in text
    assert "| A | 75.0 ± 5.0 | 123 (perplexity 5.0 ± 0.2) |\n| B | — | — |" in text
    assert (
        "Behind a slash, what is kept on one side: all in training, or all held out. Guessing gets speaker/room 25.0 %"
        in text
    )
    assert "- probe lm, b: few" in text
    assert study_sections({"codes": {}}, {}) == []


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
