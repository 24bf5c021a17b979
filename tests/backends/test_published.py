"""`load_published_codec` on the stand-in Hub: a family that exists, and a reader that says what it was given."""

import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_in_hub import StandInHub, point_client_at

import audiotok
from audiotok.backends import published as module
from audiotok.catalog import ENTRIES, Published
from audiotok.errors import CheckpointError, HubError, UnsupportedError

LOADER = "audiotok.backends.published:load_published_codec"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with StandInHub() as server:
        point_client_at(server, monkeypatch, tmp_path / "home")
        yield server


@pytest.fixture
def named(monkeypatch):
    """Registers an entry with these published files, called "theirs"."""
    monkeypatch.setattr(audiotok.registry, "_registered", {})

    def make(published: Published, **facts: object) -> None:
        base = replace(ENTRIES["logmel-16khz"], name="theirs", loader=LOADER, published=published)
        audiotok.register(replace(base, **facts))

    return make


def centres(seed: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).normal(-4, 2, (8, 80)))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


KMEANS = Published(
    "audiotok.convert:read_logmel_kmeans", "user/km", ("deep/er/centres.npy",), source="deep/er/centres.npy"
)


def test_a_name_is_downloaded_once_read_and_says_where_it_is_from(hub, named, speech, tmp_path):
    sha = hub.add("user/km", {"deep/er/centres.npy": centres(0), "large.bin": b"not asked for"})
    named(KMEANS, licence_weights="CC-BY-4.0", paper="A Paper, arXiv 1234.56789")
    tok = audiotok.load("theirs")
    (tmp_path / "centres.npy").write_bytes(centres(0))
    wanted = audiotok.convert("logmel-kmeans", tmp_path / "centres.npy").encode(speech)
    assert torch.equal(tok.encode(speech).tokens, wanted.tokens)
    assert tok.spec.name == "theirs"
    assert tok.provenance["license"] == "cc-by-4.0"
    assert tok.provenance["paper"] == "A Paper, arXiv 1234.56789"
    assert tok.provenance["repository"] == f"user/km@{sha}"
    assert tok.provenance["converted_from"]["file"] == "centres.npy"
    assert hub.gets() == ["/user/km/resolve/main/deep/er/centres.npy"]
    assert audiotok.load("theirs").fingerprint == tok.fingerprint
    assert len(hub.gets()) == 1


def test_a_licence_in_words_is_none_to_the_card(hub, named):
    hub.add("user/km", {"deep/er/centres.npy": centres(0)})
    named(KMEANS, licence_weights="MIT (readme, no licence file)")
    provenance = audiotok.load("theirs").provenance
    assert provenance["license"] == "unknown"
    assert provenance["licence_in_words"] == "MIT (readme, no licence file)"


def test_a_revision_and_what_is_not_there(hub, named, tmp_path):
    hub.add("user/km", {"deep/er/centres.npy": centres(0)})
    hub.add("user/km", {"deep/er/centres.npy": centres(1)}, revision="v1")
    hub.add("user/km", {"README.md": b""}, revision="v2")
    named(KMEANS)
    fingerprints = {audiotok.load("theirs", revision=revision).fingerprint for revision in (None, "main", "v1")}
    assert len(fingerprints) == 2
    with pytest.raises(HubError, match="user/km has no revision 'v9'"):
        audiotok.load("theirs", revision="v9")
    with pytest.raises(HubError, match=r"user/km@v2 has no file deep/er/centres\.npy"):
        audiotok.load("theirs", revision="v2")
    audiotok.load("theirs", cache_dir=tmp_path / "mine")
    assert len(list((tmp_path / "mine").rglob("centres.npy"))) == 1


# ---- a reader that shows what it gets ----------------------------------------------------------------------------

SEEN: list[dict] = []


def read_fake(source, *, name="", config=None, levels=0):
    SEEN.append(
        {
            "source": source,
            "name": name,
            "levels": levels,
            "files": sorted(path.name for path in source.iterdir()) if source.is_dir() else [source.read_bytes()],
            "config": config and config.read_text(),
            "config_path": config,
        }
    )
    return audiotok.load()


FAKE = f"{__name__}:read_fake"


@pytest.fixture
def seen():
    SEEN.clear()
    return SEEN


def test_a_folder_and_options(hub, named, seen):
    hub.add("user/repo", {"a/config.json": b"{}", "a/model.bin": b"weights", "b": b""})
    named(Published(FAKE, "user/repo", ("a/config.json", "a/model.bin"), source="a", options={"levels": 9}))
    audiotok.load("theirs")
    (call,) = seen
    assert (call["files"], call["name"], call["levels"], call["config"]) == (
        ["config.json", "model.bin"],
        "theirs",
        9,
        None,
    )


