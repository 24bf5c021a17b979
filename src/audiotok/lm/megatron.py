"""Token sequences as Megatron-LM, NeMo and their kin read them: a pair of files, PREFIX.bin and PREFIX.idx.

The index, all little-endian: 9 bytes `MMIDIDX\\0\\0`; the version 1, uint64; a code of the integer type, uint8; how
many sequences, uint64; how many document boundaries, uint64; then three arrays: lengths of the sequences (int32), their
places in the .bin file in bytes (int64), and the document boundaries as numbers of sequences (int64), 0 first. Facts as
in Megatron-LM's `megatron/core/datasets/indexed_dataset.py`; written anew.
"""

import os
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..checkpoint.base import fault
from ..errors import InputError
from ..files import atomic_write
from .sequences import ExportReport, Ids, TokenFile, TokenSequence, checked

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_HEAD = struct.Struct("<9sQBQQ")
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats
_CHUNK = 1 << 20  # numbers of the index that are held at once


def write_megatron(
    sequences: Iterable[Ids | TokenSequence], prefix: str | os.PathLike[str], *, vocab_size: int
) -> ExportReport:
    """Writes PREFIX.bin and PREFIX.idx, each sequence a document of its own.

    Ids take 2 bytes for a vocabulary below 65,500 and 4 bytes from there on, as Megatron's own tools choose. Sequences
    are taken one by one: what is held in memory is 4 bytes for each. Both files appear whole, the index last: where
    it is, the data is too. Those that exist are replaced.

    Args:
        sequences: each [N] of whole numbers, N at least 1: tensors, arrays, lists, or `TokenSequence` (of which this
            format keeps the ids only).
        prefix: the path of both files without their endings.
        vocab_size: of the language model, text and special tokens included; every id must be below it.

    Raises:
        InputError: a sequence that cannot be written, or no sequence at all. OSError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_megatron([[1, 2, 3], [4]], f"{folder}/train", vocab_size=1000)
        ...     report.sequences, report.tokens, [ids.tolist() for ids in read_megatron(f"{folder}/train")]
        (2, 4, [[1, 2, 3], [4]])
    """
    if not 1 <= vocab_size <= 2**31:
        raise InputError(f"vocab_size must be from 1 to 2**31, not {vocab_size}: the format has ids of 4 bytes at most")
    code = 8 if vocab_size < 65500 else 4
    bin_path, idx_path = (Path(f"{os.fspath(prefix)}{ending}") for ending in (".bin", ".idx"))
    lengths = array("i")
    with atomic_write(idx_path) as index:
        with atomic_write(bin_path) as data:
            for one in checked(sequences, vocab_size):
                ids = np.asarray(one.ids)
                data.write(ids.astype(_TYPES[code]).data)
                lengths.append(len(ids))
            if not lengths:
                raise InputError("there are no sequences to write")
            # An old index must not be left beside new data, should this process end between the two renames.
            idx_path.unlink(missing_ok=True)
        _write_index(index, code, np.frombuffer(lengths, np.int32))
    return ExportReport(len(lengths), sum(lengths), (str(bin_path), str(idx_path)))


def _write_index(index: BinaryIO, code: int, lengths: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
    count, itemsize = len(lengths), np.dtype(_TYPES[code]).itemsize
    index.write(_HEAD.pack(_MAGIC, _VERSION, code, count, count + 1))
    index.write(lengths.astype("<i4").data)
    place = 0
    for start in range(0, count, _CHUNK):
        ends = place + itemsize * np.cumsum(lengths[start : start + _CHUNK], dtype=np.int64)
        index.write(np.concatenate(([place], ends[:-1])).astype("<i8").data)
        place = int(ends[-1])
    for start in range(0, count + 1, _CHUNK):
        index.write(np.arange(start, min(start + _CHUNK, count + 1), dtype="<i8").data)


def read_megatron(prefix: str | os.PathLike[str]) -> TokenFile:
    """The sequences of PREFIX.bin and PREFIX.idx, mapped from the files.

    Files of `write_megatron` or of Megatron's own tools are read, as long as they lie without gaps, as both write them.

    Raises:
        CheckpointError: a file is missing or broken, or the two contradict each other.
    """
    bin_path, idx_path = (f"{os.fspath(prefix)}{ending}" for ending in (".bin", ".idx"))
    wanted = "an index of Megatron's (MMIDIDX, version 1)"
    try:
        index, size = np.memmap(idx_path, np.uint8, "r"), Path(bin_path).stat().st_size
        data = np.memmap(bin_path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise fault(idx_path, wanted=wanted, found=f"an error: {error}", advice="check both files") from error
    magic, version, code, count, documents = (
        _HEAD.unpack(index[: _HEAD.size].tobytes()) if len(index) >= _HEAD.size else (b"", 0, 0, 0, 0)
    )
    if (magic, version) != (_MAGIC, _VERSION) or code not in _TYPES:
        found = f"a file that begins with {index[:18].tobytes()!r}"
        raise fault(idx_path, wanted=wanted, found=found, advice="give the prefix of a dataset of whole numbers")
    # An index of multimodal data goes on with a byte for each sequence.
    if len(index) not in (end := _HEAD.size + 12 * count + 8 * documents, end + count):
        found = f"{len(index)} bytes, where its {count} sequences take {end}"
        raise fault(idx_path, wanted=wanted, found=found, advice="write it again")
    lengths = np.frombuffer(index, "<i4", count, _HEAD.size)
    places = np.frombuffer(index, "<i8", count, _HEAD.size + 4 * count)
    itemsize = np.dtype(_TYPES[code]).itemsize
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    if (lengths < 0).any() or (places != itemsize * offsets[:-1]).any() or size != itemsize * offsets[-1]:
        found = f"sequences that are not what is in {bin_path} ({size} bytes)"
        raise fault(idx_path, wanted=wanted, found=found, advice="write both again")
    return TokenFile(data.view(_TYPES[code]), offsets)
