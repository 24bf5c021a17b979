"""What a fit has done so far, in a folder: a fit that was killed goes on from it."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_json, read_safetensors, read_safetensors_metadata, write_json, write_safetensors
from ..errors import InputError

FOLDER = ".fit"
_FACTS, _READING = "facts.json", "reading.safetensors"


class Checkpoint:
    """Files written whole or not at all: what was read, and every codebook that is finished.

    Args:
        folder: made if need be; what is there is taken up if it was begun with the same facts.
        facts: everything that the result depends on, plain JSON values.

    Raises:
        InputError: it was begun with other facts.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        begun = folder / _FACTS
        if begun.is_file():
            _check_same(folder, read_json(begun), json.loads(json.dumps(facts)))
            return
        shutil.rmtree(folder, ignore_errors=True)  # a removal that was cut short
        folder.mkdir(parents=True)
        write_json(begun, facts)

    def save_reading(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replaces what was read: tensors, and plain values beside them."""
        write_safetensors(self.folder / _READING, tensors, {"facts": json.dumps(facts)})

    def load_reading(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_reading` wrote last; None where it never did."""
        path = self.folder / _READING
        if not path.is_file():
            return None
        return read_safetensors(path), json.loads(read_safetensors_metadata(path)["facts"])

    def table(self, name: str, fit: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """The codebook of that name, fitted now unless it was before, and the seconds that fitting took."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return read_safetensors(path)["table"], float(read_safetensors_metadata(path)["seconds"])
        began = time.perf_counter()
        found = fit()
        seconds = time.perf_counter() - began
        write_safetensors(path, {"table": found}, {"seconds": repr(seconds)})
        return found, seconds

    def remove(self) -> None:
        """Deletes the folder, the facts last: cut short, it leaves a checkpoint of less."""
        for path in self.folder.iterdir():
            if path.name != _FACTS:
                path.unlink()
        shutil.rmtree(self.folder)


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            hint = f"{found.get(name)} there, {wanted.get(name)} now"
            if name in ("source", "held_out"):
                hint = "files were added, removed or changed, or it is another one"
            raise InputError(
                f"{folder} was begun with other {name.replace('_', ' ')}: {hint}. Give the same, name another folder, "
                f"or delete {folder}"
            )
