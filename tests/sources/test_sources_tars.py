import io
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset

from audiotok import audio
from audiotok.errors import AudioFileError, InputError
from audiotok.sources import open_source, read_ahead, with_lengths
from tests.sources.conftest import read_all


@pytest.fixture
def tar(tmp_path):
    """tar({name: bytes}) -> path of a tar with these members, in this order; a list of pairs may repeat names."""

    def write(members, name="a.tar", mode="w"):
        with tarfile.open(tmp_path / name, mode) as file:
            for member, data in members.items() if isinstance(members, dict) else members:
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        return tmp_path / name

    return write


@pytest.fixture
def sound(rows):
    return Path(rows[0]["path"]).read_bytes()


def test_members_of_a_key_belong_together(tmp_path, sound, expected):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        carried = {"n": 1, "deep": {"a": [1]}, "speaker": "Ann"}
        writer.write({"__key__": "dir.x/u1", "flac": sound, "json": carried, "txt": "größe", "cls": 3})
        writer.write({"__key__": "dir.x/u2", "mic.flac": sound})
        writer.write({"__key__": "u3", "txt": "no audio"})
    source = open_source(str(tmp_path / "a.tar"))
    first, second = source.items()
    assert first.columns == {"n": 1, "deep": '{"a": [1]}', "speaker": "Ann", "txt": "größe"}
    assert (first.id, second.id, first.block, second.columns) == ("dir.x/u1", "dir.x/u2", 0, {})
    assert all(torch.equal(wav, expected["clip0"]) for wav in read_all(source).values())


def test_several_recordings_of_a_key_keep_the_rest_of_their_names(tar, sound):
    path = tar({"u.1.flac": sound, "u.2.FLAC": sound, "u.json": b'{"n": 1}', "v.flac": sound})
    items = list(open_source(path).items())
    assert [(item.id, item.columns) for item in items] == [("u.1.flac", {"n": 1}), ("u.2.FLAC", {"n": 1}), ("v", {})]


def test_each_tar_is_a_block_and_equal_keys_stay(tar, sound):
    for name in ("s-08.tar", "s-09.tar", "s-10.tar"):
        path = tar([("a.flac", sound), ("b.flac", sound), ("a.flac", sound)], name)
    for given in (
        str(path.parent / "s-{08..10}.tar"),
        [path.parent / f"s-{i:02d}.tar" for i in (8, 9, 10)],
        path.parent,
    ):
        items = list(open_source(given).items())
        assert [(item.id, item.block) for item in items] == [(key, block) for block in range(3) for key in "aba"]


def test_only_headers_are_read_for_lengths(tar, clips, monkeypatch):
    path = tar({f"{clip.stem}.flac": clip.read_bytes() for clip in clips})
    read = []
    whole = audio.info

    def counted(file):
        found = whole(file)
        read.append(file.raw.tell())
        return found

    monkeypatch.setattr(audio, "info", counted)
    source = open_source(path)
    items = list(with_lengths(source, source.items()))
    assert [item.seconds for item in items] == [whole(clip).seconds for clip in clips]
    assert len(read) == 14
    assert max(read) <= 64 << 10


def test_hostile_names_are_only_names(tar, tmp_path, sound):
    names = ["../../evil.flac", "/etc/passwd.flac", "./dot.flac", "a\nb.flac", "caf\udce9.flac", "._mac.flac", ".flac"]
    before = sorted(tmp_path.rglob("*"))
    path = tar(dict.fromkeys(names, sound))
    with tarfile.open(path, "a") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo("link.flac")
            entry.type, entry.linkname = kind, "/etc/passwd"
            file.addfile(entry)
    source = open_source(path)
    assert list(read_all(source)) == ["../../evil", "/etc/passwd", "dot", "a\nb", "caf\\udce9"]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2"])
def test_compressed_tars_are_refused(tar, sound, name):
    path = tar({"a.flac": sound}, name, "w:gz")
    with pytest.raises(InputError, match="is compressed, and audio is read from the middle of tars"):
        open_source(path)
    with pytest.raises(InputError, match=r"b.tar: it is compressed"):
        list(open_source(path.rename(path.with_name("b.tar"))).items())


def test_broken_tars_are_errors_and_no_member_is_lost_in_silence(tar, tmp_path, sound):
    path = tar({"a.flac": sound, "b.flac": sound})
    whole = path.read_bytes()
    size = 512 + -(-len(sound) // 512) * 512
    cases = {
        "in a member": whole[: size + 512 + 100],
        "behind a member": whole[:size],
        "header": whole[:size] + b"rubbish!" * 64 + whole[size + 512 :],
        "all": b"rubbish!" * 1000,
        "empty": b"",
    }
    for name, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"cannot read .*a.tar: it is broken or truncated"):
            print(name, list(open_source(path).items()))
    path.write_bytes(bytes(10240))
    with pytest.raises(InputError, match="no audio in .*a.tar"):
        list(open_source(path).items())


def test_broken_members_are_failures_and_broken_texts_are_named(tar, sound):
    path = tar({"a.flac": sound[: len(sound) // 2], "b.flac": sound, "c.flac": b"", "d.wav": b"RIFF" + bytes(100)})
    source = open_source(path)
    (batch,) = read_ahead(source, [list(source.items())], sample_rate=16000, channels=1)
    assert [item.id for item in batch.items] == ["b"]
    assert [(failure.item.id, failure.kind) for failure in batch.failures] == [(n, "AudioFileError") for n in "acd"]
    assert all("a.tar, byte" in failure.reason for failure in batch.failures)
    for name, data, problem in (
        ("a.json", b"{", "Expecting property name"),
        ("a.json", b"[1]", "it is no object"),
        ("a.json", b"[" * 100_000, "recursion"),
        ("a.txt", b"\xff", "invalid start byte"),
    ):
        with pytest.raises(InputError, match=f"a.tar: its member {name} cannot be read: .*{problem}"):
            list(open_source(tar({"a.flac": sound, name: data})).items())


def test_a_tar_that_shrinks_is_a_failure(tar, sound):
    path = tar({"a.flac": sound})
    source = open_source(path)
    (item,) = source.items()
    path.write_bytes(path.read_bytes()[: 512 + len(sound) // 2])
    with pytest.raises(AudioFileError, match="byte 512"):
        source.read(item, 16000, 1)
    with pytest.raises(AudioFileError, match="no such tar: .*gone.tar"):
        open_source("gone.tar")


def test_lhotse_shar_recordings_are_tars_too(tmp_path, rows, expected):
    from lhotse.shar import SharWriter

    from tests.sources.conftest import cuts_of

    (tmp_path / "shar").mkdir()
    with SharWriter(tmp_path / "shar", fields={"recording": "flac"}, shard_size=3) as writer:
        for cut in cuts_of(rows):
            writer.write(cut)
    found = read_all(open_source(sorted((tmp_path / "shar").glob("recording.*.tar"))))
    assert list(found) == list(expected)
    assert torch.equal(found["clip0"], expected["clip0"])
