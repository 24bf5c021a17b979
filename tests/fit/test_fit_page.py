"""report.md and its plots: the numbers are those of the reports."""

import math
import sys

import pytest
import soundfile
import torch

import audiotok
from audiotok.errors import FitWarning
from audiotok.fit import page, plots
from audiotok.fit.page import gain_per_doubling
from audiotok.fit.report import join, measure
from audiotok.quantize import KMeansQuantizer

OPTIONS = {"engine": "torch", "iterations": 2, "progress": False, "num_workers": 0}


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, by the name of their file."""
    drawn = {}
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (drawn.update({path.name: figure}), save(figure, path)))
    return drawn


def test_several_k_are_compared_on_one_page(clips, tmp_path, figures):
    fits = audiotok.fit_several(clips, [32, 8], out_dir=tmp_path, **OPTIONS)
    reports = {k: audiotok.FitReport(**fit.provenance["fit"]) for k, fit in fits.items()}
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# How many clusters? logmel, k = 8, 32\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    table = {row[0]: row for row in rows if row[0] in ("8", "32")}
    gain = 1 - math.sqrt(reports[32].distortion[0] / reports[8].distortion[0])  # two doublings
    assert [row[3] for row in table.values()] == ["", f"{gain:.1%}"]
    for k, report in reports.items():
        assert table[str(k)][2] == f"{report.distortion[0] / report.variance[0]:.2%}"
        assert table[str(k)][5] == f"{report.perplexity[0]:.0f}"
        assert table[str(k)][6] == f"{math.log2(report.perplexity[0]):.2f} of {math.log2(k):.2f}"
        assert table[str(k)][7] == f"{50 * math.log2(k):.0f}"
        assert audiotok.load(tmp_path / f"k{k}").fingerprint == fits[k].fingerprint
    left, entropy, used = figures["report-curves.png"].axes
    assert left.lines[0].get_xydata().tolist() == [[k, 100 * reports[k].share_left[0]] for k in (8, 32)]
    assert entropy.lines[0].get_ydata().tolist() == [reports[k].entropy[0] for k in (8, 32)]
    assert entropy.lines[1].get_ydata().tolist() == [3, 5]
    assert used.lines[0].get_ydata().tolist() == [100 * reports[k].usage[0] for k in (8, 32)]
    for name in ("report-curves.png", "report-usage.png"):
        assert f"({name})" in text
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_k_with_several_codebooks_is_drawn_over_codebooks(clips, tmp_path, figures):
    tok = audiotok.fit_kmeans(clips, k=8, num_codebooks=3, out_dir=tmp_path, **OPTIONS)
    report = audiotok.FitReport(**tok.provenance["fit"])
    left = figures["report-curves.png"].axes[0]
    assert left.lines[0].get_xydata().tolist() == [[i + 1, 100 * report.share_left[i]] for i in range(3)]
    assert [ax.get_title(loc="left") for ax in figures["report-usage.png"].axes] == [f"codebook {i}" for i in (1, 2, 3)]
    assert report.table() in (tmp_path / "report.md").read_text()


def test_one_codebook_of_one_k_has_no_curve(clips, tmp_path, figures):
    audiotok.fit_kmeans(clips, k=8, out_dir=tmp_path, **OPTIONS)
    assert list(figures) == ["report-usage.png"]
    assert "report-curves.png" not in (tmp_path / "report.md").read_text()
    (ax,) = figures["report-usage.png"].axes
    share = ax.lines[0].get_ydata()
    assert sum(share) == pytest.approx(8)  # their mean is 1
    assert list(share) == sorted(share, reverse=True)


def test_without_matplotlib_the_page_has_no_plots_and_says_so(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(FitWarning, match=r"has no plots: plots need matplotlib: pip install 'audiotok\[demo\]'"):
        audiotok.fit_several(clips, [4, 8], out_dir=tmp_path, **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k4", "k8", "report.md"]
    assert "png" not in (tmp_path / "report.md").read_text()


def test_the_gain_of_a_doubling_is_that_of_a_steady_fall():
    def report(k, distortion):
        return audiotok.FitReport(
            *("logmel", [], k, 1, "torch", 1, 0, 1, 0, 1.0, 1, 1, 1, [9.0], [distortion], [1.0], [1.0], 0.0, 0.0)
        )

    assert gain_per_doubling(report(100, 8.0), report(800, 1.0)) == pytest.approx(0.5)
    assert gain_per_doubling(report(100, 8.0), report(200, 8.0)) == 0


def test_entropy_perplexity_and_usage_of_known_counts():
    """Half of the frames at 0, a quarter at 1, an eighth each at 2 and 3, none at 9: 1.75 bits."""
    frames = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3.0])[:, None]
    found = measure(KMeansQuantizer(torch.tensor([[0], [1], [2], [3], [9.0]])), frames)
    assert found.entropy == pytest.approx([1.75])
    assert found.perplexity == pytest.approx([2**1.75])
    assert found.usage == pytest.approx([0.8])
    assert found.distortion == [0]
    assert found.counts[0].tolist() == [4, 2, 1, 1, 0]
    assert join([found, found]).entropy == pytest.approx([1.75, 1.75])


def test_many_failures_are_cut_short_on_the_page(tmp_path, clips):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i:02}.wav").write_bytes(b"no audio")
    (folder / "z.flac").write_bytes(clips[4].read_bytes())
    soundfile.write(folder / "y.wav", torch.randn(16000).numpy() * 0.1, 16000)
    with pytest.warns(FitWarning, match="24 of 26 items could not be read"):
        audiotok.fit_kmeans(folder, k=4, out_dir=tmp_path / "tok", **OPTIONS)
    text = (tmp_path / "tok" / page.PAGE).read_text()
    assert text.count("\n- ") == 21
    assert text.endswith("- ... errors.jsonl has them all\n")
