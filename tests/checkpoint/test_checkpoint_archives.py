import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from audiotok.checkpoint import CheckpointWriteError, archives, extract
from audiotok.errors import CheckpointError

FILES = {
    "model/config.yaml": b"sample_rate: 16000\n",
    "model/deep/er/weights.bin": bytes(range(256)) * 20,
    "empty": b"",
}
FORMATS = ["zip", "stored zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def pack(form: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if form.endswith("zip"):
        kind = zipfile.ZIP_STORED if form == "stored zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, kind)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{form[4:]}") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for the results of one test."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def refused(tmp_path: Path, place: Path, data: bytes, words: str, **limits: int) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        extract(tmp_path / "archive", place / "out", **limits)
    assert list(place.iterdir()) == []  # neither the folder nor anything beside it
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_an_archive_of_plain_files_is_unpacked(tmp_path: Path, place: Path, form: str) -> None:
    (tmp_path / "archive").write_bytes(pack(form, {"./": b"", "folder/": b"", **FILES, "./dotted": b"x"}))
    paths = extract(tmp_path / "archive", place / "out")
    assert tree(place / "out") == {**FILES, "dotted": b"x"}
    assert paths == sorted(place / "out" / name for name in (*FILES, "dotted"))
    assert (place / "out" / "folder").is_dir()
    assert [path.name for path in place.iterdir()] == ["out"]
    (place / "plain").mkdir()
    assert (place / "out").stat().st_mode == (place / "plain").stat().st_mode


def test_an_empty_folder_may_be_there_and_a_full_one_not(tmp_path: Path, place: Path) -> None:
    (tmp_path / "archive").write_bytes(pack("zip", FILES))
    (place / "out").mkdir()
    extract(tmp_path / "archive", place / "out")
    assert tree(place / "out") == FILES
    with pytest.raises(CheckpointError, match="wanted a new or empty folder"):
        extract(tmp_path / "archive", place / "out")
    with pytest.raises(CheckpointError, match="wanted a new or empty folder"):
        extract(tmp_path / "archive", place / "out" / "empty")
    assert tree(place / "out") == FILES


def test_an_archive_of_nothing_gives_an_empty_folder(tmp_path: Path, place: Path) -> None:
    (tmp_path / "archive").write_bytes(pack("zip", {}))
    assert extract(tmp_path / "archive", place / "out") == []
    assert tree(place / "out") == {}


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "a/../../evil", "a/..", "..", "./../evil", "a/./../../../evil", "/evil", "//evil"),
        *("\\evil", "..\\evil", "a\\..\\..\\evil", "C:evil", "C:/evil", "C:\\evil"),
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, place: Path, form: str, name: str) -> None:
    words = "the name .* which leads out of the folder"
    refused(tmp_path, place, pack(form, {"good": b"1", name: b"2"}), words)
    refused(tmp_path, place, pack(form, {"good": b"1", name + "/": b""}), words)


def test_an_absolute_path_to_a_real_place_is_refused(tmp_path: Path, place: Path) -> None:
    for form in ("zip", "tar"):
        refused(tmp_path, place, pack(form, {str(tmp_path / "evil"): b"2"}), "leads out of the folder")


