"""A saved tokenizer, files that can and cannot be read, and a way to run commands in process."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiotok.cli import main


@dataclass(frozen=True)
class Result:
    """What a command ended with and printed."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """run("encode", path, stdin=b"...") -> Result"""

    def call(*argv: object, stdin: bytes | None = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = main([str(argument) for argument in argv])
        printed = capsysbinary.readouterr()
        return Result(int(code), printed.out, printed.err.decode())

    return call


@pytest.fixture(scope="session")
def model(small: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a saved tokenizer with three codebooks of 32."""
    folder = tmp_path_factory.mktemp("model") / "tok"
    small.save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip(clips: list[Path]) -> Path:
    """2.681 s of speech at 16 kHz."""
    return next(path for path in clips if path.stem == "speech_en_1")


@pytest.fixture
def tree(tmp_path: Path, clip: Path) -> Path:
    """A folder with two files that can be read, below it, and five that cannot."""
    folder = tmp_path / "tree"
    (folder / "a" / "b").mkdir(parents=True)
    shutil.copy(clip, folder / "a" / "one.flac")
    shutil.copy(clip, folder / "a" / "b" / "two.FLAC")
    (folder / "corrupt.wav").write_bytes(b"not audio at all")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "truncated.flac").write_bytes(clip.read_bytes()[:15000])
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.1], "float32"), 16000, subtype="FLOAT")
    soundfile.write(folder / "nothing.wav", np.zeros(0, "float32"), 16000)
    (folder / "notes.txt").write_text("not looked at")
    return folder
