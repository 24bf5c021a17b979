import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

import audiotok
from audiotok import Codes
from audiotok.cli import options


def test_codes_are_those_of_python(run, model, clip, tmp_path):
    result = run("encode", clip, "-o", tmp_path / "a.codes", "--model", model)
    codes = Codes.load(tmp_path / "a.codes")
    wanted = audiotok.load(model).encode_file(clip)
    assert result.code == 0
    assert torch.equal(codes.tokens, wanted.tokens)
    assert (codes.fingerprint, codes.spec) == (wanted.fingerprint, wanted.spec)
    assert result.out == b""
    assert result.err == f"{clip} -> {tmp_path}/a.codes: 2.68 s, 3 x 135 tokens, 0.75 kbit/s\n"


def test_json_line_has_the_facts(run, model, clip, tmp_path):
    result = run("encode", clip, "-o", tmp_path / "a.codes", "--model", model, "--json", "--tokens")
    facts = result.json
    tokens = facts.pop("tokens")
    assert facts == {
        "input": str(clip),
        "output": str(tmp_path / "a.codes"),
        "tokenizer": "logmel-k32x3",
        "frames": 135,
        "codebooks": 3,
        "seconds": 2.681,
        "kbps": 0.75,
    }
    assert tokens == Codes.load(tmp_path / "a.codes").tokens[0].tolist()
    assert result.err == ""


