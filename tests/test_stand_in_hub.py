"""The stand-in Hub, proved with the real huggingface_hub client; and what that client raises, for hub.py."""

import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download
from stand_in_hub import StandInHub, no_waiting, point_client_at, run_python

REPO = "someone/tokenizer"
OLD = {"config.json": b'{"version": 1}', "model.safetensors": bytes(range(256)) * 40}
NEW = {"config.json": b'{"version": 2}', "model.safetensors": bytes(range(256)) * 40, "sub/more.txt": b"more"}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as running:
        yield running


@pytest.fixture
def shas(hub: StandInHub) -> tuple[str, str]:
    """A repository with two commits: tag v1, then main."""
    return hub.add(REPO, OLD, revision="v1"), hub.add(REPO, NEW)


@pytest.fixture
def client(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The client in this process, pointed at the stand-in; its home folder."""
    point_client_at(hub, monkeypatch, tmp_path / "home")
    return tmp_path / "home"


# Reading


def test_a_file_of_every_revision_is_downloaded(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    for revision, files in ((None, NEW), ("main", NEW), ("v1", OLD), (shas[0], OLD), (shas[1], NEW)):
        for name, data in files.items():
            assert Path(hf_hub_download(REPO, name, revision=revision)).read_bytes() == data
    assert (client / "hub").is_dir()


def test_endpoint_as_an_argument_needs_no_patching(hub: StandInHub, shas: tuple[str, str], tmp_path: Path) -> None:
    path = hf_hub_download(REPO, "config.json", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == NEW["config.json"]
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path, token=False))
    assert {str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()} == set(NEW)
    assert HfApi(endpoint=hub.url, token=False).model_info(REPO).sha == shas[1]


def test_a_snapshot_holds_every_file_of_its_revision(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    for revision, files in (("main", NEW), ("v1", OLD), (shas[0], OLD)):
        folder = Path(snapshot_download(REPO, revision=revision))
        assert {
            str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()
        } == files


def test_the_second_call_is_served_from_the_cache(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    first = hf_hub_download(REPO, "model.safetensors")
    assert hub.gets() == [f"/{REPO}/resolve/main/model.safetensors"]
    hub.requests.clear()
    assert hf_hub_download(REPO, "model.safetensors") == first
    assert hub.requests == [("HEAD", f"/{REPO}/resolve/main/model.safetensors")]  # only asked whether it is new
    hub.requests.clear()
    assert hf_hub_download(REPO, "model.safetensors", revision=shas[1]) == first
    assert hub.requests == []  # a commit cannot change


def test_a_new_commit_on_the_branch_is_seen(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    hf_hub_download(REPO, "config.json")
    hub.add(REPO, {"config.json": b'{"version": 3}'})
    assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == b'{"version": 3}'


def test_a_private_repository_needs_a_token(hub: StandInHub, client: Path) -> None:
    hub.add("someone/secret", {"a": b"1"}, private=True)
    with pytest.raises(errors.RepositoryNotFoundError):
        hf_hub_download("someone/secret", "a")
    assert Path(hf_hub_download("someone/secret", "a", token=hub.read_token)).read_bytes() == b"1"


# What cannot be had: these are the exceptions that hub.py turns into HubError


def test_a_missing_repository(hub: StandInHub, client: Path) -> None:
    for token in (False, hub.token):
        with pytest.raises(errors.RepositoryNotFoundError) as caught:
            hf_hub_download("someone/nothing", "config.json", token=token)
        assert isinstance(caught.value, OSError)
        with pytest.raises(errors.RepositoryNotFoundError):
            snapshot_download("someone/nothing", token=token)


def test_a_missing_revision(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    for revision in ("v9", "0" * 40):
        with pytest.raises(errors.RevisionNotFoundError) as caught:
            hf_hub_download(REPO, "config.json", revision=revision)
        assert isinstance(caught.value, OSError)
        with pytest.raises(errors.RevisionNotFoundError):
            snapshot_download(REPO, revision=revision)


def test_a_missing_file(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    with pytest.raises(errors.EntryNotFoundError) as caught:
        hf_hub_download(REPO, "missing.bin")
    assert isinstance(caught.value, errors.RemoteEntryNotFoundError)
    assert isinstance(caught.value, OSError)


def test_a_name_that_is_no_repository(client: Path) -> None:
    with pytest.raises(errors.HFValidationError) as caught:
        hf_hub_download("a/b/c", "config.json")
    assert not isinstance(caught.value, OSError)
    assert isinstance(caught.value, ValueError)


def test_a_wrong_token(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    with pytest.raises(errors.HfHubHTTPError) as caught:
        hf_hub_download(REPO, "config.json", token="hf_wrong")
    assert caught.value.response.status_code == 401


def test_a_hub_that_is_down(
    hub: StandInHub, shas: tuple[str, str], client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = no_waiting(monkeypatch)
    hub.fail(503)
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        hf_hub_download(REPO, "config.json")
    assert 20 < sum(waits) < 30  # what a user without a cache waits before this error
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value.__cause__, errors.HfHubHTTPError)
    hub.fail(None)
    path = hf_hub_download(REPO, "config.json")
    hub.fail(503)
    assert hf_hub_download(REPO, "config.json") == path  # what is in the cache still works


def test_no_hub_at_all(client: Path, shas: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    with pytest.raises(errors.LocalEntryNotFoundError):
        hf_hub_download(REPO, "config.json", endpoint="http://127.0.0.1:9")  # the discard port: nobody listens


def test_offline_mode(hub: StandInHub, shas: tuple[str, str], client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hf_hub_download(REPO, "config.json")
    folder = snapshot_download(REPO, revision="v1")
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hf_hub_download(REPO, "config.json") == path
    assert snapshot_download(REPO, revision="v1") == folder
    for missing in ({"filename": "model.safetensors"}, {"filename": "config.json", "revision": "v9"}):
        with pytest.raises(errors.LocalEntryNotFoundError):
            hf_hub_download(REPO, **missing)
    with pytest.raises(errors.LocalEntryNotFoundError):
        snapshot_download("someone/nothing")
    assert hub.requests == []


@pytest.mark.parametrize("keep_bytes", [0, 5000])
def test_a_download_that_is_cut_short(
    hub: StandInHub, shas: tuple[str, str], client: Path, monkeypatch: pytest.MonkeyPatch, keep_bytes: int
) -> None:
    waits = no_waiting(monkeypatch)
    hub.truncate(REPO, "model.safetensors", keep_bytes)
    with pytest.raises(errors.HTTPError) as caught:
        hf_hub_download(REPO, "model.safetensors")
    assert type(caught.value).__name__ == "RemoteProtocolError"
    assert not isinstance(caught.value, OSError)  # so hub.py must name it
    assert waits == [1] * 5  # a try and five more, a second apart; each asks for the rest
    assert len(hub.gets()) == 6
    assert not list((client / "hub").rglob("model.safetensors"))  # no half file under its name
    hub.truncate(REPO, "model.safetensors", None)
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == NEW["model.safetensors"]


def test_a_download_that_is_shorter_than_announced(hub: StandInHub, shas: tuple[str, str], client: Path) -> None:
    hub.truncate(REPO, "model.safetensors", 5000, silently=True)
    with pytest.raises(OSError, match="Consistency check failed") as caught:
        hf_hub_download(REPO, "model.safetensors")
    assert type(caught.value) is OSError
    assert not list((client / "hub").rglob("model.safetensors"))


# Writing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    for name, data in {**NEW, "README.md": b"---\nlicense: mit\n---\n# Card\n", "empty": b""}.items():
        (tmp_path / "model" / name).write_bytes(data)
    return tmp_path / "model"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("private", [True, False])
def test_an_uploaded_folder_comes_back_the_same(hub: StandInHub, client: Path, folder: Path, private: bool) -> None:
    api = HfApi(token=hub.token)
    url = api.create_repo(REPO, private=private, exist_ok=True)
    assert url.repo_id == REPO
    info = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="first")
    assert hub.files(REPO) == content(folder)
    assert hub.is_private(REPO) is private
    assert content(Path(snapshot_download(REPO, revision=info.oid, token=hub.token))) == content(folder)


def test_a_second_upload_changes_only_what_changed(hub: StandInHub, client: Path, folder: Path) -> None:
    api = HfApi(token=hub.token)
    api.create_repo(REPO)
    first = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    (folder / "config.json").write_bytes(b"{}")
    second = api.upload_folder(repo_id=REPO, folder_path=folder, delete_patterns="empty").oid
    assert first != second
    assert hub.files(REPO)["config.json"] == b"{}"
    assert hub.files(REPO, first)["config.json"] == NEW["config.json"]
    api.create_repo(REPO, exist_ok=True)
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo(REPO)


def test_writing_needs_a_token_that_may_write(
    hub: StandInHub, shas: tuple[str, str], client: Path, folder: Path
) -> None:
    for token, status in ((False, 401), ("hf_wrong", 401), (hub.read_token, 403)):
        api = HfApi(token=token)
        with pytest.raises(errors.HfHubHTTPError) as caught:
            api.create_repo("someone/new")
        assert caught.value.response.status_code == status
        with pytest.raises(errors.HfHubHTTPError) as caught:
            api.upload_folder(repo_id=REPO, folder_path=folder)
        assert caught.value.response.status_code == status
    assert hub.files(REPO) == NEW


def test_uploading_to_a_missing_repository(hub: StandInHub, client: Path, folder: Path) -> None:
    with pytest.raises(errors.RepositoryNotFoundError):
        HfApi(token=hub.token).upload_folder(repo_id="someone/nothing", folder_path=folder)


# A fresh process, with nothing but environment variables


def test_the_environment_variables_of_a_fresh_process(hub: StandInHub, shas: tuple[str, str], tmp_path: Path) -> None:
    code = (
        "from huggingface_hub import hf_hub_download, HfApi\n"
        f"print(open(hf_hub_download({REPO!r}, 'config.json')).read())\n"
    )
    done = run_python(code, hub, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, '{"version": 2}'), done.stderr
    hub.requests.clear()
    done = run_python(code, hub, tmp_path, offline=True)
    assert (done.returncode, done.stdout.strip()) == (0, '{"version": 2}'), done.stderr
    assert hub.requests == []
    done = run_python(code, hub, tmp_path / "other", offline=True)
    assert done.returncode == 1
    assert "LocalEntryNotFoundError" in done.stderr
    done = run_python(
        "import huggingface_hub as h; h.create_repo('tester/new', private=True)", hub, tmp_path, token=hub.token
    )
    assert done.returncode == 0, done.stderr
    assert hub.is_private("tester/new")


def test_nothing_of_this_machine_s_own_client_is_touched(client: Path) -> None:
    assert os.fspath(client / "hub") == huggingface_hub.constants.HF_HUB_CACHE
    assert huggingface_hub.get_token() is None
