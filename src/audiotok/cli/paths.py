"""Which file goes where: files, folders and `-` in, a file, a folder tree or `-` out."""

import io
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, InputError

STDIN = STDOUT = "-"


@dataclass(frozen=True)
class Item:
    """One thing to do. source "-" is standard input, target "-" standard output; target "" is nowhere."""

    source: str
    target: str

    def __str__(self) -> str:
        return self.source

    @property
    def arrow(self) -> str:
        """Both, for people."""
        source = "standard input" if self.source == STDIN else self.source
        return f"{source} -> {'standard output' if self.target == STDOUT else self.target}"


def plan(
    inputs: Sequence[str], out: str | None, *, endings: Sequence[str], suffix: str, kind: str, without_out: str = STDOUT
) -> list[Item]:
    """What to read and where to write it.

    A file goes to OUT, or into it when OUT is a folder: when it exists as one, ends with a slash, or is for more
    than one file. The tree below one input folder is mirrored in OUT; with several inputs each folder keeps its
    own name in OUT. Two files that differ only in their ending keep it (a.wav.codes, a.mp3.codes). Without OUT the
    results lie beside the inputs.

    Args:
        inputs: files, folders, or "-" alone.
        out: as above; "-" for standard output.
        endings: of the files to look for in folders.
        suffix: of the results.
        kind: what is looked for, in messages.
        without_out: where standard input goes when `out` is None.

    Raises:
        InputError: something does not exist, a folder holds none of them, or two results have the same name.
    """
    if STDIN in inputs and len(inputs) > 1:
        raise InputError("- (standard input) cannot be mixed with files")
    found = [pair for text in inputs for pair in _find(text, endings, kind, len(inputs) > 1)]
    if out == STDOUT:
        if len(found) > 1:
            raise InputError(f"{len(found)} {kind} cannot all go to standard output: give -o a folder")
        return [Item(source, STDOUT) for source, _ in found]
    if out is None:
        if inputs[0] == STDIN:
            return [Item(STDIN, without_out)]
        places = [Path(source) for source, _ in found]
    elif len(found) > 1 or out.endswith(("/", os.sep)) or Path(out).is_dir() or Path(inputs[0]).is_dir():
        places = [Path(out) / relative for _, relative in found]
    else:
        return [Item(found[0][0], out)]
    shared = Counter(place.with_suffix(suffix) for place in places)
    targets = [
        place.with_suffix(suffix) if shared[place.with_suffix(suffix)] == 1 else place.with_name(place.name + suffix)
        for place in places
    ]
    doubled = [str(target) for target, count in Counter(targets).items() if count > 1]
    if doubled:
        raise InputError(f"two of the {kind} would both be written to {doubled[0]}: give each only once")
    return [Item(source, str(target)) for (source, _), target in zip(found, targets, strict=True)]


def _find(text: str, endings: Sequence[str], kind: str, several: bool) -> Iterator[tuple[str, Path]]:
    """Files of an input, each with its place below an output folder."""
    path = Path(text)
    if text == STDIN:
        yield text, Path("stdin")
    elif path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in endings and p.is_file())
        if not inside:
            raise InputError(f"no {kind} in {path}: looked for {' '.join(endings)}")
        top = Path(path.resolve().name) if several else Path()
        yield from ((str(p), top / p.relative_to(path)) for p in inside)
    elif path.exists():
        yield text, Path(path.name)
    else:
        raise InputError(f"no such file or folder: {text}")


class _Standard(io.BytesIO):
    name = "standard input"


def read_stdin() -> io.BytesIO:
    """All bytes of standard input, seekable, with a name for messages.

    Raises:
        InputError: it is a terminal, or empty.
    """
    if sys.stdin.isatty():
        raise InputError("- reads standard input, but that is a terminal: pipe something into it")
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("standard input is empty: did the command before the pipe fail?")
    return _Standard(data)


@contextmanager
def file_of(source: str) -> Iterator[str]:
    """The path of a source: itself, or for standard input a temporary file with its bytes."""
    if source != STDIN:
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard input")
        path.write_bytes(read_stdin().getbuffer())
        yield str(path)


@contextmanager
def file_for(target: str, suffix: str) -> Iterator[Path]:
    """A path to write a target to: itself, in a folder that is made if need be, or for standard output a temporary
    file whose bytes are sent there when all went well."""
    if target != STDOUT:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        yield Path(target)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"standard output{suffix}")
        yield path
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def check_stdout(items: Sequence[Item], *, json: bool, kind: str) -> None:
    """Raises `InputError` where bytes would go to a terminal, or among JSON."""
    if all(item.target != STDOUT for item in items):
        return
    if json:
        raise InputError("--json and -o - would both write to standard output: give -o a file")
    if sys.stdout.isatty():
        raise InputError(f"{kind} are bytes, not for a terminal: give -o a file, or pipe them into something")


def check_replaceable(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Raises `InputError` when a file exists that is not one of ours."""
    if not path.exists():
        return
    try:
        ours = is_ours(path)
    except CheckpointError:
        ours = False
    if not ours:
        raise InputError(f"{path} exists and holds no {what}: it is not replaced, choose another name")
