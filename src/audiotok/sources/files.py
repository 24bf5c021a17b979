"""Audio files: a folder with all its subfolders, one file, or a list of both."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import audio
from .base import Item, Source, digest, text


class FileSource(Source):
    """Audio files. Ids are paths, below the folder where there is one folder, below what all have in common otherwise.

    Args:
        paths: of a folder, or of folders and files.

    Raises:
        AudioFileError: a path that does not exist. InputError: a folder with no audio in it.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = [Path(path) for path in paths]
        files = audio.find_audio(self.paths)
        resolved = [file.absolute() for file in files]
        one_folder = len(self.paths) == 1 and self.paths[0].is_dir()
        common = self.paths[0].absolute() if one_folder else Path(os.path.commonpath([f.parent for f in resolved]))
        self.root = common
        self.label = str(self.paths[0]) if len(self.paths) == 1 else f"{len(self.paths)} paths in {common}"
        counts = Counter(resolved)
        self._places = [os.fsdecode(file.relative_to(common)) for file in counts]  # a file given twice is one

    def items(self) -> Iterator[Item]:
        for place in self._places:
            yield Item(id=text(place), place=place)

    def identity(self) -> str:
        return digest(sorted(self._places))  # without sizes: a file that was mended is read again, not a new source

    def open(self, place: str) -> Path:
        return self.root / place
