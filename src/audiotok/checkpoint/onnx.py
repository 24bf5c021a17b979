"""ONNX models as data: the graph's weights and its nodes, read without the onnx package and without running anything.

An ONNX file is one protobuf message (onnx.proto of github.com/onnx/onnx). A message is a row of fields; a field is its
number and its kind in one varint, then a varint, 4 or 8 bytes, or a length and so many bytes, which may be a message
again. Only the fields named below are looked at, everything else is stepped over; what lies beyond the file (external
data) is never followed.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import torch
from torch import Tensor

from audiotok.checkpoint.base import Source, fault, open_file
from audiotok.errors import CheckpointError

#: Fields that are looked at in one file; a transformer of 12 blocks has some 50,000. A field of two bytes becomes a
#: Python object of fifty: without a limit a hostile file could cost thirty times its size.
MAX_FIELDS = 2_000_000
MAX_DIMS = 16
MAX_NUMBERS = 2**40  # in one tensor

Attribute: TypeAlias = int | float | tuple[int, ...] | Tensor


@dataclass(frozen=True)
class OnnxNode:
    """One operation of a graph.

    Attributes:
        op: the operator ("MatMul").
        name: the exporter's name of the node ("/blocks.0/attn/query/MatMul"); may be empty.
        inputs, outputs: names of values; a weight is an input named like an initializer.
        attributes: whole numbers, floats, lists of whole numbers and tensors; other attributes are left out.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class OnnxGraph:
    """Weights by name, and nodes in the order of the file."""

    initializers: dict[str, Tensor]
    nodes: tuple[OnnxNode, ...]


def read_onnx(path: Source) -> OnnxGraph:
    """The main graph of an ONNX file, on the CPU.

    Args:
        path: the file. Its weights must lie in the file itself.

    Returns:
        Its initializers and nodes. Graphs inside nodes (branches, loops) are left out.

    Raises:
        CheckpointError: the file is missing, cut short, not ONNX, keeps its weights elsewhere, or lies about sizes.
    """
    with open_file(path, wanted=_WANTED) as handle:
        return _Reader(path, handle).model()


def read_onnx_initializers(path: Source) -> dict[str, Tensor]:
    """The weights of an ONNX file, by the exporter's names, sorted. Arguments and errors as `read_onnx`."""
    return dict(sorted(read_onnx(path).initializers.items()))


_WANTED = "an ONNX file"
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of fields
_EXTERNAL = 1  # TensorProto.data_location

# TensorProto.data_type to the kind of number; texts and types of less than a byte have none in torch.
_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
}
# Beside raw bytes (field 9) numbers may be stored in a field of their own kind.
_FIXED_FIELDS = {torch.float32: 4, torch.float64: 10}
_VARINT_FIELDS = {torch.int32: 5, torch.int64: 7}
_DATA_FIELDS = (4, 5, 6, 7, 9, 10, 11)


@dataclass(frozen=True)
class _Field:
    """A field: its value if it is a varint, else where its bytes lie."""

    number: int
    kind: int
    value: int
    start: int
    end: int


