"""Many real clips, cut from those of tests/data, some of them corrupt."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

import audiotok

Corpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, clips: list[Path]) -> Corpus:
    """corpus(count, corrupt=0, seconds=(low, high)) -> a folder with subfolders of clips a user may have."""

    def make(count: int, corrupt: int = 0, seconds: tuple[float, float] = (0.2, 1.0), name: str = "corpus") -> Path:
        folder, random = tmp_path / name, np.random.default_rng(0)
        sound = [audiotok.audio.load(path, channels=1) for path in clips]
        for i in range(count):
            wav, rate = sound[i % len(sound)]
            length = min(wav.shape[1], int(rate * random.uniform(*seconds)))
            first = int(random.integers(0, wav.shape[1] - length + 1))
            path = folder / f"speaker {i % 7}" / f"clip_{i:04d}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            audiotok.audio.save(path, wav[:, first : first + length], rate)
        for i in range(corrupt):
            CORRUPT[i % len(CORRUPT)](folder / f"bad_{i}.flac", clips[0])
        return folder

    return make


def _truncated(path: Path, clip: Path) -> None:
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])


def _not_a_number(path: Path, _: Path) -> None:
    import soundfile

    soundfile.write(path.with_suffix(".wav"), np.full(4000, np.nan, np.float32), 16000, subtype="FLOAT")


CORRUPT: list[Callable[[Path, Path], object]] = [
    _truncated,
    lambda path, _: path.write_bytes(b""),
    lambda path, _: path.write_bytes(b"no audio at all" * 100),
    _not_a_number,
    lambda path, _: audiotok.audio.save(path.with_suffix(".wav"), torch.zeros(1, 0), 16000),
]


def tokens_of(folder: Path) -> dict[str, bytes]:
    """id -> the bytes of its tokens, of everything in a folder; each id once."""
    table = pyarrow.parquet.read_table(folder / "data").to_pylist()
    found = {row["id"]: (row["shape"], np.asarray(row["tokens"], np.uint16).tobytes()) for row in table}
    assert len(found) == len(table)
    return {name: np.asarray(shape, np.int64).tobytes() + tokens for name, (shape, tokens) in found.items()}


def copied(folder: Path, name: str) -> Path:
    """A copy beside it."""
    return Path(shutil.copytree(folder, folder.with_name(name)))