def test_a_null_byte_in_a_name_is_refused(tmp_path: Path, place: Path) -> None:
    data = pack("zip", {"good?../../evil": b"1"}).replace(b"good?", b"good\0")
    refused(tmp_path, place, data, "leads out of the folder|a broken archive")


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_doubles_are_refused(tmp_path: Path, place: Path, form: str) -> None:
    refused(tmp_path, place, pack(form, {"a": b"1", "./a": b"2"}), "twice")
    refused(tmp_path, place, pack(form, {"a/b": b"1", "a//b": b"2"}), "twice")
    refused(tmp_path, place, pack(form, {"a": b"1", "a/b": b"2"}), "both as a file and as a folder")
    refused(tmp_path, place, pack(form, {"a/b": b"1", "a": b"2"}), "both as a file and as a folder")
    refused(tmp_path, place, pack(form, {".": b"1"}), "both as a file and as a folder")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (b"Z", "a device"),
    ],
)
@pytest.mark.parametrize("target", ["../evil", "good", "/etc/passwd"])
def test_links_and_devices_in_a_tar_are_refused(
    tmp_path: Path, place: Path, kind: bytes, words: str, target: str
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("good")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
        bad = tarfile.TarInfo("bad")
        bad.type, bad.linkname = kind, target
        tar.addfile(bad)
        inside = tarfile.TarInfo("bad/evil")  # would be written through the link
        tar.addfile(inside)
    refused(tmp_path, place, buffer.getvalue(), f"{words} named 'bad'")


@pytest.mark.parametrize(
    ("mode", "words"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device"), (stat.S_IFIFO, "a device")]
)
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, place: Path, mode: int, words: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good", b"1")
        info = zipfile.ZipInfo("bad")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "../evil")
    refused(tmp_path, place, buffer.getvalue(), f"{words} named 'bad'")


def test_an_encrypted_zip_is_refused(tmp_path: Path, place: Path) -> None:
    data = bytearray(pack("zip", {"a": b"1"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(tmp_path, place, bytes(data), "an encrypted file")


@pytest.mark.parametrize("form", FORMATS)
def test_bombs_are_refused(tmp_path: Path, place: Path, form: str) -> None:
    data = pack(form, {"a": b"\0" * 600_000, "b": b"\0" * 600_000})
    refused(tmp_path, place, data, "1200000 bytes once unpacked, over the limit of 1000000", max_bytes=1_000_000)
    extract(tmp_path / "archive", place / "out", max_bytes=1_200_000)


def test_a_zip_that_holds_more_than_it_declares_is_refused(tmp_path: Path, place: Path) -> None:
    data = pack("zip", {"a": b"\0" * 600_000})
    true, lie = (600_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert data.count(true) == 2
    refused(tmp_path, place, data.replace(true, lie), "a broken archive|more in 'a'", max_bytes=2000)


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_compressed_tar_is_not_unpacked_beyond_its_limit(
    tmp_path: Path, place: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # zeros behind the end of the archive, or a name of 600 kB, do not count as members
    monkeypatch.setattr(archives, "TAR_OVERHEAD_BYTES", 100_000)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{form[4:]}") as tar:
        tar.addfile(tarfile.TarInfo("a" * 600_000))
    refused(tmp_path, place, buffer.getvalue(), "more than 101000 bytes once unpacked", max_bytes=1000)


def test_too_many_members_are_refused(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for form in ("zip", "tar.gz"):
        refused(tmp_path, place, pack(form, {str(number): b"" for number in range(4)}), "more than 3 members")


def test_a_tar_file_with_holes_is_refused(tmp_path: Path, place: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("holes")
        info.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(info)
    refused(tmp_path, place, buffer.getvalue(), "a file with holes|a broken archive")


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\x03\x04", b"hello", b"\x1f\x8bhello", b"BZhhello", b"\xfd7zXZ\0", b"\0" * 100]
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, place: Path, data: bytes) -> None:
    refused(tmp_path, place, data, "wanted a zip or tar archive of plain files")


def test_a_missing_archive_is_refused(tmp_path: Path, place: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        extract(tmp_path / "missing", place / "out")
    assert list(place.iterdir()) == []


def test_a_fault_while_writing_leaves_nothing(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").write_bytes(pack("tar.gz", FILES))
    (place / "out").mkdir()

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CheckpointWriteError, match="the disk is full"):
        extract(tmp_path / "archive", place / "out")
    monkeypatch.undo()
    assert tree(place) == {}
    assert [path.name for path in place.iterdir()] in ([], ["out"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_archive_gives_files_or_checkpoint_error_and_leaves_nothing(
    tmp_path: Path, fuzz: Any, form: str
) -> None:
    place = tmp_path / "place"
    runs = iter(range(100_000))

    def unpack(archive: Path) -> None:
        folder = place / str(next(runs)) / "out"
        try:
            extract(archive, folder, max_bytes=10_000)
        except CheckpointError:
            assert not folder.parent.exists() or list(folder.parent.iterdir()) == []
            raise
        assert [path.name for path in folder.parent.iterdir()] == ["out"]
        assert all(path.is_relative_to(folder.resolve()) for path in (item.resolve() for item in folder.rglob("*")))

    small = {name: data[:1000] for name, data in FILES.items()}
    # a plain tar may lose some of the zeros at its end, which mean nothing
    fuzz(unpack, pack(form, small), strict=form != "tar", count=60)


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_a_tar_cut_between_two_members_is_not_taken_for_a_shorter_one(tmp_path: Path, place: Path, form: str) -> None:
    whole = pack("tar", {"a": b"1" * 512, "b": b"2" * 512})
    cut = whole[:1024]  # the first member's header and content
    with tarfile.open(fileobj=io.BytesIO(cut)) as tar:
        assert tar.getnames() == ["a"]  # tarfile itself sees nothing wrong
    if form == "tar.gz":
        cut = gzip.compress(cut)
    refused(tmp_path, place, cut, "cut short")
