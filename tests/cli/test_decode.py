import shutil

import pytest
import soundfile
import torch

import audiotok
from audiotok import Codes


@pytest.fixture
def codes(run, model, clip, tmp_path):
    """A file of codes of the clip."""
    run("encode", clip, "-o", tmp_path / "a.codes", "--model", model)
    return tmp_path / "a.codes"


def test_audio_is_that_of_python(run, model, codes, tmp_path):
    result = run("decode", codes, "-o", tmp_path / "a.wav", "--model", model)
    wav, rate = audiotok.audio.load(tmp_path / "a.wav")
    wanted = audiotok.load(model).decode(Codes.load(codes))[0]
    assert (result.code, rate) == (0, 16000)
    assert torch.allclose(wav, wanted.clamp(-1, 1), atol=1 / 32768)
    assert result.err == f"{codes} -> {tmp_path}/a.wav: 2.68 s, 16000 Hz\n"


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16000, 42896])
def test_as_many_samples_come_back(run, model, clip, tmp_path, samples):
    wav, rate = soundfile.read(clip)
    soundfile.write(tmp_path / "a.wav", wav[:samples], rate)
    run("encode", tmp_path / "a.wav", "--model", model)
    result = run("decode", tmp_path / "a.codes", "-o", tmp_path / "b.flac", "--model", model, "--json")
    assert result.json["samples"] == soundfile.info(tmp_path / "b.flac").frames == samples


def test_json_line_has_the_facts(run, model, codes, tmp_path):
    out = tmp_path / "low.wav"
    options = ["--json", "--num-codebooks", 2, "--sample-rate", 8000]
    result = run("decode", codes, "-o", out, "--model", model, *options)
    assert result.json == {
        "input": str(codes),
        "output": str(out),
        "tokenizer": "logmel-k32x3",
        "frames": 135,
        "codebooks": 2,
        "samples": 21448,
        "sample_rate": 8000,
        "seconds": 2.681,
    }
    assert soundfile.info(out).samplerate == 8000


def test_fewer_codebooks_decode_as_in_python(run, model, codes, tmp_path):
    run("decode", codes, "-o", tmp_path / "a.wav", "--model", model, "--num-codebooks", 1)
    wav, _ = audiotok.audio.load(tmp_path / "a.wav")
    wanted = audiotok.load(model).decode(Codes.load(codes).truncate(1))[0]
    assert torch.allclose(wav, wanted.clamp(-1, 1), atol=1 / 32768)


@pytest.mark.parametrize(("kbps", "codebooks"), [(0.25, 1), (0.6, 2), (24, 3)])
def test_a_bandwidth_decodes_the_first_codebooks(run, model, codes, tmp_path, kbps, codebooks):
    result = run("decode", codes, "-o", tmp_path / "a.wav", "--model", model, "--bandwidth", kbps, "--json")
    wav, _ = audiotok.audio.load(tmp_path / "a.wav")
    wanted = audiotok.load(model).decode(Codes.load(codes).truncate(codebooks))[0]
    assert result.json["codebooks"] == codebooks
    assert torch.allclose(wav, wanted.clamp(-1, 1), atol=1 / 32768)


def test_a_pipe_both_ways(run, model, clip, codes, tmp_path):
    run("decode", codes, "-o", tmp_path / "a.wav", "--model", model)
    result = run("decode", "-", "-o", "-", "--model", model, stdin=codes.read_bytes())
    assert result.code == 0
    assert result.out == (tmp_path / "a.wav").read_bytes()


def test_the_catalog_knows_the_tokenizer_of_the_codes(run, clip, tmp_path):
    run("encode", clip, "-o", tmp_path / "a.codes", "--model", "mulaw-8khz")
    result = run("decode", tmp_path / "a.codes", "-o", tmp_path / "a.wav", "--json")
    assert (result.code, result.json["tokenizer"], result.json["samples"]) == (0, "mulaw-8khz", 21448)


def test_codes_of_an_unknown_tokenizer_ask_for_a_model(run, codes, tmp_path):
    result = run("decode", codes, "-o", tmp_path / "a.wav")
    assert result.code == 2
    assert "was made by 'logmel-k32x3', which the catalog does not have: say with --model where it is" in result.err


def test_codes_of_another_tokenizer_fail(run, codes, tmp_path):
    result = run("decode", codes, "-o", tmp_path / "a.wav", "--model", "mulaw-8khz")
    assert (result.code, "these codes were made by logmel-k32x3" in result.err) == (1, True)
    assert not (tmp_path / "a.wav").exists()


def test_a_tree_is_mirrored_and_bad_codes_are_reported(run, model, codes, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(codes, folder / "sub" / "good.codes")
    (folder / "truncated.codes").write_bytes(codes.read_bytes()[:100])
    (folder / "empty.codes").write_bytes(b"")
    Codes.batch([Codes.load(codes)] * 2).save(folder / "two.codes")
    result = run("decode", folder, "-o", tmp_path / "out", "--model", model, "--json")
    errors = {line["input"]: line["error"]["type"] for line in result.lines if "error" in line}
    assert result.code == 1
    assert errors == {
        str(folder / "empty.codes"): "CheckpointError",
        str(folder / "truncated.codes"): "CheckpointError",
        str(folder / "two.codes"): "InputError",
    }
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["good.wav"]


def test_originals_in_a_folder_are_kept_unless_forced(run, model, clip, tmp_path):
    wav, rate = soundfile.read(clip)
    soundfile.write(tmp_path / "a.wav", wav, rate)
    before = (tmp_path / "a.wav").read_bytes()
    run("encode", tmp_path, "--model", model)
    result = run("decode", tmp_path, "-o", tmp_path, "--model", model)
    assert (result.code, "a.wav exists: --force replaces it" in result.err) == (1, True)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert run("decode", tmp_path, "-o", tmp_path, "--model", model, "--force").code == 0
    assert (tmp_path / "a.wav").read_bytes() != before


def test_wrong_usage_is_2(run, model, codes, tmp_path):
    for arguments, message in (
        ([codes], "required: -o/--out"),
        (["nowhere.codes", "-o", "a.wav"], "no such file or folder: nowhere.codes"),
        ([codes, "-o", tmp_path / "a.txt"], "must end as audio does"),
        ([codes, "-o", "-", "--json"], "--json and -o - would both write to standard output"),
        ([codes, "-o", "a.wav", "--sample-rate", "-3"], "wanted a whole number of at least 1, not '-3'"),
    ):
        result = run("decode", *arguments, "--model", model)
        assert (result.code, message in result.err) == (2, True), (arguments, result.err)


def test_more_codebooks_than_there_are(run, model, codes, tmp_path):
    result = run("decode", codes, "-o", tmp_path / "a.wav", "--model", model, "--num-codebooks", 4)
    assert (result.code, "has 1 to 3 codebooks, not 4" in result.err) == (2, True)
