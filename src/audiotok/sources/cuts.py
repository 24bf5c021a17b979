"""Lhotse's cuts: a manifest or a CutSet. Plain cuts are read as segments of files; Lhotse itself makes the others."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import audio
from ..errors import AudioFileError, InputError, MissingDependencyError
from .base import Item, Source, column, text
from .manifests import objects_of

CUT_TYPES = ("MonoCut", "MultiCut", "PaddingCut", "MixedCut")


class CutSource(Source):
    """Cuts of Lhotse (Żelasko et al. 2021, arXiv 2110.12561). A MonoCut of a file that nothing was done to is a segment
    of that file; cuts that are mixed, padded, perturbed or of several channels are made by Lhotse in the process that
    reads. Relative paths are relative to the current folder, as they are for Lhotse. Carried along are the text,
    speaker, language and gender of the supervisions, and custom fields.

    Args:
        cuts: a CutSet (a lazy one is cheapest to hand to worker processes), or the path of its JSON lines.
    """

    def __init__(self, cuts: str | os.PathLike[str] | Iterable[Any]) -> None:
        self.cuts = cuts
        self.label = str(cuts) if isinstance(cuts, str | os.PathLike) else "a CutSet"
        self.root = Path.cwd()

    def items(self) -> Iterator[Item]:
        if isinstance(self.cuts, str | os.PathLike):
            for line, cut in objects_of(Path(self.cuts)):
                yield _item(cut, f"{self.label}, line {line}")
        else:
            for number, cut in enumerate(self.cuts):
                yield _item(cut.to_dict(), f"cut {number} of {self.label}")

    def open(self, place: str) -> Path:
        return self.root / place

    def _load(self, item: Item, sample_rate: int, channels: int) -> Tensor:
        if not item.place.startswith('{"'):
            return super()._load(item, sample_rate, channels)
        wav, rate = _made_by_lhotse(item)
        if channels == 1:
            wav = wav.mean(0, keepdim=True)
        elif len(wav) not in (1, channels):
            raise InputError(f"{item.id} has {len(wav)} channels, which cannot be mixed to {channels}")
        return audio.resample(wav.expand(channels, -1), rate, sample_rate)


def _item(cut: dict[str, Any], where: str) -> Item:
    try:
        tracks: list[dict[str, Any]] = cut["tracks"] if cut["type"] == "MixedCut" else [{"cut": cut, "offset": 0}]
        cuts = [track["cut"] for track in tracks]
        sources = [source for part in cuts if "recording" in part for source in part["recording"]["sources"]]
        if _runs_a_command(cut):
            raise InputError("its audio is what a command prints, and none is run: write it to a file first")
        if any(source["type"] in ("memory", "shar") for source in sources):
            raise InputError(
                "it holds its audio in memory, as those of Lhotse Shar do: give the recording.*.tar of the Shar "
                "folder as tars, or save the audio first with CutSet.save_audios"
            )
        columns = _columns(cut, cuts)
        plain = cut["type"] == "MonoCut" and not cut["recording"].get("transforms")
        if plain and len(sources) == 1 and sources[0]["type"] == "file":
            return _segment(cut, sources[0], columns)
        seconds = max(float(track.get("offset", 0)) + float(track["cut"]["duration"]) for track in tracks)
        return Item(text(cut["id"]), json.dumps(cut, default=str), seconds=seconds, columns=columns)
    except InputError as error:
        raise InputError(f"{where} cannot be used: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where} is no cut of Lhotse with a recording ({type(error).__name__}: {error})") from error


def _runs_a_command(value: Any) -> bool:
    """Whether Lhotse would run a command for a cut, or for what it is mixed or reverberated with."""
    if isinstance(value, dict):
        return value.get("type") == "command" or any(map(_runs_a_command, value.values()))
    return isinstance(value, list) and any(map(_runs_a_command, value))


def _segment(cut: dict[str, Any], source: dict[str, Any], columns: dict[str, Any]) -> Item:
    start, duration = float(cut["start"]), float(cut["duration"])
    if not (start >= 0 and 0 < duration < math.inf) or "\0" in source["source"]:
        raise InputError(f"its start {start}, duration {duration} or path {source['source']!r} is impossible")
    whole = start == 0 and abs(duration - float(cut["recording"]["duration"])) < 1e-6
    return Item(
        id=text(cut["id"]),
        place=source["source"],
        seconds=duration,
        start=None if whole else start,
        end=None if whole else start + duration,
        stated=duration if whole else None,
        channel=source["channels"].index(cut["channel"]),
        columns=columns,
    )


def _columns(cut: dict[str, Any], tracks: list[dict[str, Any]]) -> dict[str, Any]:
    said = [spoken for track in tracks for spoken in track.get("supervisions") or ()]
    columns = {name: column(value) for name, value in (cut.get("custom") or {}).items() if _plain(value)}
    for name in ("text", "speaker", "language", "gender"):
        values = [spoken[name] for spoken in said if spoken.get(name) is not None]
        if values:
            columns[name] = text(" ".join(values if name == "text" else dict.fromkeys(values)))
    return columns


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _made_by_lhotse(item: Item) -> tuple[Tensor, int]:
    """wav [C, T] of a cut, and its rate."""
    try:
        from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
        from lhotse.cut.set import deserialize_cut
    except ImportError as error:
        raise MissingDependencyError(f"{item.id} needs lhotse: pip install 'audiotok[lhotse]'") from error
    failed = (AudioLoadingError, DurationMismatchError, AssertionError, OSError, RuntimeError, ValueError)
    try:
        cut = deserialize_cut(json.loads(item.place))
        samples = cut.load_audio()
    except failed as error:
        raise AudioFileError(f"Lhotse cannot make {item.id}: {error}") from error
    if samples is None:
        raise AudioFileError(f"{item.id} has no recording")
    return torch.from_numpy(samples).float(), int(cut.sampling_rate)
