"""`load` and `push_to_hub` through the real huggingface_hub client, against a local stand-in for the Hub."""

from pathlib import Path

import pytest
import torch
from stand_in_hub import StandInHub, no_waiting, point_client_at, run_python

import audiotok
from audiotok.errors import CheckpointError, HubError, InputError
from audiotok.ssl.logmel_kmeans import LogMelKMeans


@pytest.fixture
def hub():
    with StandInHub() as server:
        yield server


@pytest.fixture
def folder(small, tmp_path) -> Path:
    small.save(tmp_path / "saved")
    return tmp_path / "saved"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def other(clips) -> LogMelKMeans:
    return audiotok.fit_kmeans(clips, k=8, iterations=2, engine="torch", progress=False)


def test_a_repository_loads_by_name_and_once(hub, folder, small, speech, monkeypatch, tmp_path):
    hub.add("user/tok", contents(folder))
    point_client_at(hub, monkeypatch, tmp_path / "home")
    tok = audiotok.load("user/tok")
    assert tok.spec.name == "user/tok"
    assert tok.fingerprint == small.fingerprint
    assert torch.equal(tok.encode(speech).tokens, small.encode(speech).tokens)
    assert len(hub.gets()) == 2  # config.json and model.safetensors
    audiotok.load("user/tok")
    assert len(hub.gets()) == 2  # the second time from the cache


def test_revisions_are_branches_tags_or_commits(hub, folder, small, other, monkeypatch, tmp_path):
    other.save(tmp_path / "other")
    sha = hub.add("user/tok", contents(tmp_path / "other"))
    hub.add("user/tok", contents(tmp_path / "other"), revision="v1.0")
    hub.add("user/tok", contents(folder))
    point_client_at(hub, monkeypatch, tmp_path / "home")
    assert audiotok.load("user/tok").fingerprint == small.fingerprint
    for name, revision in (("user/tok@v1.0", None), ("user/tok", "v1.0"), (f"user/tok@{sha}", None), ("user/tok", sha)):
        assert audiotok.load(name, revision=revision).fingerprint == other.fingerprint
    with pytest.raises(InputError, match="two revisions"):
        audiotok.load("user/tok@v1.0", revision="main")
    with pytest.raises(HubError, match="user/tok has no revision 'v9'"):
        audiotok.load("user/tok@v9")


def test_a_cache_folder_of_ones_own(hub, folder, monkeypatch, tmp_path):
    hub.add("user/tok", contents(folder))
    point_client_at(hub, monkeypatch, tmp_path / "home")
    audiotok.load("user/tok", cache_dir=tmp_path / "mine")
    assert list((tmp_path / "mine").rglob("model.safetensors"))
    assert not list((tmp_path / "home").rglob("model.safetensors"))


CODE = "import audiotok; print(audiotok.load('user/tok').fingerprint)"


def test_offline_mode_works_after_the_first_load_in_a_fresh_process(hub, folder, small, tmp_path):
    hub.add("user/tok", contents(folder))
    before = run_python(CODE, hub, tmp_path / "home", offline=True)
    assert before.returncode == 1
    assert "HubError: user/tok is not in the cache, and the Hub cannot be reached" in before.stderr
    assert run_python(CODE, hub, tmp_path / "home").stdout.strip() == small.fingerprint
    count = len(hub.requests)
    assert run_python(CODE, hub, tmp_path / "home", offline=True).stdout.strip() == small.fingerprint
    assert len(hub.requests) == count


def test_what_is_missing_is_named(hub, folder, monkeypatch, tmp_path):
    files = contents(folder)
    hub.add("user/bare", {"README.md": b"hello"})
    hub.add("user/no-weights", {name: data for name, data in files.items() if name != "model.safetensors"})
    hub.add("user/foreign", {"config.json": b'{"model_type": "encodec"}', "model.safetensors": b""})
    point_client_at(hub, monkeypatch, tmp_path / "home")
    with pytest.raises(HubError, match="no repository user/none on the Hub, or it is private"):
        audiotok.load("user/none")
    with pytest.raises(HubError, match=r"user/bare has no file config\.json: it does not hold the tokenizer"):
        audiotok.load("user/bare")
    with pytest.raises(HubError, match=r"has no file model\.safetensors"):
        audiotok.load("user/no-weights")
    with pytest.raises(CheckpointError, match="was not written by audiotok"):
        audiotok.load("user/foreign")
    assert not any("foreign" in path and "model.safetensors" in path for path in hub.gets())


def test_a_private_repository_without_a_token_is_a_hub_error(hub, folder, monkeypatch, tmp_path):
    hub.add("user/secret", contents(folder), private=True)
    point_client_at(hub, monkeypatch, tmp_path / "home")
    with pytest.raises(HubError, match="or it is private: log in"):
        audiotok.load("user/secret")


@pytest.mark.parametrize("silently", [False, True])
def test_a_truncated_download_is_a_hub_error_and_can_be_tried_again(
    hub, folder, small, monkeypatch, tmp_path, silently
):
    hub.add("user/tok", contents(folder))
    point_client_at(hub, monkeypatch, tmp_path / "home")
    no_waiting(monkeypatch)
    hub.truncate("user/tok", "model.safetensors", 1000, silently=silently)
    with pytest.raises(HubError, match=r"cannot download model\.safetensors of user/tok"):
        audiotok.load("user/tok")
    hub.truncate("user/tok", "model.safetensors", None)
    assert audiotok.load("user/tok").fingerprint == small.fingerprint


def test_a_broken_server_is_a_hub_error(hub, folder, monkeypatch, tmp_path):
    hub.add("user/tok", contents(folder))
    point_client_at(hub, monkeypatch, tmp_path / "home")
    no_waiting(monkeypatch)
    hub.fail(500)
    with pytest.raises(HubError):
        audiotok.load("user/tok")


def test_pushed_weights_come_back_the_same(hub, small, speech, monkeypatch, tmp_path):
    point_client_at(hub, monkeypatch, tmp_path / "home")
    address = small.push_to_hub("tester/mine", token=hub.token)
    assert address.startswith(hub.url)
    assert hub.is_private("tester/mine")
    assert sorted(set(hub.files("tester/mine")) - {".gitattributes"}) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    again = audiotok.load("tester/mine")
    assert again.fingerprint == small.fingerprint
    assert torch.equal(again.encode(speech).tokens, small.encode(speech).tokens)
    small.push_to_hub("tester/open", private=False, token=hub.token)
    assert not hub.is_private("tester/open")


def test_pushing_without_the_right_is_a_hub_error(hub, small, monkeypatch, tmp_path):
    point_client_at(hub, monkeypatch, tmp_path / "home")
    for token in ("hf_wrong", hub.read_token):
        with pytest.raises(HubError, match="cannot push to tester/mine"):
            small.push_to_hub("tester/mine", token=token)
    with pytest.raises(HubError, match="cannot push to"):
        small.push_to_hub("not a name", token=hub.token)
