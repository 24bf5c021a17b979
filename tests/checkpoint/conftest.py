"""Traps whose payload leaves a file behind, and damaged copies of good files."""

import builtins
import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Trap:
    """An object whose unpickling creates a file: proof that code of a checkpoint ran."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that every trap of the test would create; it must not be there at the end."""
    path = tmp_path / "the-payload-ran"
    yield path
    assert not path.exists(), "a payload ran"


@pytest.fixture
def trap(mark: Path) -> Trap:
    return Trap(mark)


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of `data` with a few bytes changed, each in another place."""
    source = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 8))):
            copy[source.randrange(len(copy))] = source.randrange(256)
        yield bytes(copy)


def shortened(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of `data` that are cut short: at random places, and at both ends' first ones."""
    lengths = {0, 1, 2, 8, 9, len(data) - 1, len(data) - 2}
    lengths |= {random.Random(seed).randrange(len(data)) for _ in range(count)}
    for length in sorted(length for length in lengths if 0 <= length < len(data)):
        yield data[:length]


Fuzz = Callable[..., None]


@pytest.fixture
def fuzz(tmp_path: Path) -> Fuzz:
    """Check a reader on damaged and shortened copies: a value or CheckpointError, nothing else."""
    from audiotok.errors import CheckpointError

    def check(reader: Callable[[Path], object], data: bytes, *, strict: bool = True, count: int = 150) -> None:
        path = tmp_path / "damaged"
        path.write_bytes(data)
        reader(path)
        for copy in shortened(data, count):
            path.write_bytes(copy)
            if strict:
                with pytest.raises(CheckpointError):
                    reader(path)
            else:
                _value_or_refusal(reader, path)
        for copy in damaged(data, 2 * count):
            path.write_bytes(copy)
            _value_or_refusal(reader, path)

    def _value_or_refusal(reader: Callable[[Path], object], path: Path) -> None:
        with contextlib.suppress(CheckpointError):
            reader(path)

    return check
