"""Programs of the system that audio goes through."""

import shutil
import subprocess
from collections.abc import Sequence

from ..errors import AudiotokError, MissingDependencyError


class ProgramError(AudiotokError, RuntimeError):
    """A program that was started failed: the message says which, and ends with its own last words."""


class Program:
    """A program on PATH.

    Args:
        name: "opusenc".
        package: of Debian and Ubuntu, that holds it.

    Raises:
        MissingDependencyError: it is not there.
    """

    def __init__(self, name: str, package: str) -> None:
        path = shutil.which(name)
        if path is None:
            raise MissingDependencyError(f"this needs the program {name}: apt install {package} (Debian, Ubuntu)")
        self.name = name
        self._path = path

    def __call__(self, arguments: Sequence[str], data: bytes) -> bytes:
        """What it writes to its standard output, given data on its standard input.

        Raises:
            ProgramError: it cannot be started, or ends with another exit code than 0.
        """
        try:
            done = subprocess.run([self._path, *arguments], input=data, capture_output=True, check=False)
        except OSError as error:
            raise ProgramError(f"{self.name} cannot be started: {error}") from error
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise ProgramError(f"{self.name} ended with exit code {done.returncode}: {lines[-1].strip()}")
        return done.stdout