class _Reader:
    def __init__(self, path: Source, handle: BinaryIO) -> None:
        self.path = path
        self.handle = handle
        self.size = handle.seek(0, 2)
        self.fields_left = MAX_FIELDS

    # ---- messages --------------------------------------------------------------------------------

    def model(self) -> OnnxGraph:
        graphs = [field for field in self.fields(0, self.size) if field.number == 7]
        if len(graphs) != 1:
            raise self.refused(f"{len(graphs)} graphs, not one")
        return self.graph(self.message(graphs[0]))

    def graph(self, span: _Field) -> OnnxGraph:
        initializers: dict[str, Tensor] = {}
        nodes = []
        for field in self.fields(span.start, span.end):
            if field.number == 1:
                nodes.append(self.node(self.message(field)))
            elif field.number == 5:
                name, tensor = self.tensor(self.message(field))
                if tensor is None:
                    raise self.refused(f"{name!r} of a kind of number that torch does not have")
                if name in initializers:
                    raise self.refused(f"two tensors named {name!r}")
                initializers[name] = tensor
        return OnnxGraph(initializers, tuple(nodes))

    def node(self, span: _Field) -> OnnxNode:
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}  # inputs, outputs, name, operator
        attributes = {}
        for field in self.fields(span.start, span.end):
            if field.number in texts:
                texts[field.number].append(self.text(field))
            elif field.number == 5:
                name, value = self.attribute(self.message(field))
                if value is not None:
                    attributes[name] = value
        name, op = (values[-1] if values else "" for values in (texts[3], texts[4]))
        return OnnxNode(op, name, tuple(texts[1]), tuple(texts[2]), attributes)

    def attribute(self, span: _Field) -> tuple[str, Attribute | None]:
        name = ""
        value: Attribute | None = None
        whole: list[int] = []
        for field in self.fields(span.start, span.end):
            if field.number == 1:
                name = self.text(field)
            elif field.number == 2 and field.kind == _FOUR:
                value = float(struct.unpack("<f", self.content(field))[0])
            elif field.number == 3 and field.kind == _VARINT:
                value = _signed(field.value)
            elif field.number == 5:
                _, value = self.tensor(self.message(field))
            elif field.number == 8:
                whole.extend(self.varints(field))
        return name, tuple(whole) if whole else value

    def tensor(self, span: _Field) -> tuple[str, Tensor | None]:
        """Name and tensor; None for a kind of number that torch does not have."""
        name, code = "", 0
        dims: list[int] = []
        data: list[_Field] = []
        for field in self.fields(span.start, span.end):
            if field.number == 1:
                dims.extend(self.varints(field))
            elif field.number == 2:
                code = field.value
            elif field.number == 8:
                name = self.text(field)
            elif field.number in _DATA_FIELDS:
                data.append(field)
            elif field.number == 14 and field.value == _EXTERNAL:
                found = f"{name!r} in another file"
                raise fault(self.path, wanted=_WANTED, found=found, advice="save it with its weights inside")
        # The product also of an empty tensor's other sizes, which cost nothing here but too much where it is used.
        if len(dims) > MAX_DIMS or min(dims, default=0) < 0 or math.prod(max(dim, 1) for dim in dims) > MAX_NUMBERS:
            raise self.refused(f"{name!r} of shape {dims[:MAX_DIMS]}")
        return name, self.numbers(name, _DTYPES[code], dims, data) if code in _DTYPES else None

    def numbers(self, name: str, dtype: torch.dtype, dims: list[int], data: list[_Field]) -> Tensor:
        """The tensor of that kind and shape whose numbers lie in these fields."""
        sources = {field.number for field in data if field.kind != _BYTES or field.end > field.start}
        if len(sources) > 1:
            raise self.refused(f"the numbers of {name!r} twice")
        source = next(iter(sources), 9)
        length, wanted = sum(field.end - field.start for field in data), math.prod(dims) * dtype.itemsize
        if source == _VARINT_FIELDS.get(dtype):
            whole = torch.tensor([value for field in data for value in self.varints(field)], dtype=torch.int64)
            length = len(whole) * dtype.itemsize
            if length == wanted and torch.equal(whole.to(dtype).long(), whole):
                return whole.to(dtype).reshape(dims)
        elif source in (9, _FIXED_FIELDS.get(dtype)):
            if length == wanted:  # both are known before a byte is read: a file that lies costs no memory
                content = bytearray().join(self.content(field) for field in data)
                flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)
                return (flat != 0 if dtype == torch.bool else flat.view(dtype)).reshape(dims)
        else:
            raise self.refused(f"the {dtype} numbers of {name!r} in field {source}")
        raise self.refused(f"{length} bytes for the {wanted} of {name!r}, {dtype} of shape {dims}, or other numbers")

    # ---- fields ----------------------------------------------------------------------------------

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        while start < end:
            self.spend()
            key, start = self.varint(start, end)
            number, kind = key >> 3, key & 7
            value, stop = 0, start
            if kind == _VARINT:
                value, stop = self.varint(start, end)
            elif kind == _BYTES:
                length, start = self.varint(start, end)
                stop = start + length
            elif kind in (_EIGHT, _FOUR):
                stop = start + (8 if kind == _EIGHT else 4)
            else:
                raise self.refused(f"a field of kind {kind}")
            if stop > end or number == 0:
                raise self.refused(f"field {number} from byte {start} to {stop} of {end}")
            yield _Field(number, kind, value, start, stop)
            start = stop

    def message(self, field: _Field) -> _Field:
        if field.kind != _BYTES:
            raise self.refused(f"a number where a message should be, at byte {field.start}")
        return field

    def text(self, field: _Field) -> str:
        try:
            return self.content(self.message(field)).decode()
        except UnicodeDecodeError as error:
            raise self.refused(f"a name that is not text, at byte {field.start}") from error

    def varints(self, field: _Field) -> Iterator[int]:
        """Signed whole numbers: one of them, or several in a row."""
        if field.kind == _VARINT:
            yield _signed(field.value)
            return
        position = self.message(field).start
        while position < field.end:
            self.spend()
            value, position = self.varint(position, field.end)
            yield _signed(value)

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """The number at `start`, seven bits a byte, lowest first, and where it ends."""
        self.handle.seek(start)
        value = 0
        for i, byte in enumerate(self.handle.read(min(10, end - start))):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, start + i + 1
        raise self.refused(f"a number without an end, at byte {start}")

    def content(self, field: _Field) -> bytes:
        self.handle.seek(field.start)
        data = self.handle.read(field.end - field.start)
        if len(data) < field.end - field.start:
            raise self.refused(f"{len(data)} bytes where {field.end - field.start} were when it was opened")
        return data

    def spend(self) -> None:
        self.fields_left -= 1
        if self.fields_left < 0:
            raise self.refused(f"more than {MAX_FIELDS} fields")

    def refused(self, found: str) -> CheckpointError:
        return fault(self.path, wanted=_WANTED, found=found, advice="download it again")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
