"""Names of the catalog whose files lie on the Hub as their authors published them, and names that can only be
explained."""

import json
import os
import tempfile
from pathlib import Path

from ..catalog import Entry, Published
from ..checkpoint import extract
from ..errors import CheckpointError, UnsupportedError
from ..hub import download
from ..registry import resolve
from ..tokenizer import Tokenizer

_CONTENTS = ".contents"  # of an archive, in a folder beside it


def load_published_codec(
    entry: Entry, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """Downloads (once) the files of a name, and reads them.

    Args:
        entry: with `published`.
        revision: of its repository; a configuration that lies in another one is taken from its main branch.
        cache_dir: of Hub downloads; None is the Hub client's own. What an archive holds is kept beside the archive, so
            it belongs to that commit and goes when that is deleted from the cache.

    Raises:
        HubError: no such repository, revision or file, no network, or a download that broke off.
        CheckpointError: a file is broken, hostile or of another kind; or an archive cannot be unpacked in the cache.
    """
    published = entry.published
    if published is None:
        raise UnsupportedError(f"{entry.name} names no published files")
    paths = [download(published.repository, file, revision, cache_dir) for file in published.files]
    commit = paths[0].parents[published.files[0].count("/")]  # the folder of the snapshot
    root = _unpacked(paths[0]) if published.files[0].endswith(".zip") else commit
    tokenizer = _read(published, root / published.source, entry.name, revision, cache_dir)
    words = " " in entry.licence_weights  # and no identifier, which alone the Hub takes
    tokenizer.provenance |= {
        "license": "unknown" if words else entry.licence_weights.lower(),
        **({"licence_in_words": entry.licence_weights} if words else {}),
        "paper": entry.paper,
        "repository": f"{published.repository}@{commit.name}",
    }
    return tokenizer


def explain(entry: Entry, *_: object) -> Tokenizer:
    """For names that cannot be loaded: says why, and what to do.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(entry.advice)


def _read(
    published: Published, source: Path, name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Tokenizer:
    """The reader's tokenizer. A configuration that does not lie beside the weights is given to it as a file."""
    options = dict(published.options)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(published.config, str):
            repository, _, file = published.config.partition(":")
            if file:
                of_same = repository == published.repository
                options["config"] = download(repository, file, revision if of_same else None, cache_dir)
        else:
            options["config"] = Path(folder, "config.json")
            options["config"].write_text(json.dumps(published.config), "utf-8")
        tokenizer: Tokenizer = resolve(published.reader)(source, name=name, **options)
        return tokenizer


def _unpacked(archive: Path) -> Path:
    """The folder with what an archive holds, unpacked once."""
    folder = archive.with_name(archive.name + _CONTENTS)
    if not folder.exists():
        try:
            extract(archive, folder)
        except CheckpointError:
            if not folder.exists():  # else another process did it meanwhile, and whole
                raise
    return folder
