"""joblib's files (and plain pickles) without joblib, scikit-learn or any code of the file."""

import io
import lzma
import re
import warnings
import zlib
from typing import Any

import numpy as np

from audiotok.checkpoint.base import CHUNK_BYTES, GIB, Source, decompressed, fault, read_bytes
from audiotok.checkpoint.pickles import Machine

_WANTED = "a joblib or pickle file"


def read_joblib(path: Source, *, max_bytes: int = GIB) -> Any:
    """What a file written by `joblib.dump` or `pickle.dump` holds, as plain data.

    Numbers, texts, lists, tuples, dicts, sets and numpy arrays come back as they are (arrays in this
    machine's byte order); an object of a scikit-learn class comes back as a `Record`, its class's name and
    attributes. Everything else ends the reading before anything is called. Files compressed by joblib with
    zlib, gzip, bz2, lzma or xz are read; lz4 is not.

    Args:
        path: the file.
        max_bytes: the most that the file may hold, also after decompression.

    Returns:
        The object.

    Raises:
        CheckpointError: the file is missing, broken, too large, in another format, or asks for code.

    Example:
        >>> import pathlib, pickle, tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "centres.pkl")
        ...     _ = path.write_bytes(pickle.dumps({"centres": np.zeros((2, 3), np.float32)}))
        ...     read_joblib(path)["centres"].shape
        (2, 3)
    """
    data = _decompress(path, read_bytes(path, wanted=_WANTED, max_bytes=max_bytes), max_bytes)
    stream = io.BytesIO(data)
    machine = Machine(stream, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools warns of odd escapes in old text pickles
        value = machine.run()
    if stream.read(1):
        raise machine.fault("more data behind its end")
    return value


def read_npy_object(path: Source, *, max_bytes: int = GIB) -> Any:
    """What `numpy.save` wrote of one Python object (`allow_pickle=True`), as plain data, like `read_joblib`.

    Raises:
        CheckpointError: the file is missing, broken, too large, in another format, or asks for code.
    """
    wanted = "a numpy file of one object"
    data = read_bytes(path, wanted=wanted, max_bytes=max_bytes)
    header = _NPY_OBJECT.match(data)
    if header is None:
        raise fault(path, wanted=wanted, found="something else", advice="make sure it is the right file")
    stream = io.BytesIO(data[header.end() :])
    array = Machine(stream, path).run()
    if stream.read(1) or not isinstance(array, np.ndarray) or array.shape != ():
        raise fault(path, wanted=wanted, found="more or less than one object", advice="download it again")
    return array.item()


# Magic, version 1, two bytes of length, and the header of a scalar of Python's object type.
_NPY_OBJECT = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|O', 'fortran_order': (?:True|False), 'shape': \(\), \} *\n", re.DOTALL
)


def _decompress(path: Source, data: bytes, max_bytes: int) -> bytes:
    for magic, name, advice in _REFUSED:
        if data.startswith(magic):
            raise fault(path, wanted=_WANTED, found=name, advice=advice)
    stream = _Zlib(data) if data[:1] == b"\x78" else decompressed(io.BytesIO(data), data)
    if stream is None:
        return data
    out = bytearray()
    try:
        while chunk := stream.read(CHUNK_BYTES):
            out += chunk
            if len(out) > max_bytes:
                found = f"one that decompresses to more than {max_bytes} bytes"
                raise fault(path, wanted=_WANTED, found=found, advice="do not use this file")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        found = f"a broken compressed stream ({error})"
        raise fault(path, wanted=_WANTED, found=found, advice="download the file again") from error
    return bytes(out)


class _Zlib:
    """zlib data as a file, as the gzip, bz2 and lzma modules have one for theirs."""

    def __init__(self, data: bytes) -> None:
        self._engine = zlib.decompressobj()
        self._rest = data

    def read(self, size: int = -1) -> bytes:
        if self._engine.eof:
            return b""
        chunk = self._engine.decompress(self._rest, max(size, 0))
        self._rest = self._engine.unconsumed_tail
        if not chunk and not self._engine.eof:
            raise EOFError("cut short")
        return chunk


_REFUSED = (
    (b"\x04\x22\x4d\x18", "lz4 compression", "save it again with compress=3, or without"),
    (b"ZF0x", "the format of joblib before 0.10", "load it with that joblib and save it again"),
    (b"PK", "a zip archive", "a torch checkpoint is read with read_torch"),
    (b"\x93NUMPY", "a numpy file", "read it with read_centroids"),
)