def test_without_out_codes_lie_beside_the_input_and_are_replaced(run, model, clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.flac")
    assert run("encode", tmp_path / "a.flac", "--model", model).code == 0
    assert run("encode", tmp_path / "a.flac", "--model", model, "--num-codebooks", 2).code == 0
    assert Codes.load(tmp_path / "a.codes").spec.num_codebooks == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.codes", "a.flac"]


def test_a_file_that_holds_something_else_is_not_replaced(run, model, clip, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    result = run("encode", clip, "-o", tmp_path / "thesis.txt", "--model", model)
    assert result.code == 1
    assert "holds no audiotok codes: it is not replaced" in result.err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_codes_are_not_written_to_a_name_that_ends_as_audio_does(run, clip):
    result = run("encode", clip, "-o", "b.wav")
    assert (result.code, "choose an ending like .codes" in result.err) == (2, True)


def test_one_bad_file_is_reported_and_the_rest_goes_on(run, model, tree, tmp_path):
    result = run("encode", tree, "-o", tmp_path / "out", "--model", model, "--json")
    good = {line["input"]: line["output"] for line in result.lines if "error" not in line}
    bad = {Path(line["input"]).name: line["error"] for line in result.lines if "error" in line}
    assert result.code == 1
    assert good == {
        str(tree / "a" / "one.flac"): str(tmp_path / "out" / "a" / "one.codes"),
        str(tree / "a" / "b" / "two.FLAC"): str(tmp_path / "out" / "a" / "b" / "two.codes"),
    }
    assert all(Codes.load(path).num_samples.tolist() == [42896] for path in good.values())
    assert bad.keys() == {"corrupt.wav", "empty.wav", "truncated.flac", "nan.wav", "nothing.wav"}
    assert bad["nan.wav"] == {
        "type": "InputError",
        "message": "row 0 holds NaN or infinite samples: encode wants finite audio",
    }
    assert {error["type"] for name, error in bad.items() if name != "nan.wav"} == {"AudioFileError"}
    assert f"failed: {tree}/nan.wav: row 0 holds NaN" in result.err
    assert result.err.endswith("5 of 7 failed, 2 done\n")
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["one.codes", "two.codes"]  # nothing half-written


def test_an_error_nobody_thought_of_does_not_stop_the_rest(run, model, clip, tmp_path, monkeypatch):
    for name in ("a", "b"):
        shutil.copy(clip, tmp_path / f"{name}.flac")
    whole = audiotok.Tokenizer.encode_file

    def encode_file(self, path):
        if str(path).endswith("a.flac"):
            raise RuntimeError("out of luck")
        return whole(self, path)

    monkeypatch.setattr(audiotok.Tokenizer, "encode_file", encode_file)
    result = run("encode", tmp_path, "--model", model)
    assert result.code == 1
    assert "a.flac: unexpected RuntimeError: out of luck" in result.err
    assert (tmp_path / "b.codes").exists()


def test_files_that_differ_only_in_their_ending_keep_it(run, model, clip, tmp_path):
    wav, rate = soundfile.read(clip)
    for name in ("x.wav", "x.flac", "y.wav"):
        soundfile.write(tmp_path / name, wav[:800], rate)
    assert run("encode", tmp_path, "--model", model).code == 0
    assert sorted(path.name for path in tmp_path.glob("*.codes")) == ["x.flac.codes", "x.wav.codes", "y.codes"]


def test_several_folders_keep_their_names(run, model, clip, tmp_path):
    for name in ("p", "q"):
        (tmp_path / name).mkdir()
        shutil.copy(clip, tmp_path / name / "x.flac")
    assert run("encode", tmp_path / "p", tmp_path / "q", clip, "-o", tmp_path / "out", "--model", model).code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.codes"))
    assert found == ["p/x.codes", "q/x.codes", "speech_en_1.codes"]


def test_the_same_file_twice_is_refused(run, model, clip, tmp_path):
    result = run("encode", clip, clip, "-o", tmp_path, "--model", model)
    assert (result.code, "give each only once" in result.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_to_standard_output(run, model, clip, tmp_path):
    result = run("encode", "-", "--model", model, stdin=clip.read_bytes())
    (tmp_path / "a.codes").write_bytes(result.out)
    run("encode", clip, "-o", tmp_path / "b.codes", "--model", model)
    assert result.code == 0
    assert result.err == "standard input -> standard output: 2.68 s, 3 x 135 tokens, 0.75 kbit/s\n"
    assert (tmp_path / "b.codes").read_bytes() == result.out


def test_standard_input_with_json_writes_no_file(run, model, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("encode", "-", "--json", "--model", model, stdin=clip.read_bytes())
    assert (result.code, result.json["output"], result.json["frames"]) == (0, None, 135)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_to_a_folder(run, model, clip, tmp_path):
    assert run("encode", "-", "-o", f"{tmp_path}/new/", "--model", model, stdin=clip.read_bytes()).code == 0
    assert (tmp_path / "new" / "stdin.codes").exists()


def test_eight_kilohertz_stereo_is_resampled_and_mixed(run, model, clip, tmp_path):
    wav, _ = soundfile.read(clip)
    soundfile.write(tmp_path / "s.wav", torch.tensor(wav[:8001]).repeat(2, 1).T.numpy(), 8000)
    result = run("encode", tmp_path / "s.wav", "--model", model, "--json")
    assert (result.json["frames"], result.json["seconds"]) == (51, 8001 / 8000)
    run("decode", tmp_path / "s.codes", "-o", tmp_path / "d.wav", "--model", model, "--sample-rate", 8000)
    found = soundfile.info(tmp_path / "d.wav")
    assert (found.frames, found.samplerate, found.channels) == (8001, 8000, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.wav"], "no such file or folder: nowhere.wav"),
        (["-", "a.wav"], "- (standard input) cannot be mixed with files"),
        (["CLIP", "--tokens"], "--tokens are printed as JSON: add --json"),
        (["CLIP", "-o", "-", "--json"], "--json and -o - would both write to standard output"),
        (["CLIPS", "-o", "-"], "14 audio files cannot all go to standard output"),
        (["EMPTY"], "no audio files in"),
        (["CLIP", "--num-codebooks", "9"], "has 1 to 3 codebooks, not 9"),
        (["CLIP", "--dtype", "int4"], "dtype must be one of"),
        (["CLIP", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["CLIP", "--num-codebooks", "0"], "wanted a whole number of at least 1, not '0'"),
        (["CLIP", "--bandwidth", "0"], "wanted kbit/s above 0, not '0'"),
        (["CLIP", "--bandwidth", "nan"], "wanted kbit/s above 0, not 'nan'"),
        (["CLIP", "--bandwidth", "1", "--num-codebooks", "1"], "not allowed with argument --bandwidth"),
        (["CLIP", "--model", "a/b/c"], "a folder is written ./a/b/c"),
        ([], "the following arguments are required: INPUT"),
    ],
)
def test_wrong_usage_is_2_and_does_nothing(run, model, clip, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    names = {"CLIP": clip, "CLIPS": clip.parent, "EMPTY": tmp_path / "void"}
    chosen = [] if "--model" in arguments else ["--model", model]
    result = run("encode", *(names.get(argument, argument) for argument in arguments), *chosen)
    assert result.code == 2
    assert message in result.err
    assert result.out == b""
    assert [path.name for path in tmp_path.iterdir()] == ["void"]


def test_garbage_and_nothing_on_standard_input_fail(run, model):
    result = run("encode", "-", "--model", model, stdin=b"garbage")
    assert (result.code, "cannot read standard input" in result.err) == (1, True)
    result = run("encode", "-", "--model", model, stdin=b"")
    assert (result.code, "standard input is empty" in result.err) == (1, True)


def test_a_terminal_gets_no_bytes(run, model, clip, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    result = run("encode", clip, "-o", "-", "--model", model)
    assert (result.code, "not for a terminal" in result.err) == (2, True)


def test_progress_bars_only_when_asked_for_or_on_a_terminal(run, model, tree, tmp_path):
    quiet = run("encode", tree / "a", "-o", tmp_path / "out", "--model", model, "-q")
    assert quiet.err == ""
    forced = run("encode", tree / "a", "-o", tmp_path / "out", "--model", model, "--progress", "--json")
    assert "2/2" in forced.err
    assert len(forced.lines) == 2


def test_an_unwritable_folder_is_a_failure_with_a_reason(run, model, clip, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("encode", clip, "-o", tmp_path / "file" / "a.codes", "--model", model)
    assert result.code == 1
    assert "file" in result.err
    assert "Traceback" not in result.err


def test_model_options_reach_load(run, model, clip, tmp_path, monkeypatch):
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        return audiotok.load(name, **options)

    monkeypatch.setattr(options, "load", load)
    run("encode", clip, "-o", tmp_path / "a.codes", "--model", model, "--dtype", "float64", "--num-codebooks", 1)
    usual = {"name": model, "device": "cpu", "mode": "encode"}
    assert asked == {**usual, "dtype": "float64", "num_codebooks": 1, "bandwidth": None}
    run("encode", clip, "-o", tmp_path / "a.codes", "--model", model, "--bandwidth", 0.6)
    assert asked == {**usual, "dtype": "float32", "num_codebooks": None, "bandwidth": 0.6}


@pytest.mark.parametrize(("kbps", "codebooks"), [(0.01, 1), (0.25, 1), (0.49, 1), (0.5, 2), ("0.7", 2), (24, 3)])
def test_a_bandwidth_chooses_the_codebooks(run, model, clip, tmp_path, kbps, codebooks):
    result = run("encode", clip, "-o", tmp_path / "a.codes", "--model", model, "--bandwidth", kbps, "--json")
    assert (result.json["codebooks"], result.json["kbps"]) == (codebooks, 0.25 * codebooks)
    whole = audiotok.load(model).encode_file(clip)
    assert torch.equal(Codes.load(tmp_path / "a.codes").tokens, whole.truncate(codebooks).tokens)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_out_may_be_a_link_to_a_folder(run, model, clip, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert run("encode", clip, "-o", tmp_path / "link", "--model", model).code == 0
    assert (tmp_path / "real" / "speech_en_1.codes").exists()
