"""Manifests: a JSON object or a CSV row for each item, read line by line, compressed or not."""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import InputError
from .base import Item, Source, digest
from .rows import IDS, PATHS, item_of

JSON_LINES = (".jsonl", ".json-lines", ".jsonlines", ".ndjson", ".json")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
MANIFESTS = (*JSON_LINES, *_SEPARATORS)
_LONGEST_LINE = 1 << 24  # bytes: what is longer is no manifest, and would fill the memory
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # as JSON writes them: 007 is a name
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")


def manifest_ending(path: str | os.PathLike[str]) -> str:
    """The ending in lower case, without .gz; empty for what is no manifest."""
    ending = Path(Path(path).name.lower().removesuffix(".gz")).suffix
    return ending if ending in MANIFESTS else ""


class ManifestSource(Source):
    """A manifest: JSON lines, CSV (RFC 4180) or TSV (split at tabs; quotes mean nothing). Relative paths are relative
    to its folder. Columns that say nothing of the audio are carried along: those of a CSV or TSV as text, except that
    one whose values are all numbers, as JSON writes them, is a column of numbers, where an empty value is None.

    Args:
        path: of the manifest; its ending says what it is, with .gz behind it where it is compressed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.label = str(path)

    def items(self) -> Iterator[Item]:
        count = 0
        for count, (line, row) in enumerate(self._rows(), 1):  # noqa: B007
            yield item_of(row, f"{self.label}, line {line}")
        if not count:
            raise InputError(f"{self.label} is empty")

    def identity(self) -> str:
        """Of the manifest's text alone: it says which items there are."""
        return digest(line for _, line in lines_of(self.path))

    def open(self, place: str) -> Path:
        return self.path.parent / place

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        ending = manifest_ending(self.path)
        return objects_of(self.path) if ending in JSON_LINES else _typed(self.path, _SEPARATORS[ending])


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers, one at a time in memory.

    Raises:
        InputError: it is no UTF-8 text, or broken. OSError: it cannot be opened.
    """
    number = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise InputError(f"{path}, line {number} is longer than {_LONGEST_LINE >> 20} MiB")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number} is no UTF-8 text: {error.reason}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is broken after line {number}: {error}") from error


def objects_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of JSON lines with the numbers of their lines.

    Raises:
        InputError: a line that is no JSON object.
    """
    for number, line in lines_of(path):
        if line.isspace():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number} is no JSON ({error}): each line must be an object of its own, "
                'such as {"path": "a.wav"}'
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"{path}, line {number} is no JSON object: {line.strip():.80}")
        yield number, found


def _typed(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table whose numbers are numbers. A first pass over the file finds in which columns they are."""
    kinds: dict[str, type[int] | type[float] | type[str]] = {}
    for _, row in _table(path, separator):
        for name, value in row.items():
            if value and kinds.get(name) is not str:
                kinds[name] = _kind(value, kinds.get(name, int))
    numbers = {name: kind for name, kind in kinds.items() if kind is not str and name.lower() not in PATHS + IDS}
    for line, row in _table(path, separator):
        typed: dict[str, Any] = dict(row)
        for name, kind in numbers.items():
            typed[name] = kind(row[name]) if row[name] else None
        yield line, typed


def _kind(value: str, before: type[int] | type[float] | type[str]) -> type[int] | type[float] | type[str]:
    """Of a column, by one more of its values: whole numbers, else numbers, else text."""
    if before is int and _WHOLE.fullmatch(value):
        return int
    return float if _DECIMAL.fullmatch(value) else str


def _table(path: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    texts = (line for _, line in lines_of(path))
    if separator == "\t":
        reader = csv.reader(texts, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(texts, delimiter=separator, strict=True)
    try:
        names = next(reader, None)
        if names is None:
            return
        if not {name.lower() for name in names} & set(PATHS):
            raise InputError(
                f"{path}: its first line must name the columns, one of them {' or '.join(PATHS)}; "
                f"it is {separator.join(names)[:200]!r}"
            )
        if len(set(names)) < len(names):
            raise InputError(f"{path}: two columns have the same name: {separator.join(names)[:200]!r}")
        for values in reader:
            if len(values) != len(names):
                if not values:
                    continue
                raise InputError(f"{path}, line {reader.line_num} has {len(values)} values, not {len(names)}")
            yield reader.line_num, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
