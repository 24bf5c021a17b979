"""Cluster centres from whichever kind of file a k-means was saved in."""

import io
import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiotok.checkpoint.base import GIB, Source, fault, open_file, read_bytes
from audiotok.checkpoint.joblib import read_joblib
from audiotok.checkpoint.stand_ins import Record
from audiotok.checkpoint.tensors import read_safetensors, read_torch
from audiotok.errors import CheckpointError

NAMES = ("cluster_centers", "cluster_centers_", "centroids")

_WANTED = "cluster centres [V, D]"
_TORCH_STREAM = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the magic number, pickled, of torch before 1.6


def read_centroids(path: Source) -> Tensor:
    """The cluster centres of a k-means.

    The file's first bytes, not its name, say what it is: SpeechBrain's `.pt` files are joblib's.

    Args:
        path: `.npy`; or `.npz`, `.safetensors` or a torch checkpoint that holds a single 2-D tensor or one
            named `cluster_centers`, `cluster_centers_` or `centroids`; or a k-means or an array that was
            saved by joblib or pickle.

    Returns:
        The centres [V, D], float32, on the CPU.

    Raises:
        CheckpointError: the file cannot be read, holds no such tensor, or the centres are not finite.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "centres.npy")
        ...     np.save(path, np.ones((4, 2)))
        ...     centres = read_centroids(path)
        >>> centres.shape, centres.dtype
        (torch.Size([4, 2]), torch.float32)
    """
    value = _pick(path, _read(path))
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value = torch.from_numpy(value.astype(np.float64))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        found = f"a {getattr(value, 'dtype', type(value).__name__)} object"
        raise fault(path, wanted=_WANTED, found=found, advice="save the centres as float32")
    if value.ndim != 2 or not value.numel():
        found = f"a tensor of shape {list(value.shape)}"
        raise fault(path, wanted=_WANTED, found=found, advice="save one row per cluster")
    centres = value.detach().to(torch.float32).contiguous().clone()
    if not bool(torch.isfinite(centres).all()):
        found = "NaN or infinite numbers"
        raise fault(path, wanted=_WANTED, found=found, advice="fit the k-means again on finite features")
    return centres


def _read(path: Source) -> Any:
    with open_file(path, wanted=_WANTED) as handle:
        start = handle.read(32)
    if start.startswith(b"\x93NUMPY"):
        return _read_numpy(path)
    if start.startswith(b"PK"):
        return _read_numpy(path) if _is_npz(path) else read_torch(path)
    if start.startswith(_TORCH_STREAM):
        return read_torch(path)
    if start[8:9] == b"{":
        return read_safetensors(path)
    return read_joblib(path)


def _is_npz(path: Source) -> bool:
    with open_file(path, wanted=_WANTED) as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            found = f"a broken zip archive ({error})"
            raise fault(path, wanted=_WANTED, found=found, advice="download it again") from error
    if sum(member.file_size for member in members) > GIB:
        found = f"an archive of more than {GIB} bytes"
        raise fault(path, wanted=_WANTED, found=found, advice="make sure it is the right file")
    return bool(members) and all(member.filename.endswith(".npy") for member in members)


def _read_numpy(path: Source) -> Any:
    data = io.BytesIO(read_bytes(path, wanted=_WANTED, max_bytes=GIB))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = np.load(data, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except _NUMPY_FAULTS as error:
        found = f"a broken numpy file ({error})"
        raise fault(path, wanted=_WANTED, found=found, advice="save it again, without pickled objects") from error


# A damaged header is a fault of Python's own tokenizer too: numpy reads it as Python text.
_NUMPY_FAULTS = (
    ValueError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    LookupError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


def _pick(path: Source, value: Any) -> Any:
    if isinstance(value, Record):
        value = value.attributes
        if "cluster_centers_" not in value:
            found = f"an object with {', '.join(sorted(value)) or 'nothing'}"
            raise fault(path, wanted="a k-means with cluster_centers_", found=found, advice="fit it before saving it")
    if not isinstance(value, dict):
        return value
    for name in NAMES:
        if name in value:
            return value[name]
    tables = [item for item in value.values() if isinstance(item, Tensor | np.ndarray) and item.ndim == 2]
    if len(tables) == 1:
        return tables[0]
    raise _ambiguous(path, value, len(tables))


def _ambiguous(path: Source, value: dict[Any, Any], tables: int) -> CheckpointError:
    names = ", ".join(str(name) for name in list(value)[:8])
    advice = f"keep one, or name it {NAMES[0]}"
    return fault(path, wanted=_WANTED, found=f"{tables} tensors of two dimensions among {names}", advice=advice)
