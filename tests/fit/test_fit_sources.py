"""Fits on what `open_source` gives: segments, manifests, a held-out source, items that fail."""

import json

import pytest
import soundfile
import torch

import audiotok
from audiotok.errors import FitWarning, InputError
from audiotok.sources import open_source

OPTIONS = {"k": 8, "engine": "torch", "iterations": 2, "progress": False}


@pytest.fixture
def manifest(clips, tmp_path):
    """Two segments of one clip that follow one another, and a whole clip."""
    rows = [
        {"path": str(clips[4]), "start": 0.0, "duration": 0.5},
        {"path": str(clips[4]), "start": 0.5, "duration": 0.3},
        {"path": str(clips[5])},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_segments_of_a_manifest_are_what_is_fitted_on(manifest, clips):
    report = audiotok.fit_kmeans(manifest, num_workers=0, **OPTIONS).provenance["fit"]
    whole = soundfile.info(clips[5]).duration
    assert report["files"] == 3
    assert report["hours"] == pytest.approx((0.8 + whole) / 3600, rel=1e-4)
    assert report["frames_seen"] == 25 + 15 + -(-round(whole * 16000) // 320)
    assert report["source"] == open_source(manifest).label
    assert report["source_identity"] == open_source(manifest).identity()


def test_workers_change_nothing(clips):
    fits = [audiotok.fit_kmeans(clips, num_workers=count, **OPTIONS) for count in (0, 2)]
    assert fits[0].fingerprint == fits[1].fingerprint
    reports = [fit.provenance["fit"] for fit in fits]
    timeless = [{name: value for name, value in one.items() if "seconds" not in name} for one in reports]
    assert timeless[0] == timeless[1]


def test_a_held_out_source_is_measured_on_and_never_fitted_on(clips, speech):
    tok = audiotok.fit_kmeans(clips[:8], held_out=clips[8:9], num_workers=0, **OPTIONS)
    report = audiotok.FitReport(**tok.provenance["fit"])
    features, _ = tok.features(audiotok.audio.load(clips[8], sample_rate=16000, channels=1)[0])
    error = features[0] - tok.embed(tok.encode_file(clips[8]))[0]
    assert report.frames_held_out == features.shape[2]
    assert report.distortion[0] == pytest.approx(float(error.square().sum(0).mean()), rel=1e-5)
    assert report.held_out == open_source(clips[8:9]).label
    assert (report.files, report.frames_used) == (8, report.frames_seen - features.shape[2])
    alone = audiotok.fit_kmeans(clips[:8], held_out=clips[9:10], num_workers=0, **OPTIONS)
    assert alone.fingerprint == tok.fingerprint  # what is held out has no part in the fit


def test_items_that_fail_are_listed(clips, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.flac").write_bytes(clips[4].read_bytes())
    (folder / "cut.flac").write_bytes(clips[4].read_bytes()[:900])
    (folder / "none.wav").write_bytes(b"")
    with pytest.warns(FitWarning, match="2 of 3 items could not be read"):
        audiotok.fit_kmeans(folder, out_dir=tmp_path / "tok", num_workers=1, **{**OPTIONS, "k": 4})
    failures = [json.loads(line) for line in (tmp_path / "tok" / "errors.jsonl").read_text().splitlines()]
    assert [(one["id"], one["kind"]) for one in failures] == [
        ("cut.flac", "AudioFileError"),
        ("none.wav", "AudioFileError"),
    ]
    assert "## 2 items could not be read" in (tmp_path / "tok" / "report.md").read_text()


def test_wrong_numbers_are_input_errors(clips):
    for options, message in (
        ({"num_workers": -1}, "num_workers must be at least 0, not -1"),
        ({"restarts": 0}, "restarts must be at least 1, not 0"),
        ({"num_codebooks": 2, "spherical": True}, "neither spherical nor minibatch k-means gives a residual"),
    ):
        with pytest.raises(InputError, match=message):
            audiotok.fit_kmeans(clips, **{**OPTIONS, **options})
    with pytest.raises(InputError, match="give at least one k"):
        audiotok.fit_several(clips, [])


def test_a_long_recording_is_one_item_of_many_pieces(clips, tmp_path):
    """Frames come in pieces from an SSL model: their places must count through."""
    wav = torch.cat([audiotok.audio.load(path, sample_rate=16000, channels=1)[0] for path in clips[:6]], 1)
    audiotok.audio.save(tmp_path / "long.wav", wav.repeat(1, 6), 16000)
    report = audiotok.fit_kmeans(tmp_path, num_workers=0, **OPTIONS).provenance["fit"]
    assert report["frames_seen"] == -(-6 * wav.shape[1] // 320)
    assert 6 * wav.shape[1] > 60 * 16000
