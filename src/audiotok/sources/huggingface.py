"""Datasets of Hugging Face with an Audio column, whose files are decoded here and not by `datasets`."""

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import HubError, InputError, MissingDependencyError, hub_client_errors
from .base import Item, Source, column, digest, text
from .parquet import recording_of
from .rows import IDS

_ROWS_TOGETHER = 1000
_PLAIN = ("string", "large_string", "bool", "int", "uint", "float")


class HuggingFaceSource(Source):
    """A `datasets.Dataset`. Columns of text, numbers and class labels are carried along; id, key or utt_id names the
    items, else the row's number does, with zeros in front.

    Args:
        dataset: with an Audio column, decoded or not. One that lies on the disk is handed to worker processes by name,
            one in memory is copied to each unless they are forked.
        label: names it.
        column: of the audio; needed only where there are several.

    Raises:
        InputError: a dataset with several splits or a streaming one, or no Audio column.
    """

    def __init__(self, dataset: Any, label: str = "a Hugging Face dataset", column: str | None = None) -> None:
        datasets = _library()
        if isinstance(dataset, Mapping):
            raise InputError(f"{label} has several splits: choose one of {', '.join(map(str, dataset))}")
        if not isinstance(dataset, datasets.Dataset):
            raise InputError(
                f"{label} is a {type(dataset).__name__}, which has no rows to come back to: load it with "
                "streaming=False, or download its files and give those"
            )
        self.label = label
        name = _audio_column(dataset.features, label, column)
        self.column = name
        self.rows = dataset.select_columns(
            [key for key, kind in dataset.features.items() if _is_plain(kind)]
        ).with_format(None)
        audio = dataset.select_columns([name]).cast_column(name, datasets.Audio(decode=False))
        self.audio = audio.with_format(None)

    def items(self) -> Iterator[Item]:
        count = len(self.audio)
        width = len(str(count - 1))
        for start in range(0, count, _ROWS_TOGETHER):
            rows = self.rows[start : start + _ROWS_TOGETHER] if self.rows.column_names else {}
            for row in range(start, min(start + _ROWS_TOGETHER, count)):
                values = {key: column(cells[row - start]) for key, cells in rows.items()}
                name = next((name for name in IDS if values.get(name) not in (None, "")), None)
                own_id = f"{row:0{width}}" if name is None else str(values.pop(name))
                yield Item(text(own_id), str(row), columns={text(key): value for key, value in values.items()})

    def identity(self) -> str:
        """Of the rows and of their recordings' names and sizes: the fingerprint of `datasets` is another for the same
        rows whenever they come about another way."""
        return digest(chain(map(repr, self.items()), self._recordings()))

    def open(self, place: str) -> Path | BinaryIO:
        return recording_of(self.audio[int(place)][self.column], Path.cwd(), place)

    def _recordings(self) -> Iterator[str]:
        import pyarrow.compute as pc

        for table in self.audio.with_format("arrow").iter(_ROWS_TOGETHER):
            cells = table.column(self.column).combine_chunks()
            sizes = pc.binary_length(cells.field("bytes")).to_pylist()  # from Arrow's offsets: no byte is read
            for size, path in zip(sizes, cells.field("path").to_pylist(), strict=True):
                yield f"{os.path.basename(path or '')}\n{size}"  # noqa: PTH119 - of any system's path


def load_huggingface(name: str, column: str | None = None) -> HuggingFaceSource:
    """A split of a dataset on the Hub, or of any other that `datasets.load_dataset` knows.

    Args:
        name: "hf:user/repo:split" or "hf:user/repo:config:split", with @revision behind the repository if wanted.
        column: of the audio.

    Raises:
        InputError: no split is named, or there is none of that name. HubError: the dataset cannot be had.
    """
    datasets = _library()
    repository, *rest = name.removeprefix("hf:").split(":")
    repository, _, revision = repository.partition("@")
    if not repository or len(rest) > 2 or not all(rest):
        raise InputError(f'a dataset of the Hub is "hf:user/repo:split" or "hf:user/repo:config:split", not {name!r}')
    config = rest[0] if len(rest) == 2 else None
    try:
        if not rest:
            splits = datasets.get_dataset_split_names(repository, config, revision=revision or None)
            raise InputError(f"{name} has several splits: give {', '.join(f'{name}:{split}' for split in splits)}")
        found = datasets.load_dataset(repository, config, split=rest[-1], revision=revision or None)
    except InputError:
        raise
    except (ValueError, datasets.exceptions.DatasetsError, *hub_client_errors()) as error:
        raise (InputError if isinstance(error, ValueError) else HubError)(f"cannot load {name}: {error}") from error
    return HuggingFaceSource(found, name, column)


def load_saved(folder: str | os.PathLike[str], column: str | None = None) -> HuggingFaceSource:
    """A folder of `Dataset.save_to_disk`.

    Raises:
        InputError: it holds several splits, or is broken.
    """
    datasets = _library()
    try:
        found = datasets.load_from_disk(os.fspath(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {os.fspath(folder)}: {error}") from error
    return HuggingFaceSource(found, str(folder), column)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("a Hugging Face dataset needs datasets: pip install 'audiotok[hf]'") from error
    return datasets


def _audio_column(features: Mapping[str, Any], label: str, wanted: str | None) -> str:
    found = [name for name, kind in features.items() if type(kind).__name__ == "Audio" or _is_stored_audio(kind)]
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    problem = "several Audio columns" if len(found) > 1 else "no Audio column"
    asked = f" named {wanted!r}" if wanted is not None else ""
    way = "give column=" if found else "make one of a path's with dataset.cast_column(name, Audio())"
    raise InputError(f"{label} has {problem}{asked}, but {', '.join(found or features)}: {way}")


def _is_stored_audio(kind: Any) -> bool:
    """What an Audio column is in a Parquet file that does not say so."""
    return isinstance(kind, dict) and kind.keys() == {"bytes", "path"}


def _is_plain(kind: Any) -> bool:
    return type(kind).__name__ in ("Value", "ClassLabel") and kind.dtype.startswith(_PLAIN)
