"""`open_source`: what a user names, as a `Source`."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .. import audio
from ..errors import AudioFileError, InputError
from .base import Source
from .cuts import CUT_TYPES, CutSource
from .files import FileSource
from .huggingface import HuggingFaceSource, load_huggingface, load_saved
from .kaldi import KaldiSource
from .manifests import JSON_LINES, ManifestSource, manifest_ending, objects_of
from .parquet import ParquetSource
from .rows import RowSource
from .tars import TarSource

_UNDERSTOOD = (
    "a folder of audio, an audio file, a manifest (.jsonl, .csv, .tsv), a Kaldi folder, Lhotse cuts (.jsonl.gz), tars, "
    'Parquet files, a Hugging Face dataset ("hf:user/repo:split"), or a list of files or of dicts with a path'
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(source: Any, *, column: str | None = None) -> Source:
    """The source that a user means: docs/sources.md shows each kind.

    Args:
        source: a folder of audio, of tars, of Parquet, in the style of Kaldi or of `Dataset.save_to_disk`; an audio
            file, a manifest, a tar or a Parquet file, or several numbered ones as "shard-{000..012}.tar";
            "hf:user/repo:split"; a list of paths, or of dicts with a path; a `datasets.Dataset`, a
            `lhotse.CutSet`; or a `Source`.
        column: of the audio in Parquet and Hugging Face datasets; needed where there are several.

    Raises:
        InputError: nothing that can be read. AudioFileError: it does not exist. MissingDependencyError: an optional
            package that it needs is not installed.

    Example:
        >>> rows = open_source([{"path": "talk.flac", "start": 1.5, "duration": 2, "speaker": "Ada"}])
        >>> next(rows.items()).id
        'talk.flac:1.5-3.5'
    """
    found = _opened(source, column)
    if column is not None and not isinstance(found, ParquetSource | HuggingFaceSource):
        raise InputError(f"column= is for Parquet and Hugging Face datasets, and {found.label} is neither")
    return found


def _opened(source: Any, column: str | None) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, str) and source.startswith("hf:"):
        return load_huggingface(source, column)
    if isinstance(source, str | os.PathLike):
        return _of_paths(_numbered(source), column)
    if _is_a(source, "datasets", "Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict"):
        return HuggingFaceSource(source, column=column)
    if _is_a(source, "lhotse", "CutSet"):
        return CutSource(source)
    if isinstance(source, Sequence) and source and not isinstance(source, bytes | bytearray):
        if isinstance(source[0], Mapping):
            return RowSource(source)
        if all(isinstance(path, str | os.PathLike) for path in source):
            return _of_paths([found for path in source for found in _numbered(path)], column)
    kind = "an empty list" if isinstance(source, list | tuple) and not source else f"a {type(source).__name__}"
    raise InputError(f"there is no audio in {kind}: give {_UNDERSTOOD}")


def _of_paths(paths: list[str | os.PathLike[str]], column: str | None) -> Source:
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _of_folder(Path(paths[0]), column)
    names = [Path(path).name.lower() for path in paths]
    for name in names:
        if name.endswith(_COMPRESSED_TARS):
            raise InputError(f"{name} is compressed, and audio is read from the middle of tars: unpack it to a .tar")
    if all(name.endswith(".tar") for name in names):
        return TarSource(paths)
    if all(name.endswith(".parquet") for name in names):
        return ParquetSource(paths, column)
    if len(paths) == 1:
        return _of_file(paths[0])
    for path, name in zip(paths, names, strict=True):
        if name.endswith((".tar", ".parquet")) or manifest_ending(path):
            raise InputError(f"{path} is not an audio file: give one manifest, only tars, or only Parquet files")
    return FileSource(paths)


def _of_file(path: str | os.PathLike[str]) -> Source:
    if not Path(path).exists():
        raise AudioFileError(f"no such file or folder: {path}")
    if ending := manifest_ending(path):
        if ending in JSON_LINES and any(row.get("type") in CUT_TYPES for _, row in islice(objects_of(Path(path)), 1)):
            return CutSource(path)
        return ManifestSource(path)
    if Path(path).suffix.lower() not in audio.EXTENSIONS:
        try:
            audio.info(path)
        except AudioFileError as error:
            raise InputError(f"{path} is nothing that is understood: give {_UNDERSTOOD}") from error
    return FileSource([path])


def _of_folder(folder: Path, column: str | None) -> Source:
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths: there may be millions
    if "wav.scp" in names:
        return KaldiSource(folder)
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        return load_saved(folder, column)
    tars = [folder / name for name in names if name.lower().endswith(".tar")]
    tables = [folder / name for name in names if name.lower().endswith(".parquet")]
    recordings = [name for name in names if name.lower().endswith(audio.EXTENSIONS)]
    if sum(map(bool, (tars, tables, recordings))) > 1:
        raise InputError(f"{folder} holds more than one of audio files, tars and Parquet: name the files that you mean")
    if tars:
        return TarSource(tars)
    return ParquetSource(tables, column) if tables else FileSource([folder])


def _numbered(path: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
    """ "a-{08..10}.tar" as its three paths, unless a file has that name itself."""
    found = _RANGE.search(os.fspath(path))
    if not found or Path(path).exists():
        return [path]
    first, last = found.groups()
    if int(last) < int(first) or int(last) - int(first) >= 1_000_000:
        raise InputError(f"{path}: {found[0]} must go from a number to a greater one")
    before, after = os.fspath(path)[: found.start()], os.fspath(path)[found.end() :]
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    return [one for number in numbers for one in _numbered(f"{before}{number}{after}")]


def _is_a(value: Any, module: str, *classes: str) -> bool:
    """Whether a value is of a package that is imported only where it is used: its user has imported it."""
    library = sys.modules.get(module)
    return library is not None and isinstance(value, tuple(getattr(library, name, ()) for name in classes))
