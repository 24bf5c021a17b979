"""Tars in the style of WebDataset: members that share a name up to its first dot belong together."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from .. import audio
from ..errors import AudioFileError, InputError
from .base import Item, Source, column, text

_KEY = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)", re.DOTALL)
_LONGEST_TEXT = 1 << 24  # bytes of a member that is carried along


class TarSource(Source):
    """Tars, each an `Item.block`. Audio is read where it lies in them: nothing is extracted, and no name in them is
    ever a path. An item's id is its key, the name up to the first dot behind the last slash; where a key has several
    audio members, the rest of each name is part of its id. The values of the key's .json and the text of its .txt
    (as the column txt) are carried along.

    Args:
        paths: of uncompressed tars.

    Raises:
        AudioFileError: one does not exist. InputError: one is compressed.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = [Path(path).absolute() for path in paths]
        self.label = str(paths[0]) if len(paths) == 1 else f"{len(paths)} tars in {self.paths[0].parent}"
        for path in self.paths:
            if not path.is_file():
                raise AudioFileError(f"no such tar: {path}")

    def items(self) -> Iterator[Item]:
        found = False
        for number, path in enumerate(self.paths):
            for item in _items_of(path, number):
                found = True
                yield item
        if not found:
            raise InputError(f"no audio in {self.label}: looked for {' '.join(audio.EXTENSIONS)}")

    def open(self, place: str) -> BinaryIO:
        number, offset, size = map(int, place.split(":"))
        return io.BufferedReader(_Member(self.paths[number], offset, size))


def _items_of(path: Path, number: int) -> Iterator[Item]:
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for key, members in groupby(_members(tar), key=lambda found: found[0]):
                    yield from _items_of_key(key, [found[1:] for found in members], file, path, number)
                file.seek(tar.offset)
                if file.read(512) != bytes(512):  # tarfile takes whatever is no header for the end
                    raise tarfile.ReadError(f"without a member or an end at byte {tar.offset}")
        except tarfile.TarError as error:
            file.seek(0)
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
            hint = (
                "it is compressed, and must not be: audio is read from its middle"
                if packed
                else f"it is broken or truncated ({error})"
            )
            raise InputError(f"cannot read {path}: {hint}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, ending and place of each file in a tar."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        name = _KEY.fullmatch(member.name.removeprefix("./"))
        if name and member.isreg() and not member.issparse():
            yield name[1], name[2], member


def _items_of_key(
    key: str, members: list[tuple[str, tarfile.TarInfo]], file: BinaryIO, path: Path, number: int
) -> Iterator[Item]:
    columns: dict[str, Any] = {}
    recordings = []
    for ending, member in members:
        if f".{ending.lower()}".endswith(audio.EXTENSIONS):
            recordings.append((ending, member))
        elif ending.lower() in ("json", "txt"):
            columns.update(_carried(ending.lower(), member, file, path))
    for ending, member in recordings:
        name = key if len(recordings) == 1 else f"{key}.{ending}"
        yield Item(text(name), f"{number}:{member.offset_data}:{member.size}", block=number, columns=dict(columns))


def _carried(ending: str, member: tarfile.TarInfo, file: BinaryIO, path: Path) -> dict[str, Any]:
    file.seek(member.offset_data)
    data = file.read(min(member.size, _LONGEST_TEXT))
    try:
        if ending == "txt":
            return {"txt": data.decode("utf-8")}
        values = json.loads(data)
        if not isinstance(values, dict):
            raise InputError("it is no object")
        return {text(name): column(value) for name, value in values.items()}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its member {text(member.name)} cannot be read: {error}") from error


class _Member(io.RawIOBase):
    """The bytes of a tar from an offset on, as a file of their own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self.name = f"{path}, byte {offset}"
        self._file, self._offset, self._size, self._at = path.open("rb", buffering=0), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
