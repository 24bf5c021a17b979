"""What every reader and writer of this folder shares: files, faults, atomic writing, checksums."""

import bz2
import contextlib
import errno
import gzip
import hashlib
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from audiotok.errors import CheckpointError
from audiotok.files import atomic_write

Source = str | os.PathLike[str]
GIB = 1024**3
CHUNK_BYTES = 1024**2
MAX_FOUND_CHARACTERS = 300


class Readable(Protocol):
    """Anything that gives bytes, at most so many at a time."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes; none at the end."""
        ...


class CheckpointWriteError(OSError, CheckpointError):
    """A checkpoint that could not be written (full disk, no permission): nothing half-written is left."""


def fault(path: Source, *, wanted: str, found: str, advice: str) -> CheckpointError:
    """The one form of every reading error: the file, what was wanted, what was found, what to do."""
    if len(found) > MAX_FOUND_CHARACTERS:  # a hostile file may hold a name of a million letters
        found = found[:MAX_FOUND_CHARACTERS] + " ..."
    return CheckpointError(f"{os.fspath(path)}: wanted {wanted}, found {found}. {advice[0].upper()}{advice[1:]}.")


def write_fault(path: Source, error: OSError) -> CheckpointWriteError:
    """The one form of every writing error; it keeps the number of the system's own error."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full: free some space and try again"
    message = f"not written: {reason} (nothing half-written was left)"
    return CheckpointWriteError(error.errno, message, os.fspath(path))


@contextlib.contextmanager
def open_file(path: Source, *, wanted: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; a missing or unreadable one is a `CheckpointError`."""
    try:
        handle = Path(path).open("rb")  # noqa: SIM115 (closed by the `with` below)
    except FileNotFoundError as error:
        raise fault(path, wanted=wanted, found="no such file", advice="check the path") from error
    except IsADirectoryError as error:
        raise fault(path, wanted=wanted, found="a folder", advice="give a file inside it") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise fault(path, wanted=wanted, found=f"an error: {error}", advice="check the file") from error
    with handle:
        try:
            yield handle
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise fault(path, wanted=wanted, found=f"an error: {error}", advice="check the disk") from error


def read_bytes(path: Source, *, wanted: str, max_bytes: int) -> bytes:
    """The whole file, which may hold at most `max_bytes`."""
    with open_file(path, wanted=wanted) as handle:
        data = handle.read(max_bytes + 1)
    if len(data) > max_bytes:
        found = f"a file of more than {max_bytes} bytes"
        raise fault(path, wanted=wanted, found=found, advice="make sure it is the right file")
    return data


def decompressed(handle: BinaryIO, start: bytes) -> Readable | None:
    """The stream inside a gzip, bzip2, xz or lzma file, told by its first bytes; None for any other file."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=handle)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(handle)
    if start.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        return lzma.LZMAFile(handle)
    return None


def file_sha256(path: Source) -> str:
    """The SHA-256 checksum of a file, as 64 hexadecimal digits.

    Args:
        path: the file.

    Returns:
        The digest, lower case: the same text as `sha256sum` prints.

    Raises:
        CheckpointError: the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "empty")
        ...     _ = path.write_bytes(b"")
        ...     file_sha256(path)[:16]
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with open_file(path, wanted="a readable file") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def written(path: Source) -> Iterator[BinaryIO]:
    """A handle to write `path` through, all of it or nothing; failing is a `CheckpointWriteError`."""
    try:
        with atomic_write(path) as handle:
            yield handle
    except OSError as error:
        raise write_fault(path, error) from error
