"""`open_source`: what a user names, as a `Source`."""

import os
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .base import Source
from .files import FileSource


def open_source(source: Any) -> Source:
    """The source that a user means.

    Args:
        source: a folder of audio or an audio file; a list of such paths; or a `Source`.

    Raises:
        InputError: nothing that can be read.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return FileSource([source])
    if isinstance(source, Sequence) and source:
        return FileSource(list(source))
    raise InputError(f"there is no audio in a {type(source).__name__}: give a folder or a list of files")
