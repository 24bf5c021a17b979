import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from audiotok.checkpoint import file_sha256, write_safetensors
from audiotok.convert import READERS, convert
from audiotok.errors import CheckpointError, InputError
from audiotok.hub import load_folder
from audiotok.ssl.logmel import LogMel
from audiotok.testing import check_tokenizer


def written(kind, centres, folder):
    """A file with the centres, in one of the formats that are read."""
    path = folder / f"kmeans.{kind}"
    if kind == "npy":
        np.save(path, centres)
    elif kind == "npz":
        np.savez(path, cluster_centers=centres)
    elif kind == "safetensors":
        write_safetensors(path, {"centroids": torch.from_numpy(centres)})
    elif kind == "pt":
        torch.save({"cluster_centers": torch.from_numpy(centres)}, path)
    else:
        fitted = KMeans(len(centres), init=centres, n_init=1, max_iter=1).fit(centres)
        fitted.cluster_centers_ = centres
        joblib.dump(fitted, path)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "pt", "joblib"])
def test_the_same_tokens_from_every_format(small, speech, tmp_path, kind):
    path = written(kind, small.codebooks[0].numpy(), tmp_path)
    tok = convert("logmel-kmeans", path)
    assert tok.spec.name == "logmel-k32"
    assert tok.provenance == {
        "license": "unknown",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    for wav in speech:
        assert torch.equal(tok.encode(wav[None]).tokens, small.encode(wav[None]).tokens[:, :1])


def test_a_converted_tokenizer_keeps_every_promise_and_loads(small, tmp_path):
    tok = convert("logmel-kmeans", written("npy", small.codebooks[0].numpy(), tmp_path), name="theirs")
    check_tokenizer(tok)
    tok.save(tmp_path / "tok")
    assert load_folder(tmp_path / "tok").fingerprint == tok.fingerprint
    assert load_folder(tmp_path / "tok").provenance == tok.provenance


def test_features_other_than_the_default(tmp_path):
    np.save(tmp_path / "c.npy", np.random.default_rng(0).normal(size=(5, 40)))
    mel = LogMel(sample_rate=8000, n_fft=256, hop_length=80, n_mels=40)
    tok = convert("logmel-kmeans", tmp_path / "c.npy", mel=mel)
    assert (tok.spec.sample_rate, tok.spec.frame_rate, tok.mel) == (8000, 100.0, mel)
    with pytest.raises(InputError, match=r"centres of 40 values, but the log-mel frames have 80 bands.*n_mels=40"):
        convert("logmel-kmeans", tmp_path / "c.npy")


def test_a_hostile_file_is_refused_and_does_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Hostile()))
    joblib.dump({"cluster_centers_": Hostile()}, tmp_path / "a.joblib")
    for name in ("a.pkl", "a.joblib"):
        with pytest.raises(CheckpointError, match="wanted"):
            convert("logmel-kmeans", tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_unknown_families_and_options(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no checkpoint family .nothing.: there are dac"):
        convert("nothing", tmp_path)
    with pytest.raises(InputError, match="did you mean 'logmel-kmeans'"):
        convert("logmel-kmean", tmp_path)
    monkeypatch.setitem(READERS, "plain", f"{__name__}:read_plain")
    with pytest.raises(InputError, match="plain takes no mel"):
        convert("plain", tmp_path, mel=LogMel())
    assert convert("plain", tmp_path, name="n") == (tmp_path, "n")


def read_plain(source, *, name=""):
    return source, name
