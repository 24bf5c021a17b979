"""What stands around the payload of compressed codes, and checks of it that hold against damaged and hostile files.

All numbers little-endian: 4 bytes `ATZ` and 0x1a; the version (1, uint8); the sizes in bytes of header, extras and
payload (uint32 each); these three; and the CRC-32 of everything before it. The header is JSON, deflated; the extras are
a safetensors file, or nothing; the payload is the stream of the range coder.
"""

import itertools
import json
import re
import struct
import zlib
from dataclasses import dataclass
from os import PathLike
from typing import get_args

from ..checkpoint.base import open_file
from ..errors import CheckpointError, InputError
from ..spec import Spec
from .coding import MAX_SIZE
from .payload import Coding

_MAGIC, _VERSION = b"ATZ\x1a", 1
_HEAD = struct.Struct("<4sBIII")
_MAX_HEADER = 16 * 1024**2  # a million rows
_MAX_VOCABULARY = 1 << 24  # sum of V: tables of more would be made from nothing

# Deflating looks here for what headers have in common, last for what most have; a part of the format, never to change.
_COMMON = (
    b'"coding": "codebook", "static", "batching": "bucket", "channels": 2, 4096, 4096, 2048, 2048, 500, 1000, '
    b'"decodable": false, "hop_length": 640, 512, 1920, "nested": false, "output_sample_rate": 24000, 44100, 48000, '
    b'"row_levels": [0, 1, 1, 2, 2, 2, 2], "segmented": true, "streamable": true}, '
    b'{"coding": "adaptive", "fingerprint": "", "frames": , "lengths": [], "num_samples": [], "spec": {"batching": '
    b'"mask", "channels": 1, "codebook_sizes": [1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024], "decodable": true, '
    b'"hop_length": 320, "name": "logmel-16khz", "nested": true, "sample_rate": 16000, "streamable": false}, '
    b'"table": ""}'
)


def joined(header: bytes, extras: bytes, payload: bytes) -> bytes:
    """The whole file."""
    if max(map(len, (header, extras, payload))) >= 2**32:
        raise InputError("codes of more than 4 GiB do not fit one file: write several")
    data = _HEAD.pack(_MAGIC, _VERSION, len(header), len(extras), len(payload)) + header + extras + payload
    return data + zlib.crc32(data).to_bytes(4, "little")


def is_compressed(path: str | PathLike[str]) -> bool:
    """Whether a file begins as compressed codes do. Raises `CheckpointError` when it cannot be read."""
    with open_file(path, wanted="compressed codes") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_whole(path: str | PathLike[str]) -> bytes:
    """A file's bytes; of a file of another kind, which may be of any size, only the first ones."""
    with open_file(path, wanted="compressed codes") as file:
        start = file.read(len(_MAGIC))
        return start + file.read() if start == _MAGIC else start


def split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, extras and payload. Raises `CheckpointError` if anything was changed since they were joined."""
    if not data.startswith(_MAGIC):
        raise CheckpointError(f"it begins with {data[:4]!r}, not {_MAGIC!r}")
    if len(data) < _HEAD.size + 4:
        raise CheckpointError(f"it is cut short: {len(data)} bytes")
    _, version, *sizes = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise CheckpointError(f"it has version {version}, wanted {_VERSION}: was it written by a newer audiotok?")
    if len(data) != _HEAD.size + sum(sizes) + 4:
        raise CheckpointError(f"it has {len(data)} bytes, where its parts take {_HEAD.size + sum(sizes) + 4}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise CheckpointError("its checksum is wrong: it was damaged, get it again")
    ends = itertools.accumulate([_HEAD.size, *sizes])
    header, extras, payload = (data[start:end] for start, end in itertools.pairwise(ends))
    if len(payload) % 4:
        raise CheckpointError(f"its payload has {len(payload)} bytes, which are not whole words")
    return header, extras, payload


def check_sizes(codebook_sizes: tuple[int, ...]) -> None:
    """Raises `InputError` for codebooks of more entries than are coded."""
    if max(codebook_sizes) > MAX_SIZE or sum(codebook_sizes) > _MAX_VOCABULARY:
        raise InputError(
            f"codebooks may have {MAX_SIZE} entries to be compressed and {_MAX_VOCABULARY} together, not "
            f"{max(codebook_sizes)} and {sum(codebook_sizes)}"
        )


@dataclass(frozen=True)
class Header:
    """All but tokens and extras; `table` is the checksum of the table used, if one was."""

    spec: Spec
    fingerprint: str
    frames: int
    lengths: list[int]
    num_samples: list[int]
    coding: Coding
    table: str = ""

    def pack(self) -> bytes:
        """As bytes. Raises `InputError` for too many rows."""
        text = json.dumps({**vars(self), "spec": self.spec.to_dict()}, sort_keys=True).encode()
        if len(text) > _MAX_HEADER:
            raise InputError(f"{len(self.lengths)} rows are too many for one file: write several")
        packer = zlib.compressobj(9, wbits=-15, zdict=_COMMON)
        return packer.compress(text) + packer.flush()

    @classmethod
    def unpack(cls, packed: bytes) -> "Header":
        """The inverse. Raises `CheckpointError` when something is missing or cannot be."""
        unpacker = zlib.decompressobj(wbits=-15, zdict=_COMMON)
        try:
            text = unpacker.decompress(packed, _MAX_HEADER)
            if not unpacker.eof or unpacker.unused_data:
                raise ValueError(f"it is cut short, or longer than {_MAX_HEADER} bytes")
            values = json.loads(text)
            header = cls(**{**values, "spec": Spec.from_dict(values["spec"])})
            header._check()
        except (zlib.error, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"its header cannot be: {error!r}") from error
        return header

    def _check(self) -> None:
        check_sizes(self.spec.codebook_sizes)
        if not (isinstance(self.fingerprint, str) and _is_number(self.frames, 2**40)):
            raise ValueError("its fingerprint or number of frames is of the wrong kind")
        if not (isinstance(self.table, str) and re.fullmatch("([0-9a-f]{16})?", self.table)):
            raise ValueError("its table is no checksum")
        for name, values, most in (("lengths", self.lengths, self.frames), ("samples", self.num_samples, 2**62)):
            if not isinstance(values, list) or not all(_is_number(value, most) for value in values):
                raise ValueError(f"{name} that are not numbers from 0 to {most}")
        if len(self.lengths) != len(self.num_samples):
            raise ValueError(f"{len(self.lengths)} lengths, but {len(self.num_samples)} numbers of samples")
        if self.coding not in get_args(Coding) or (self.coding == "static" and not self.table):
            raise ValueError(f"the coding {self.coding!r} and the table {self.table!r}")


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
