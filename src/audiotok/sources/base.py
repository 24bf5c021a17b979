"""`Item`, one piece of audio to read, and `Source`, what gives items and reads them."""

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .. import audio
from ..errors import AudiotokError, InputError

_SCANNED_TOGETHER = 1024


@dataclass(frozen=True)
class Item:
    """One piece of audio.

    Attributes:
        id: unique among the items of its source.
        place: where its source finds the audio, for nobody else to read: a path, a row, an offset.
        seconds: its length as far as it is known without decoding, to plan with; 0 where it is not.
        start: of a segment, in seconds; None when the item is the whole recording.
        end: of a segment, in seconds; None is the recording's end.
        stated: length that a manifest states for a whole recording, in seconds; the audio read must have it.
        block: items of one block lie together and are cheapest read one after the other; None lie anywhere.
        channel: to read of several, from 0; None mixes them.
        columns: to carry along: text, whole numbers, floats, booleans and None by name.
    """

    id: str
    place: str
    seconds: float = 0.0
    start: float | None = None
    end: float | None = None
    stated: float | None = None
    block: int | None = None
    channel: int | None = None
    columns: dict[str, Any] = field(default_factory=dict)


class Source(ABC):
    """Gives items and reads their audio, in any process: it must be picklable, and cheap to pickle.

    Attributes:
        label: names it for people and cards.
    """

    label: str

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every item, in an order that is always the same; nothing is decoded.

        Raises:
            InputError: the source says something that cannot be used, such as a manifest without paths.
        """

    def identity(self) -> str:
        """A SHA-256 of what the source holds (names and sizes, not contents): it changes when items do, and not when
        the whole source moves to another folder."""
        return digest(repr(item) for item in self.items())

    @abstractmethod
    def open(self, place: str) -> str | os.PathLike[str] | BinaryIO:
        """The recording of an item's place: a path, or a seekable binary file."""

    def read(self, item: Item, sample_rate: int, channels: int) -> Tensor:
        """wav [channels, T] float32 of an item at a rate in Hz.

        Raises:
            AudioFileError: it cannot be read. InputError: it has no such segment or channel, or holds NaN.
        """
        wav = self._load(item, sample_rate, channels)
        if not bool(torch.stack(wav.aminmax()).isfinite().all()):
            raise InputError(f"{item.id} holds NaN or infinite samples")
        found = wav.shape[1] / sample_rate
        if item.stated is not None and abs(found - item.stated) > 0.05 + 0.001 * found:
            raise InputError(
                f"{item.id} has {found:.3f} s, but {self.label} says {item.stated:g} s: a segment needs a start, too"
            )
        return wav

    def lengths(self, items: Iterable[Item]) -> Iterator[Item]:
        """Items with `seconds` read from their headers: see `with_lengths`."""
        left = iter(items)
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            while some := list(islice(left, _SCANNED_TOGETHER)):
                yield from pool.map(self._with_length, some)

    def _with_length(self, item: Item) -> Item:
        if item.seconds:
            return item
        if item.start is not None and item.end is not None:
            return replace(item, seconds=max(0.0, item.end - item.start))
        try:
            length = audio.info(self.open(item.place)).seconds
        except (AudiotokError, OSError):
            return item
        return replace(item, seconds=max(0.0, length - (item.start or 0.0)) if math.isfinite(length) else 0.0)

    def _load(self, item: Item, sample_rate: int, channels: int) -> Tensor:
        recording, start, end = self.open(item.place), item.start or 0.0, item.end
        if item.channel is None:
            return audio.load(recording, sample_rate=sample_rate, channels=channels, start=start, end=end)[0]
        wav, _ = audio.load(recording, sample_rate=sample_rate, start=start, end=end)
        if not 0 <= item.channel < len(wav):
            raise InputError(f"{item.id}: there is no channel {item.channel}, the recording has {len(wav)}")
        return wav[item.channel : item.channel + 1].repeat(channels, 1)


def with_lengths(source: Source, items: Iterable[Item]) -> Iterator[Item]:
    """Items with `seconds` read from the headers of those that do not know theirs, several at a time. One whose header
    cannot be read keeps 0: reading it will say why."""
    return source.lengths(items)


def digest(parts: Iterable[str]) -> str:
    """A SHA-256 of texts in their order."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def column(value: Any) -> str | int | float | bool | None:
    """A value of a manifest as a column can hold it: lists and objects become JSON text, and so do whole numbers
    of more than 64 bits.

    Raises:
        InputError: what JSON does not know.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    try:
        return text(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"a {type(value).__name__} cannot be carried along with audio: {error}") from error


def text(value: str) -> str:
    """Text that every file format can store: a file's name may hold bytes that are no UTF-8, and JSON half a pair of
    surrogates."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
