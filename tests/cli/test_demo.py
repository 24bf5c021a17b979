import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import audiotok
from audiotok.cli import demo, picture
from audiotok.evaluate.metric_base import Example
from audiotok.evaluate.spectral_metrics import mel_distance


@pytest.fixture
def two(tmp_path, clips):
    """Two clips of one name."""
    speech = next(path for path in clips if path.stem == "speech_it_2")
    bell = next(path for path in clips if path.stem == "effect_bell_stereo")
    for folder, path in (("p", speech), ("q", bell)):
        (tmp_path / folder).mkdir()
        shutil.copy(path, tmp_path / folder / "x.flac")
    return [tmp_path / "p" / "x.flac", tmp_path / "q" / "x.flac"]


def test_writes_wavs_and_a_picture(run, model, two, tmp_path):
    out = tmp_path / "out"
    result = run("demo", *two, "--model", model, "--out", out)
    assert result.code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "demo.png",
        "x-2-decoded-1.wav",
        "x-2-decoded.wav",
        "x-2-original.wav",
        "x-decoded-1.wav",
        "x-decoded.wav",
        "x-original.wav",
    ]
    assert soundfile.info(out / "x-decoded.wav").frames == soundfile.info(out / "x-original.wav").frames == 29794
    from matplotlib.image import imread

    image = imread(out / "demo.png")
    assert image.shape[1] == 1600
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 500  # something is drawn
    lines = result.text.splitlines()
    assert " ".join(lines[0].split()) == "clip seconds tokens [B, K, F] kbit/s mel distance STOI encode decode"
    assert "[1, 3, 94]" in lines[1]
    assert [line.split()[:2] for line in lines[4:]] == [["codebooks", "kbit/s"], ["3", "0.75"], ["1", "0.25"]]


def test_json(run, model, two, tmp_path):
    result = run("demo", two[0], "--model", model, "--out", tmp_path / "out", "--json", "--no-picture")
    (clip,) = result.json["clips"]
    assert (clip["clip"], clip["tokens"], clip["kbps"]) == ("x", [1, 3, 94], 0.75)
    assert 0.3 < clip["stoi"] < 1
    (fewer,) = clip["fewer"]
    assert (fewer["codebooks"], fewer["kbps"]) == (1, 0.25)
    assert fewer["mel_distance"] > clip["mel_distance"] > 0
    tok, spec = audiotok.load(model), audiotok.load(model).spec
    wav, _ = audiotok.audio.load(two[0])
    codes = tok.encode(wav)
    for suffix, wanted in (("", codes), ("-1", codes.truncate(1))):
        heard, _ = audiotok.audio.load(tmp_path / "out" / f"x-decoded{suffix}.wav")
        assert torch.allclose(heard, tok.decode(wanted)[0].clamp(-1, 1), atol=1 / 32768)
    assert clip["mel_distance"] == mel_distance(Example(wav[0], tok.decode(codes)[0, 0], spec.sample_rate))
    assert clip["encode"] > 0
    assert clip["decode"] > 0
    assert result.json["picture"] is None
    assert not (tmp_path / "out" / "demo.png").exists()


def test_fewer_codebooks_are_halves_of_the_bit_rate_where_they_decode():
    def counts(*sizes, **facts):
        return demo._counts(audiotok.Spec("x", 16000, 320, sizes, **facts))

    assert counts(*(1024,) * 8, nested=True) == [4, 2, 1]
    assert counts(*(1024,) * 32, nested=True) == [16, 8, 4]
    assert counts(*(1024,) * 8) == []
    assert counts(1024, nested=True) == []
    assert counts(*(1024,) * 7, nested=True, row_levels=(0, 1, 1, 2, 2, 2, 2)) == [3, 1]


def test_clips_too_short_to_be_judged_leave_means_to_the_others(run, model, tmp_path, clips):
    audiotok.audio.save(tmp_path / "a.wav", torch.zeros(1, 500), 16000)
    shutil.copy(next(path for path in clips if path.stem == "speech_it_2"), tmp_path / "b.flac")
    result = run(
        "demo", tmp_path / "a.wav", tmp_path / "b.flac", "--model", model, "-o", tmp_path / "out", "--no-picture"
    )
    (_, short, speech, _, _, whole, _) = (line.split() for line in result.text.splitlines())
    assert short[-4:-2] == ["-", "-"]
    assert whole[-2:] == speech[-4:-2]


def test_the_bundled_clips_are_the_default_speech_first(run, model, tmp_path, monkeypatch):
    result = run("demo", "--model", model, "--out", tmp_path, "--json", "--no-picture", "--num-codebooks", 1)
    names = [clip["clip"] for clip in result.json["clips"]]
    assert sorted(names) == sorted(path.stem for path in demo.CLIPS.glob("*.flac"))
    assert names[0].startswith("speech")


def test_bad_files_are_reported(run, model, tree, tmp_path):
    result = run("demo", tree, "--model", model, "--out", tmp_path / "out", "--json", "--no-picture")
    assert (result.code, len(result.json["clips"]), len(result.json["failed"])) == (1, 2, 5)


def test_stoi_is_left_out_where_it_cannot_be_had(monkeypatch):
    wav = torch.randn(1, 32000)
    assert demo.stoi(wav, wav, 16000) == pytest.approx(1, abs=1e-6)
    assert demo.stoi(wav[:, :100], wav[:, :100], 16000) is None
    assert demo.stoi(torch.zeros(1, 32000), wav, 16000) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert demo.stoi(wav, wav, 16000) is None


def test_matplotlib_missing_is_4_before_any_work(run, two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("demo", *two, "--out", tmp_path / "out")
    assert (result.code, "pip install 'audiotok[demo]', or --no-picture" in result.err) == (4, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("samples", "rate", "sizes"), [(1, 16000, (4,)), (400, 8000, (4,) * 20), (200000, 16000, (9,))]
)
def test_a_picture_of_any_length(tmp_path, samples, rate, sizes):
    from audiotok import Codes, Spec

    spec = Spec("s" * 30, sample_rate=rate, hop_length=320, codebook_sizes=sizes)
    frames = -(-samples // 320)
    tokens = torch.zeros(1, len(sizes), frames, dtype=torch.int64)
    codes = Codes(tokens, torch.tensor([frames]), torch.tensor([samples]), spec)
    panel = picture.Panel("a very long name " * 9, torch.zeros(1, samples), torch.zeros(1, samples), codes, None)
    picture.draw(Path(tmp_path / "p.png"), [panel] * 6)
    assert (tmp_path / "p.png").stat().st_size > 1000
