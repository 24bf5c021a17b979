"""Unpack a zip or tar archive into a new folder, after every member of it was checked."""

import contextlib
import io
import lzma
import secrets
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO

from audiotok.checkpoint.base import CHUNK_BYTES, GIB, Readable, Source, decompressed, fault, open_file, write_fault
from audiotok.errors import CheckpointError

MAX_MEMBERS = 100_000
TAR_OVERHEAD_BYTES = 64 * 1024**2  # headers, padding and long names

_WANTED = "a zip or tar archive of plain files"
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    """One thing in an archive, whatever the archive's format."""

    name: str
    size: int
    kind: str  # "file" | "folder" | what else it is, in words


_Walk = Iterator[tuple[_Member, Callable[[], IO[bytes] | None]]]  # None: there is no content


def extract(archive: Source, folder: Source, *, max_bytes: int = 16 * GIB) -> list[Path]:
    """Unpack an archive that may be hostile into a folder that is new or empty.

    Every member is checked before anything is written. The files are unpacked beside `folder` and renamed
    into place at the end, so a fault or a full disk leaves `folder` as it was.

    Args:
        archive: a `.zip`, or a `.tar`, plain or compressed by gzip, bzip2 or xz; the first bytes tell which.
        folder: where the files go. It must not exist, or be empty.
        max_bytes: the most that all the files may hold together.

    Returns:
        The files' paths, sorted.

    Raises:
        CheckpointError: the archive is missing, broken or too large; a member has an absolute path, a drive,
            a backslash or a `..`, or is a link or device; two have the same name; or `folder` is not empty.
        CheckpointWriteError: the files cannot be written, for example because the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.zip")
        ...     with zipfile.ZipFile(path, "w") as new:
        ...         new.writestr("model/config.yaml", "sample_rate: 16000")
        ...     [file.name for file in extract(path, Path(folder, "out"))]
        ['config.yaml']
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise fault(folder, wanted="a new or empty folder", found="one with something in it", advice="name another")
    with open_file(archive, wanted=_WANTED) as handle, _broken(archive):
        plan = _check(archive, [member for member, _ in _walk(archive, handle, max_bytes)], max_bytes)
        staging = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
        try:
            for member, content in _walk(archive, handle, max_bytes):
                if member not in plan:
                    raise _refused(archive, f"{member.name!r}, which was not there at first", "close its writer")
                _write(archive, member, content, staging / plan[member])
            with _writing(folder):
                staging.mkdir(parents=True, exist_ok=True)  # an archive of nothing
                if folder.exists():
                    folder.rmdir()  # empty: Windows does not rename over it
                staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return sorted(folder / path for member, path in plan.items() if member.kind == "file")


def _refused(archive: Source, found: str, advice: str = "do not use this archive") -> CheckpointError:
    return fault(archive, wanted=_WANTED, found=found, advice=advice)


@contextlib.contextmanager
def _broken(archive: Source) -> Iterator[None]:
    """Turn what the archive modules raise on a damaged file into `CheckpointError`."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, CheckpointError):
            raise
        found = f"a broken archive ({type(error).__name__}: {error})"
        raise _refused(archive, found, "download it again") from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise write_fault(path, error) from error


def _check(archive: Source, members: list[_Member], max_bytes: int) -> dict[_Member, PurePosixPath]:
    """The relative path of every member; a `CheckpointError` if any member is not harmless."""
    paths: dict[_Member, PurePosixPath] = {}
    files: set[PurePosixPath] = set()
    folders = {PurePosixPath(".")}
    for member in members:
        path = PurePosixPath(member.name)
        if member.kind not in ("file", "folder"):
            raise _refused(archive, f"{member.kind} named {member.name!r}")
        if path.is_absolute() or ".." in path.parts or _is_windows_path(member.name):
            raise _refused(archive, f"the name {member.name!r}, which leads out of the folder")
        if member.kind == "folder":
            folders.add(path)
        elif path in files:
            raise _refused(archive, f"{member.name!r} twice")
        else:
            files.add(path)
        folders.update(path.parents)
        paths[member] = path
    for path in files & folders:
        raise _refused(archive, f"{str(path)!r} both as a file and as a folder")
    total = sum(member.size for member in members)
    if total > max_bytes:
        found = f"{total} bytes once unpacked, over the limit of {max_bytes}"
        raise _refused(archive, found, "raise max_bytes if you trust it")
    return paths


def _is_windows_path(name: str) -> bool:
    return "\\" in name or "\0" in name or bool(PureWindowsPath(name).drive)


def _write(archive: Source, member: _Member, content: Callable[[], IO[bytes] | None], target: Path) -> None:
    with _writing(target):
        (target if member.kind == "folder" else target.parent).mkdir(parents=True, exist_ok=True)
    if member.kind == "folder":
        return
    source = content()
    if source is None:
        raise _refused(archive, f"no content for {member.name!r}")
    left = member.size
    with source, _writing(target), target.open("xb") as out:
        while chunk := _read(archive, source):
            left -= len(chunk)
            if left < 0:
                raise _refused(archive, f"more in {member.name!r} than the {member.size} bytes it declares")
            out.write(chunk)
    if left:
        raise _refused(archive, f"{left} bytes missing of {member.name!r}", "download it again")


def _read(archive: Source, source: IO[bytes]) -> bytes:
    with _broken(archive):  # so that an OSError of the archive is not taken for one of the disk
        return source.read(CHUNK_BYTES)


def _walk(archive: Source, handle: BinaryIO, max_bytes: int) -> _Walk:
    """Every member, with a function that opens its content (to be called before the next member)."""
    handle.seek(0)
    start = handle.read(8)
    handle.seek(0)
    walk = _walk_zip(handle) if start.startswith(b"PK") else _walk_tar(archive, handle, start, max_bytes)
    for count, item in enumerate(walk):
        if count >= MAX_MEMBERS:
            raise _refused(archive, f"more than {MAX_MEMBERS} members")
        yield item


def _walk_zip(handle: BinaryIO) -> _Walk:
    with zipfile.ZipFile(handle) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                kind = "an encrypted file"
            elif mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if mode == stat.S_IFLNK else "a device"
            else:
                kind = "folder" if info.is_dir() else "file"
            # orig_filename: zipfile itself cuts a name at a null byte
            yield _Member(info.orig_filename, info.file_size, kind), partial(archive.open, info)


def _walk_tar(archive: Source, handle: BinaryIO, start: bytes, max_bytes: int) -> _Walk:
    stream = _Counted(archive, decompressed(handle, start) or handle, max_bytes + TAR_OVERHEAD_BYTES)
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # a stream: each block is decompressed once
        for info in tar:
            if info.issparse():
                kind = "a file with holes"
            elif info.issym() or info.islnk():
                kind = "a link"
            else:
                kind = "file" if info.isreg() else "folder" if info.isdir() else "a device"
            yield _Member(info.name, info.size, kind), partial(tar.extractfile, info)
        end = tar.offset
        while stream.read(CHUNK_BYTES):
            pass
        if stream.count <= end:  # the block of zeros is missing; tarfile takes that for an end
            raise _refused(archive, "an archive that is cut short", "download it again")


class _Counted(io.RawIOBase):
    """A stream that counts what is read and refuses to give more than a limit."""

    def __init__(self, archive: Source, stream: Readable, limit: int) -> None:
        self._archive = archive
        self._stream = stream
        self._limit = limit
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        if self.count > self._limit:
            found = f"more than {self._limit} bytes once unpacked"
            raise _refused(self._archive, found, "raise max_bytes if you trust it")
        return data
