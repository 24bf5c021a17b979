"""Parquet files that hold audio files: a column of their bytes, or of {bytes, path} as Hugging Face writes it."""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AudioFileError, AudiotokError, InputError, MissingDependencyError
from .base import Item, Source, column, digest, text
from .rows import IDS

_ROWS_TOGETHER = 1024


class ParquetSource(Source):
    """Parquet files with audio in them; each row group is an `Item.block`. Reading the items of a block one after the
    other reads its audio once: the last row group's audio stays in memory. Columns of text and numbers are carried
    along; id, utt_id or key names the items, else the file's name and the row's number do.

    Args:
        paths: of Parquet files.
        column: of the audio; needed only where several could be.

    Raises:
        InputError: no Parquet, or no column of audio. MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], column: str | None = None) -> None:
        self.paths = [Path(path).absolute() for path in paths]
        self.root = Path(os.path.commonpath([path.parent for path in self.paths]))
        self.label = str(paths[0]) if len(paths) == 1 else f"{len(paths)} Parquet files in {self.root}"
        self.column = _audio_column(self.paths[0], column)
        self._kept: tuple[str, Any] = ("", None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": ("", None)}

    def items(self) -> Iterator[Item]:
        block = total = 0
        for number, path in enumerate(self.paths):
            stem = path.relative_to(self.root).with_suffix("").as_posix()
            with _opened(path) as file:
                names = _plain_columns(file.schema_arrow)
                first = 0
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    rows = self._rows(file, group, names, size)
                    for row, values in enumerate(rows):
                        yield _item(f"{stem}:{first + row}", f"{number}:{group}:{row}", block, values)
                    first, total, block = first + size, total + size, block + 1
        if not total:
            raise InputError(f"there are no rows in {self.label}")

    def identity(self) -> str:
        return digest(f"{path.relative_to(self.root)}\n{path.stat().st_size}" for path in self.paths)

    def open(self, place: str) -> Path | BinaryIO:
        number, group, row = place.split(":")
        return recording_of(
            self._audio(int(number), int(group))[int(row)].as_py(), self.paths[int(number)].parent, place
        )

    def lengths(self, items: Iterable[Item]) -> Iterator[Item]:
        """In their order and one at a time, so that no row group is read twice."""
        return map(self._with_length, items)

    def _rows(self, file: Any, group: int, names: list[str], size: int) -> Iterator[dict[str, Any]]:
        if not names:
            yield from ({} for _ in range(size))
            return
        batches = file.iter_batches(_ROWS_TOGETHER, row_groups=[group], columns=names, use_threads=False)
        with _broken(self.label, InputError):
            for batch in batches:
                yield from batch.to_pylist()

    def _audio(self, number: int, group: int) -> Any:
        wanted, kept = f"{number}:{group}", self._kept
        if kept[0] != wanted:
            self._kept = kept = ("", None)  # let go of the one before the next is read
            with _opened(self.paths[number]) as file, _broken(self.paths[number], AudioFileError):
                table = file.read_row_group(group, columns=[self.column], use_threads=False)  # threads survive no fork
            self._kept = kept = (wanted, table.column(self.column))
        return kept[1]


def recording_of(value: Any, folder: Path, name: str) -> Path | BinaryIO:
    """The recording of a cell: bytes, or a dict of bytes or path.

    Raises:
        AudioFileError: there is none.
    """
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, bytes):
        return io.BytesIO(data)
    if not isinstance(path, str):
        raise AudioFileError(f"there is no audio in row {name}: neither bytes nor a path")
    return folder / path


def _item(default_id: str, place: str, block: int, values: dict[str, Any]) -> Item:
    name = next((name for name in IDS if values.get(name) not in (None, "")), None)
    own_id = default_id if name is None else str(values.pop(name))
    return Item(text(own_id), place, block=block, columns={text(key): column(value) for key, value in values.items()})


def _opened(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(f"{path} needs pyarrow: pip install 'audiotok[dataset]'") from error
    if not path.is_file():
        raise AudioFileError(f"no such file: {path}")
    with _broken(path, InputError):
        return parquet.ParquetFile(path)


@contextlib.contextmanager
def _broken(name: object, kind: type[AudiotokError]) -> Iterator[None]:
    """What pyarrow finds wrong with a file, as an error of ours."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise kind(f"cannot read {name} as Parquet: {error}") from error


def _audio_column(path: Path, wanted: str | None) -> str:
    with _opened(path) as file:
        names = list(file.schema_arrow.names)
        found: list[str] = [field.name for field in file.schema_arrow if _holds_audio(field.type)]
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    problem = "several columns that may hold audio" if len(found) > 1 else "no column of bytes, or of {bytes, path}"
    asked = f", named {wanted!r}" if wanted is not None else ""
    raise InputError(f"{path} has {problem}{asked}: give column=, one of {', '.join(found or names)}")


def _holds_audio(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_audio(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _plain_columns(schema: Any) -> list[str]:
    from pyarrow import types

    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    kinds = {f.name: f.type.value_type if types.is_dictionary(f.type) else f.type for f in schema}
    return [name for name, kind in kinds.items() if any(check(kind) for check in plain)]
