import numpy as np
import pytest

import audiotok


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


def test_what_does_not_fit_is_2_and_a_bad_file_is_3(run, centres, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY nonsense")
    for code, arguments, message in (
        (2, ["hubert", centres], "no checkpoint family 'hubert': there are logmel-kmeans"),
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
