"""ONNX files for tests, byte by byte: just enough of protobuf's wire format and of onnx.proto."""

import struct

import torch
from torch import Tensor

KINDS = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A varint, 4 bytes, or a length and bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def tensor_proto(name: str, tensor: Tensor, *extra: bytes, data: bytes | None = None) -> bytes:
    """A TensorProto with raw data, or with other fields that hold its numbers."""
    dims = b"".join(field(1, size) for size in tensor.shape)
    numbers = field(9, raw(tensor)) if data is None else data
    return dims + field(2, KINDS[tensor.dtype]) + field(8, name) + numbers + b"".join(extra)


def attribute(name: str, value: int | float | list[int] | Tensor | bytes) -> bytes:
    if isinstance(value, list):
        return field(1, name) + b"".join(field(8, one) for one in value) + field(20, 7)
    if isinstance(value, Tensor):
        return field(1, name) + field(5, tensor_proto("", value)) + field(20, 4)
    if isinstance(value, bytes):
        return field(1, name) + field(4, value) + field(20, 3)
    return field(1, name) + (field(2, value) + field(20, 1) if isinstance(value, float) else field(3, value))


def node(
    op: str, name: str, inputs: list[str], outputs: list[str], **attributes: int | float | list[int] | Tensor
) -> bytes:
    parts = [field(1, one) for one in inputs] + [field(2, one) for one in outputs] + [field(3, name), field(4, op)]
    return b"".join(parts + [field(5, attribute(key, value)) for key, value in attributes.items()])


def graph(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    return b"".join([field(1, one) for one in nodes] + [field(2, "main_graph")] + [field(5, one) for one in tensors])


def model(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    """A ModelProto; the graph comes last, so that a file cut anywhere is broken."""
    return field(1, 8) + field(2, "pytorch") + field(8, field(2, 17)) + field(7, graph(nodes, tensors))
