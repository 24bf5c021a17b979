"""Named tensors on disk: safetensors both ways, torch's own format for reading only."""

import json
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from audiotok.checkpoint.base import Source, fault, open_file, written
from audiotok.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.bool: "BOOL",
}


def read_safetensors(path: Source) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        path: the file.

    Returns:
        A dict from name to tensor, sorted by name.

    Raises:
        CheckpointError: the file is missing, cut short or not safetensors, or its header lies about sizes,
            places, shapes or kinds.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     write_safetensors(path, {"codebook": torch.zeros(2, 3)})
        ...     read_safetensors(path)["codebook"].shape
        torch.Size([2, 3])
    """
    _read_header(path)
    try:
        with safetensors.safe_open(Path(path), framework="pt", device="cpu") as file:
            # A copy: what safetensors gives is mapped from the file, and a program that later writes over that
            # file in place (as safetensors.torch.save_file does) would change the weights or end the process.
            return {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
    except (safetensors.SafetensorError, OSError, KeyError, AttributeError) as error:
        # KeyError, AttributeError: a kind of number that this torch does not have
        found = f"a file that is cut short or whose header lies ({type(error).__name__}: {error})"
        raise _not_safetensors(path, found) from error


def read_safetensors_metadata(path: Source) -> dict[str, str]:
    """The texts that were stored beside the tensors of a safetensors file; empty where there are none.

    Args:
        path: the file.

    Returns:
        A dict from text to text, sorted by key.

    Raises:
        CheckpointError: the file is missing, cut short or not safetensors.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     write_safetensors(path, {"codebook": torch.zeros(2, 3)}, {"format": "pt"})
        ...     read_safetensors_metadata(path)
        {'format': 'pt'}
    """
    metadata = _read_header(path).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _not_safetensors(path, "metadata that is not text")
    return dict(sorted(metadata.items()))


def _read_header(path: Source) -> dict[str, Any]:
    with open_file(path, wanted="a safetensors file") as handle:
        handle.seek(0, 2)
        size = handle.tell()
        handle.seek(0)
        prefix = handle.read(8)
        if len(prefix) < 8:
            raise _not_safetensors(path, f"only {size} bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(size - 8, MAX_HEADER_BYTES):
            found = f"a header said to be {length} bytes long in a file of {size}"
            raise _not_safetensors(path, found)
        header = handle.read(length)
    try:
        value = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(path, f"a header that is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _not_safetensors(path, f"a header that is a JSON {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("the same name twice")
    return value


def _not_safetensors(path: Source, found: str) -> CheckpointError:
    return fault(path, wanted="a whole safetensors file", found=found, advice="download or save it again")


def write_safetensors(path: Source, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, all of it or nothing.

    The same tensors and metadata always give the same bytes, on every machine and with every version of the
    safetensors package (which writes the metadata in random order): so a file's checksum says whether two
    tokenizers are the same.

    Args:
        path: the file; one that exists is replaced at once, never half.
        tensors: dense tensors by name, on any device. Each is written whole, also where two share memory.
        metadata: texts by key.

    Raises:
        CheckpointError: something is not a dense tensor of a kind of number that the format has, or a name or
            a piece of metadata is not a text.
        CheckpointWriteError: the file cannot be written, for example because the disk is full.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     write_safetensors(path, {"b": torch.ones(2), "a": torch.arange(3)})
        ...     list(read_safetensors(path))
        ['a', 'b']
    """
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise _not_writable(path, "metadata that is not text")
        header["__metadata__"] = dict(sorted(metadata.items()))
    for name, tensor in tensors.items():
        _check_writable(path, name, tensor)
    # The widest numbers first: every tensor then starts at a multiple of its own item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entry = {"dtype": _DTYPE_NAMES[tensors[name].dtype], "shape": list(tensors[name].shape)}
        header[name] = {**entry, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written(path) as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            _write_tensor(handle, tensors[name])


def _check_writable(path: Source, name: object, tensor: object) -> None:
    if not isinstance(name, str) or name == "__metadata__":
        raise _not_writable(path, f"the name {name!r}")
    if not isinstance(tensor, Tensor):
        raise _not_writable(path, f"a {type(tensor).__name__} named {name!r}")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _DTYPE_NAMES:
        found = f"a {tensor.dtype} tensor ({tensor.layout}, on {tensor.device}) named {name!r}"
        raise _not_writable(path, found)


def _not_writable(path: Source, found: str) -> CheckpointError:
    advice = f"give named tensors of {', '.join(str(dtype) for dtype in _DTYPE_NAMES)}"
    return fault(path, wanted="dense tensors by name", found=found, advice=advice)


def _write_tensor(handle: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.numel():
        handle.write(flat.view(torch.uint8).numpy().data)


def read_torch(path: Source) -> object:
    """What a torch checkpoint (`.pt`, `.pth`, `.ckpt`, `.bin`) holds, on the CPU, without running its pickle.

    Zip archives and the older stream format are read with `torch.load(weights_only=True)`: tensors, numbers,
    texts and containers are built, anything else is refused before it is called. TorchScript archives,
    compressed zips (which torch never writes) and the tar format of 2016 are refused as well.

    Args:
        path: the file.

    Returns:
        What was saved: mostly a state dict, or a dict that holds one.

    Raises:
        CheckpointError: the file is missing, broken, not torch's, or asks for code.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.pt")
        ...     torch.save({"step": 3, "weight": torch.ones(2)}, path)
        ...     read_torch(path)
        {'step': 3, 'weight': tensor([1., 1.])}
    """
    with open_file(path, wanted="a torch checkpoint") as handle:
        _refuse_archives(path, handle)
        handle.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(handle, map_location="cpu", weights_only=True)
        except _TORCH_FAULTS as error:
            blocked = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
            if blocked:
                found = f"a request for {blocked[1]}, which was not followed"
                advice = "only tensors and plain data are read: ask for a safetensors file"
                raise fault(path, wanted="a torch checkpoint of tensors", found=found, advice=advice) from error
            found = f"something else ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
            advice = "download it again; a k-means saved by joblib is read with read_joblib"
            raise fault(path, wanted="a torch checkpoint", found=found, advice=advice) from error
    for tensor in _tensors_in(found):
        if tensor.layout == torch.strided and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            # A few bytes with a stride of 0 can claim to be terabytes, which the first copy would make.
            what = f"a tensor {list(tensor.shape)} of {tensor.untyped_storage().nbytes()} bytes"
            raise fault(
                path, wanted="tensors that are as large as they say", found=what, advice="do not trust this file"
            )
    return found


def _tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples, without recursion: a file may nest deeply."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, dict) else one)


# Everything that torch's own unpickler and zip reader were seen to raise on a damaged file: they check types
# and bounds only by running into them.
_TORCH_FAULTS = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


def _is_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")  # checks the header's checksum
    except (tarfile.TarError, ValueError):
        return False
    return True


def _refuse_archives(path: Source, handle: BinaryIO) -> None:
    """Refuse what torch would unpack without bounds (deflated zips) or run (tar, before torch 2.6)."""
    start = handle.read(512)
    if _is_tar(start):
        advice = "it is older than torch 0.1.10: load it with its own code and save it as safetensors"
        raise fault(path, wanted="a torch checkpoint", found="a tar archive", advice=advice)
    if not start.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        found = f"a broken zip archive ({error})"
        raise fault(path, wanted="a torch checkpoint", found=found, advice="download it again") from error
    size = handle.seek(0, 2)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or size < sum(
        member.file_size for member in members
    ):
        found = "a compressed zip archive, or one that says it holds more than it does"
        raise fault(path, wanted="a torch checkpoint", found=found, advice="do not use this file")
