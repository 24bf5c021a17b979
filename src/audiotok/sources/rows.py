"""One row of a manifest as an `Item`: which columns say where the audio is, and which part of it is meant."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .base import Item, Source, column, text

#: Columns that may hold the path, by preference; upper case is as good as lower case, here and below.
PATHS = ("path", "audio_filepath", "audio_path", "file_name", "audio_file", "audio", "wav", "file")
IDS = ("id", "utt_id", "key")
STARTS = ("start", "offset")


class RowSource(Source):
    """Rows in memory, each a mapping like a line of a JSON manifest.

    Args:
        rows: with a path and what `item_of` reads; relative paths are relative to the current folder.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.root = Path.cwd()
        self.label = f"a list of {len(rows)} rows"

    def items(self) -> Iterator[Item]:
        for number, row in enumerate(self.rows):
            if not isinstance(row, Mapping):
                raise InputError(f"row {number} of the list is a {type(row).__name__}, not a dict as the first one is")
            yield item_of(row, f"row {number} of the list")

    def open(self, place: str) -> Path:
        return self.root / place


def item_of(row: Mapping[str, Any], where: str) -> Item:
    """The item of a row.

    Args:
        row: its path under one of `PATHS`; optionally start (or offset), end, duration, all in seconds, id and
            channel. A duration without a start or end is the length of the whole file. Empty values are absent ones.
        where: the row stands, for messages.

    Returns:
        The item. Its default id is the path as written, and what is read of it: "a.flac:1.5-3", "a.flac:channel0".

    Raises:
        InputError: no path, or a value that cannot be meant.
    """
    given = {
        str(name).lower(): name
        for name, value in row.items()
        if not (value is None or (isinstance(value, str) and not value))
    }
    used = [next((given[name] for name in names if name in given), None) for names in (PATHS, IDS, STARTS)]
    path_name, id_name, start_name = used
    if path_name is None:
        raise InputError(f"{where} has no path: wanted one of {', '.join(PATHS)}, found {_names(row)}")
    path = row[path_name]
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise InputError(f"{where}: {path_name} is no path: {path!r:.80}")
    start = _seconds(row, start_name, where)
    end = _seconds(row, given.get("end"), where)
    duration = _seconds(row, given.get("duration"), where)
    channel = _channel(row, given.get("channel"), where)
    stated = duration if start is None and end is None else None
    if stated is None and duration is not None:
        by_duration = (start or 0.0) + duration
        if end is not None and abs(end - by_duration) > 0.001:
            raise InputError(f"{where}: the end {end:g} s is not the start plus the duration {duration:g} s")
        end = by_duration if end is None else end
    if end is not None and start is None:
        start = 0.0
    if (end is not None and end <= (start or 0.0)) or stated == 0:
        raise InputError(f"{where}: the segment from {start or 0:g} s to {end or 0:g} s is empty")
    place = os.fspath(path)
    special = {path_name, id_name, start_name, given.get("end"), given.get("duration"), given.get("channel")}
    return Item(
        id=_name(row[id_name], where) if id_name else _default_id(place, start, end, channel),
        place=place,
        seconds=stated or (end - (start or 0.0) if end is not None else 0.0),
        start=start,
        end=end,
        stated=stated,
        channel=channel,
        columns={text(str(name)): column(value) for name, value in row.items() if name not in special},
    )


def _default_id(place: str, start: float | None, end: float | None, channel: int | None) -> str:
    part = "" if start is None else f":{start:.12g}-" + ("" if end is None else f"{end:.12g}")
    return text(place) + part + ("" if channel is None else f":channel{channel}")


def _name(value: Any, where: str) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return text(str(value))
    raise InputError(f"{where}: an id is text or a whole number, not {value!r:.80}")


def _seconds(row: Mapping[str, Any], name: str | None, where: str) -> float | None:
    if name is None:
        return None
    seconds = _number(row[name])
    if not 0 <= seconds < math.inf:
        raise InputError(f"{where}: {name} must be seconds from 0, not {row[name]!r:.80}")
    return seconds


def _channel(row: Mapping[str, Any], name: str | None, where: str) -> int | None:
    if name is None:
        return None
    channel = _number(row[name])
    if not 0 <= channel < math.inf or channel % 1:
        raise InputError(
            f"{where}: {name} must be a channel's number from 0, not {row[name]!r:.80}: if the column means something "
            "else, rename it"
        )
    return int(channel)


def _number(value: Any) -> float:
    """NaN where a value is no number."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(str(name) for name in list(row)[:20]) or "nothing"
