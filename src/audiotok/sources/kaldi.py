"""Folders in the style of Kaldi: wav.scp, and segments, utt2spk and text where they are there."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .base import Item, Source
from .manifests import lines_of
from .rows import item_of


class KaldiSource(Source):
    """A Kaldi data folder. wav.scp holds "recording path", segments "utterance recording start end" (an end of -1 is
    the recording's), utt2spk and text become the columns speaker and text. Relative paths are relative to the current
    folder, as they are for Kaldi. wav.scp is kept in memory.

    Args:
        folder: with a wav.scp.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.label = str(folder)
        self.root = Path.cwd()

    def items(self) -> Iterator[Item]:
        recordings = self._table("wav.scp")
        for name, path in recordings.items():
            if path.endswith("|"):
                raise InputError(
                    f"{self.label}/wav.scp: {name} is a command, and none is run: write it to a file first"
                )
        speakers, texts = self._table("utt2spk"), self._table("text")
        for where, utterance, path, part in self._utterances(recordings):
            row = {"id": utterance, "path": path, **part}
            carried = {"speaker": speakers.get(utterance), "text": texts.get(utterance)}
            yield item_of({**row, **{name: value for name, value in carried.items() if value is not None}}, where)

    def open(self, place: str) -> Path:
        return self.root / place

    def _utterances(self, recordings: dict[str, str]) -> Iterator[tuple[str, str, str, dict[str, str]]]:
        if not (self.folder / "segments").exists():
            for name, path in recordings.items():
                yield f"{self.label}/wav.scp: {name}", name, path, {}
            return
        for number, line in lines_of(self.folder / "segments"):
            where, fields = f"{self.label}/segments, line {number}", line.split()
            if len(fields) != 4 or fields[1] not in recordings:
                raise InputError(
                    f'{where} must be "utterance recording start end", of a recording in wav.scp: {line!r:.200}'
                )
            utterance, recording, start, end = fields
            yield where, utterance, recordings[recording], {"start": start, **({} if end == "-1" else {"end": end})}

    def _table(self, name: str) -> dict[str, str]:
        if name != "wav.scp" and not (self.folder / name).exists():
            return {}
        found: dict[str, str] = {}
        for number, line in lines_of(self.folder / name):
            key, value = [*line.split(maxsplit=1), "", ""][:2]
            if not key or (name != "text" and not value) or key in found:
                raise InputError(
                    f'{self.label}/{name}, line {number} must be "name value", each name once: {line!r:.200}'
                )
            found[key] = value.strip()
        return found
