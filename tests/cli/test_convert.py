import sys

import numpy as np
import pytest

import audiotok
from audiotok.convert import READERS


@pytest.fixture
def centres(small, tmp_path):
    """The first codebook of the small tokenizer as a .npy file."""
    np.save(tmp_path / "centres.npy", small.codebooks[0].numpy())
    return tmp_path / "centres.npy"


def test_a_converted_tokenizer_gives_the_same_tokens(run, small, centres, clip, tmp_path):
    result = run("convert", "logmel-kmeans", centres, tmp_path / "tok", "--name", "theirs")
    tok = audiotok.load(tmp_path / "tok")
    assert result.code == 0
    assert result.err == f"saved theirs to {tmp_path}/tok: 1 x 32, 50 Hz\n"
    assert tok.encode_file(clip).tokens.equal(small.encode_file(clip).truncate(1).tokens)
    assert tok.provenance["converted_from"]["file"] == "centres.npy"


def test_json_and_features(run, tmp_path):
    np.save(tmp_path / "c.npy", np.random.default_rng(0).normal(size=(8, 40)))
    features = ["--n-mels", 40, "--sample-rate", 8000, "--hop-length", 80, "--n-fft", 256, "--f-max", 3800]
    result = run("convert", "logmel-kmeans", tmp_path / "c.npy", tmp_path / "tok", *features, "--json", "-q")
    assert result.code == 0
    assert result.json["spec"]["sample_rate"] == 8000
    assert result.json["fingerprint"] == audiotok.load(tmp_path / "tok").fingerprint
    assert audiotok.load(tmp_path / "tok").mel.f_max == 3800.0


def test_options_of_the_reader(run, tmp_path, monkeypatch):
    given = []

    def read_plain(source, *, name="", levels=0, config=None, flag=False, rates=()):
        given.append((source, name, levels, config, flag, rates))
        return audiotok.load()

    monkeypatch.setitem(READERS, "plain", f"{__name__}:read_plain")
    monkeypatch.setattr(sys.modules[__name__], "read_plain", read_plain, raising=False)
    options = ["levels=9", "config=a=b.yaml", "flag=true", "rates=[2, 3]"]
    flags = [word for option in options for word in ("--option", option)]
    assert run("convert", "plain", tmp_path / "x", tmp_path / "tok", "--name", "n", *flags).code == 0
    assert given == [(tmp_path / "x", "n", 9, "a=b.yaml", True, [2, 3])]
    for code, flags, message in (
        (2, ["--option", "levels"], "wanted NAME=VALUE, such as levels=9, not 'levels'"),
        (2, ["--option", "=9"], "wanted NAME=VALUE"),
        (2, ["--option", "bins=3"], "plain takes no bins; it takes config, flag, levels, rates"),
        (2, ["--option", "name=x"], "name is not given with --option: it has an argument of its own"),
        (2, ["--option", "levels=1", "--option", "levels=2"], "levels is given twice"),
        (2, ["--vocoder", "v", "--option", "vocoder=w"], "vocoder is given twice"),
        (
            2,
            ["--sample-rate", 8000],
            "--sample-rate is of logmel-kmeans: facts of other families are given with --option",
        ),
    ):
        result = run("convert", "plain", tmp_path / "x", tmp_path / "other", *flags)
        assert (result.code, message in result.err) == (code, True), result.err
    assert not (tmp_path / "other").exists()


def test_help_names_every_family(run):
    text = run("convert", "--help").text
    families = text.partition("families:")[2].partition("ssl-kmeans  ")[0]
    assert {family.strip() for family in families.replace("\n", " ").split(",")} == set(READERS)
    assert max(map(len, text.splitlines())) <= 120


def test_what_does_not_fit_is_2_and_a_bad_file_is_3(run, centres, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY nonsense")
    for code, arguments, message in (
        (2, ["hubert", centres], "no checkpoint family 'hubert': there are dac, "),
        (2, ["logmel-kmean", centres], "(did you mean 'logmel-kmeans'?)"),
        (2, ["logmel-kmeans", centres, "--n-mels", 64], "holds centres of 80 values, but the log-mel frames have 64"),
        (2, ["logmel-kmeans", centres, "--n-fft", 100], "wanted 1 <= hop_length <= n_fft"),
        (3, ["logmel-kmeans", tmp_path / "none.npy"], "no such file"),
        (3, ["logmel-kmeans", tmp_path / "bad.npy"], "broken numpy file"),
    ):
        result = run("convert", arguments[0], arguments[1], tmp_path / "tok", *arguments[2:])
        assert (result.code, message in result.err) == (code, True), result.err
    assert not (tmp_path / "tok").exists()
    result = run("convert", "logmel-kmeans", centres, tmp_path)
    assert (result.code, "is not empty" in result.err) == (2, True)
