"""Token sequences as files for training language models: JSON lines and flat numpy arrays (`megatron` has a third)."""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..checkpoint.base import fault, open_file
from ..errors import InputError
from ..files import atomic_write
from .sequences import ExportReport, Ids, TokenFile, TokenSequence, checked

_TOKENS, _OFFSETS = "tokens.npy", "offsets.npy"


def write_jsonl(
    sequences: Iterable[Ids | TokenSequence], path: str | os.PathLike[str], *, vocab_size: int | None = None
) -> ExportReport:
    """Writes one line of JSON for each sequence: {"id": "a", "ids": [5, 6], "metadata": {...}}.

    "metadata" is there where there is some. Sequences are taken one by one; the file appears whole and replaces one
    that exists.

    Args:
        sequences: each [N] of whole numbers, N at least 1: tensors, arrays, lists, or `TokenSequence`.
        path: the file.
        vocab_size: if given, every id must be below it.

    Raises:
        InputError: a sequence that cannot be written, or none at all. OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_jsonl([TokenSequence([5, 6], "a"), [7]], f"{folder}/train.jsonl")
        ...     print(Path(folder, "train.jsonl").read_text(), end="")
        {"id": "a", "ids": [5, 6]}
        {"id": "", "ids": [7]}
    """
    count = total = 0
    with atomic_write(path) as file:
        for one in checked(sequences, vocab_size):
            ids = np.asarray(one.ids)
            line: dict[str, Any] = {"id": one.id, "ids": ids.tolist()}
            if one.metadata:
                line["metadata"] = dict(one.metadata)
            try:
                text = json.dumps(line, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise InputError(f"sequence {count} ({one.id}) has metadata that JSON cannot hold: {error}") from error
            file.write(text.encode() + b"\n")
            count, total = count + 1, total + len(ids)
        if not count:
            raise InputError("there are no sequences to write")
    return ExportReport(count, total, (os.fspath(path),))


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[TokenSequence]:
    """The sequences of a file of `write_jsonl`, one by one; ids are int64 arrays [N].

    Raises:
        CheckpointError: the file is missing, or a line holds something else: said when its turn comes.
    """
    wanted = 'a line {"id": "...", "ids": [...]}'
    with open_file(path, wanted="a file of token sequences") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                ids = np.array(line["ids"])
                if ids.ndim != 1 or ids.dtype != np.int64 or not isinstance(line.get("id", ""), str):
                    raise ValueError("its id is no text, or its ids are no row of whole numbers")
                metadata = line.get("metadata", {})
                if not isinstance(metadata, dict):
                    raise ValueError("its metadata is no object")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
                found = f"something else in line {number} ({type(error).__name__}: {error})"
                raise fault(path, wanted=wanted, found=found, advice="write the file again") from error
            yield TokenSequence(ids, line.get("id", ""), metadata)


def write_numpy(
    sequences: Iterable[Ids | TokenSequence], folder: str | os.PathLike[str], *, vocab_size: int
) -> ExportReport:
    """Writes a folder of two arrays: `tokens.npy`, all ids one after the other, and `offsets.npy`, where each begins.

    tokens is [total] of the smallest unsigned integers that hold the vocabulary (int64 beyond 2**32); offsets is
    [sequences + 1] int64: sequence i is `tokens[offsets[i]:offsets[i + 1]]`. Both can be mapped with
    `numpy.load(file, mmap_mode="r")`. Sequences are taken one by one and go to the disk at once. The folder appears
    whole.

    Args:
        sequences: each [N] of whole numbers, N at least 1: tensors, arrays, lists, or `TokenSequence` (of which this
            format keeps the ids only).
        folder: new; its parent must exist.
        vocab_size: of the language model; every id must be below it.

    Raises:
        InputError: the folder exists, a sequence cannot be written, or there is none. OSError: the disk refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_numpy([[1, 2, 3], [4]], f"{folder}/train", vocab_size=300)
        ...     file = read_numpy(f"{folder}/train")
        ...     file.tokens.dtype.name, file.offsets.tolist(), file[0].tolist()
        ('uint16', [0, 3, 4], [1, 2, 3])
    """
    if vocab_size < 1:
        raise InputError(f"vocab_size must be at least 1, not {vocab_size}")
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder")
    kind = next((kind for kind in ("|u1", "<u2", "<u4") if vocab_size - 1 <= np.iinfo(kind).max), "<i8")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        with atomic_write(temporary / _TOKENS) as tokens, atomic_write(temporary / _OFFSETS) as offsets:
            count, total = _write_arrays(checked(sequences, vocab_size), tokens, offsets, kind)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportReport(count, total, (str(folder / _TOKENS), str(folder / _OFFSETS)))


def _write_arrays(
    sequences: Iterable[TokenSequence], tokens: BinaryIO, offsets: BinaryIO, kind: str
) -> tuple[int, int]:
    """Both arrays, behind headers that are written again when their lengths are known."""
    count = total = 0
    tokens.write(_header(kind, 0))
    offsets.write(_header("<i8", 1) + bytes(8))
    for one in sequences:
        ids = np.asarray(one.ids)
        tokens.write(ids.astype(kind).data)
        count, total = count + 1, total + len(ids)
        offsets.write(total.to_bytes(8, "little"))
    if not count:
        raise InputError("there are no sequences to write")
    for file, header in ((tokens, _header(kind, total)), (offsets, _header("<i8", count + 1))):
        file.seek(0)
        file.write(header)
    return count, total


def _header(kind: str, length: int) -> bytes:
    """The 128 bytes before the numbers of a one-dimensional .npy file (format 1.0)."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({length},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


def read_numpy(folder: str | os.PathLike[str]) -> TokenFile:
    """The sequences of a folder of `write_numpy`, mapped from its files.

    Raises:
        CheckpointError: a file is missing or broken, or the two contradict each other.
    """
    wanted = f"a folder with {_TOKENS} and {_OFFSETS}"
    try:
        tokens, offsets = (
            np.load(Path(folder, name), mmap_mode="r", allow_pickle=False) for name in (_TOKENS, _OFFSETS)
        )
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise fault(folder, wanted=wanted, found=f"an error: {error}", advice="write it again") from error
    fits = tokens.ndim == offsets.ndim == 1 and offsets.dtype == np.int64 and tokens.dtype.kind in "iu"
    if not fits or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        found = f"arrays {list(tokens.shape)} {tokens.dtype} and {list(offsets.shape)} {offsets.dtype} that do not fit"
        raise fault(folder, wanted=wanted, found=found, advice="write it again")
    return TokenFile(tokens, offsets)
