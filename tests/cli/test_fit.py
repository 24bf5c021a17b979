import inspect
import json
import shutil
import sys

import pytest

import audiotok
from audiotok.cli.fit import byte_size
from audiotok.fit import FOLDER, ROWS_PER_CENTROID
from audiotok.fit.job import Job


def test_fits_saves_and_encodes(run, clips, clip, tmp_path):
    out = tmp_path / "tok"
    result = run("fit", clip.parent, "--k", 16, "--num-codebooks", 2, "--iterations", 3, "--out", out, "--name", "mine")
    tok = audiotok.load(out)
    assert result.code == 0
    assert result.text.startswith("| codebooks | held-out distortion |")
    assert len(result.text.splitlines()) == 4
    assert f"saved mine to {out}: 14 items" in result.err
    assert (tok.spec.name, tok.spec.codebook_sizes) == ("mine", (16, 16))
    assert run("encode", clip, "--model", out, "-o", tmp_path / "a.codes").code == 0


def test_gives_what_python_gives(run, clips, tmp_path):
    options = {"k": 12, "seed": 3, "iterations": 2, "max_frames": 1000, "engine": "torch"}
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    result = run("fit", *clips, "--out", tmp_path / "tok", "--json", "-q", "--max-bytes", "1GB", *arguments)
    wanted = audiotok.fit_kmeans(clips, progress=False, **options)
    assert result.json["fingerprint"] == wanted.fingerprint
    assert result.json["name"] == "logmel-k12"
    report = wanted.provenance["fit"]
    timeless = {name: value for name, value in report.items() if not name.startswith("seconds")}
    assert {name: result.json["report"][name] for name in timeless} == json.loads(json.dumps(timeless))
    assert result.err == ""


def test_a_folder_that_holds_something_needs_force(run, clip, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["fit", clip, "--k", 4, "--iterations", 1, "--out", tmp_path]
    result = run(*arguments)
    assert (result.code, "is not empty: name another folder, or --force" in result.err) == (2, True)
    assert run(*arguments, "--force").code == 0
    result = run(*arguments[:-1], tmp_path / "file")
    assert (result.code, "is a file: name a folder" in result.err) == (2, True)


def test_unreadable_files_are_reported_and_the_rest_is_fitted(run, clip, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(clip, folder)
    (folder / "bad.wav").write_bytes(b"bad")
    result = run("fit", folder, "--k", 4, "--iterations", 1, "--out", tmp_path / "tok", "--json")
    assert result.code == 1
    assert "warning: 1 of 2 items could not be read" in result.err
    assert result.json["report"]["files_failed"] == 1
    assert audiotok.load(tmp_path / "tok").spec.codebook_sizes == (4,)


def test_several_k_are_saved_side_by_side_and_compared(run, clips, tmp_path):
    out = tmp_path / "how-many"
    arguments = ["fit", *clips[:8], "--held-out", clips[8], "--k", 8, 4, "--iterations", 2, "--out", out]
    result = run(*arguments, "--json", "--num-workers", 0, "--max-frames", 700)
    lines = [json.loads(line) for line in result.text.splitlines()]
    assert [line["output"] for line in lines] == [str(out / "k4"), str(out / "k8")]
    for line, k in zip(lines, (4, 8), strict=True):
        tok = audiotok.load(out / f"k{k}")
        assert (line["fingerprint"], tok.spec.codebook_sizes) == (tok.fingerprint, (k,))
        assert line["report"]["files"] == 8
        assert line["report"]["frames_used"] == 700
        assert line["report"]["held_out"].endswith(clips[8].name)
    assert "| 8 |" in (out / "report.md").read_text()


def test_a_fit_that_was_begun_goes_on_or_is_refused(run, clip, tmp_path, monkeypatch):
    arguments = ["fit", clip, "--k", 4, "--iterations", 2, "--engine", "torch", "--out", tmp_path / "tok"]
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*arguments).code == 130
    result = run(*arguments, "--no-resume")
    assert (result.code, "was begun already: resume it, or use a new folder" in result.err) == (2, True)
    result = run(*arguments, "--seed", 1)
    assert (result.code, "was begun with other seed: 0 there, 1 now" in result.err) == (2, True)
    assert run(*arguments).code == 0
    assert not (tmp_path / "tok" / FOLDER).exists()
    wanted = audiotok.fit_kmeans(clip, k=4, iterations=2, engine="torch", progress=False)
    assert audiotok.load(tmp_path / "tok").fingerprint == wanted.fingerprint


def test_the_defaults_that_help_names_are_those_of_python(run):
    words = " ".join(run("fit", "--help").text.split())
    parameters = inspect.signature(audiotok.fit_kmeans).parameters
    assert f"of k-means; default {parameters['iterations'].default}" in words
    assert f"entries per codebook; default {parameters['k'].default}" in words
    assert parameters["max_bytes"].default == 2 << 30
    assert "4GiB; default 2GiB" in words
    assert f"default {ROWS_PER_CENTROID} for each entry" in words


def test_what_cannot_be_fitted_is_2(run, clip, tmp_path):
    for arguments, message in (
        ([clip, "--k", 1000], "1000 clusters were asked for"),
        ([clip, "--k", 0], "wanted a whole number of at least 1, not '0'"),
        ([clip, "--max-bytes", "much"], "wanted a size like 500MB or 4GiB, not 'much'"),
        ([clip, "--features", "mfcc"], 'features must be "logmel", a LogMel, an SSL model\'s folder (./mfcc)'),
        (["nowhere"], "no such file or folder: nowhere"),
    ):
        result = run("fit", *arguments, "--out", tmp_path / "tok")
        assert (result.code, message in result.err) == (2, True), result.err
    assert not (tmp_path / "tok").exists()


def test_a_missing_faiss_is_4(run, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = run("fit", clip, "--k", 4, "--engine", "faiss", "--out", tmp_path / "tok")
    assert (result.code, "pip install 'audiotok[faiss]'" in result.err) == (4, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 << 29),
        ("2k", 2000),
        ("1TB", 10**12),
        ("64mib", 1 << 26),
    ],
)
def test_sizes(text, size):
    assert byte_size(text) == size