def test_the_root_of_a_repository(hub, named, seen):
    hub.add("user/repo", {"config.json": b"{}", "model.bin": b"weights"})
    named(Published(FAKE, "user/repo", ("config.json", "model.bin")))
    audiotok.load("theirs")
    assert seen[0]["files"] == ["config.json", "model.bin"]


def test_a_configuration_of_the_same_repository_of_another_and_in_the_catalog(hub, named, seen):
    hub.add("user/repo", {"w": b"1", "c.yaml": b"main"})
    hub.add("user/repo", {"w": b"2", "c.yaml": b"version 2"}, revision="v2")
    hub.add("user/other", {"d/c.yaml": b"of the other"})
    for config, wanted in (
        ("user/repo:c.yaml", "version 2"),
        ("user/other:d/c.yaml", "of the other"),  # which has no revision v2
        ({"rates": [2, 3]}, json.dumps({"rates": [2, 3]})),
    ):
        named(Published(FAKE, "user/repo", ("w",), source="w", config=config))
        audiotok.load("theirs", revision="v2")
        assert (seen[-1]["files"], seen[-1]["config"]) == ([b"2"], wanted)
    assert not seen[-1]["config_path"].exists()  # values are a file only while they are read


ZIPPED = Published(FAKE, "user/repo", ("SQ.zip",), source="SQ")


def test_an_archive_is_unpacked_once_beside_itself_for_each_commit(hub, named, seen, tmp_path):
    old = hub.add("user/repo", {"SQ.zip": zipped({"SQ/old.pth": b"1"})}, revision="v1")
    new = hub.add("user/repo", {"SQ.zip": zipped({"SQ/config.yaml": b"a: 1", "SQ/ckpt.pth": b"2"})})
    named(ZIPPED)
    audiotok.load("theirs")
    assert seen[-1]["files"] == ["ckpt.pth", "config.yaml"]
    folder = seen[-1]["source"]
    assert folder.parent.name == "SQ.zip.contents"
    assert folder.parents[1].name == new
    stamp = (folder / "ckpt.pth").stat().st_mtime_ns
    audiotok.load("theirs")
    assert (folder / "ckpt.pth").stat().st_mtime_ns == stamp
    audiotok.load("theirs", revision="v1")
    assert (seen[-1]["files"], seen[-1]["source"].parents[1].name) == (["old.pth"], old)
    audiotok.load("theirs", cache_dir=tmp_path / "mine")
    assert tmp_path / "mine" in seen[-1]["source"].parents


@pytest.mark.parametrize("data", [b"no archive at all", zipped({"../evil": b"1"}), zipped({"SQ/a": b"1"})[:-9]])
def test_an_archive_that_is_broken_or_hostile_is_refused_and_leaves_nothing(hub, named, seen, tmp_path, data):
    hub.add("user/repo", {"SQ.zip": data})
    named(ZIPPED)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"SQ\.zip"):
            audiotok.load("theirs")
    assert not seen
    assert not [path for path in tmp_path.rglob("*") if "contents" in path.name or path.name == "evil"]


def test_two_processes_may_unpack_at_once(hub, named, seen, monkeypatch):
    hub.add("user/repo", {"SQ.zip": zipped({"SQ/a": b"1"})})
    named(ZIPPED)
    extract = module.extract

    def slow(archive, folder):
        extract(archive, folder)  # the other process, in the meantime
        return extract(archive, folder)

    monkeypatch.setattr(module, "extract", slow)
    audiotok.load("theirs")
    assert seen[0]["files"] == ["a"]
    assert not [path for path in seen[0]["source"].parents[1].iterdir() if path.name.endswith(".tmp")]
    shutil.rmtree(seen[0]["source"].parent)

    def failing(archive, folder):
        raise CheckpointError("no luck")

    monkeypatch.setattr(module, "extract", failing)
    with pytest.raises(CheckpointError, match="no luck"):
        audiotok.load("theirs")


def test_an_entry_that_names_no_files_is_unsupported():
    with pytest.raises(UnsupportedError, match="logmel-16khz names no published files"):
        module.load_published_codec(ENTRIES["logmel-16khz"])


def test_the_advice_is_raised():
    with pytest.raises(UnsupportedError, match=r"^soundstream cannot be loaded: Google .* encodec-24khz"):
        audiotok.load("soundstream")
    with pytest.raises(UnsupportedError, match=r"audiotok convert dac weights_44khz_16kbps\.pth OUT$"):
        audiotok.load("dac-44khz-16kbps")
