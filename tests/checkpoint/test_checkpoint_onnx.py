import base64
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiotok.checkpoint import onnx, read_onnx, read_onnx_initializers
from audiotok.errors import CheckpointError
from tests.onnx_writer import attribute, field, graph, model, node, raw, tensor_proto, varint

from .conftest import Fuzz

# Written by the onnx package, 1.23: initializers with raw bytes and in the fields of their kind, three nodes.
WRITTEN_BY_ONNX = base64.b64decode(
    "CA46swMKVAoBeAoDcmF3EgF5GgsvY29udjEvQ29udiIEQ29udioUCghhdXRvX3BhZCIFVkFMSUSgAQMqDAoFZ3JvdXAYAaABAioQCgdzdHJpZGVz"
    "QAJAAaABBwpQCgF5CgZwYWNrZWQSAXoaAy9sbiISTGF5ZXJOb3JtYWxpemF0aW9uKhQKBGF4aXMY////////////AaABAioRCgdlcHNpbG9uFb03"
    "hjWgAQEKJxIBYyIIQ29uc3RhbnQqGAoFdmFsdWUqDAgBEAEiBAAAAD9CAKABBBIBZyooCAIIAxABIhgAAAAAAACAPgAAAD8AAEA/AACAPwAAoD9C"
    "BnBhY2tlZColCAIIAxABQgNyYXdKGAAAAAAAAIA+AAAAPwAAQD8AAIA/AACgPyodCAMQBzoR////////////AQCAgICAgCBCBGxvbmcqFggCEAYq"
    "C/n//////////wEHQgNpbnQqFBALQgZkb3VibGVSCJqZmZmZmbk/KhAIAhAKQgRoYWxmSgQAPgDAKg8IAhAJQgVmbGFnc0oCAQBaEQoBeBIMCgoI"
    "ARIGCgAKAggCYgkKAXoSBAoCCAFCAhAc"
)
QUARTERS = torch.arange(6).reshape(2, 3) / 4
TENSORS = {
    "weight": QUARTERS,
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([[1.5]], dtype=torch.bfloat16),
    "double": torch.tensor([1.0, math.pi], dtype=torch.float64),
    "long": torch.tensor([-1, 2**62]),
    "byte": torch.arange(5, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 3),
}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def test_what_the_onnx_package_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(WRITTEN_BY_ONNX)
    wanted = {
        "packed": QUARTERS,
        "raw": QUARTERS,
        "long": torch.tensor([-1, 0, 2**40]),
        "int": torch.tensor([-7, 7], dtype=torch.int32),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "flags": torch.tensor([True, False]),
    }
    assert_same(read_onnx_initializers(tmp_path / "model.onnx"), wanted)
    conv, norm, constant = read_onnx(tmp_path / "model.onnx").nodes
    assert (conv.op, conv.name, conv.inputs, conv.outputs) == ("Conv", "/conv1/Conv", ("x", "raw"), ("y",))
    assert conv.attributes == {"group": 1, "strides": (2, 1)}
    assert norm.inputs == ("y", "packed")
    assert norm.attributes == {"axis": -1, "epsilon": pytest.approx(1e-6, rel=1e-7)}
    assert (constant.name, constant.inputs, constant.outputs) == ("", (), ("c",))
    assert isinstance(constant.attributes["value"], Tensor)
    assert constant.attributes["value"].tolist() == [0.5]


def test_every_kind_of_number_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([], [tensor_proto(name, tensor) for name, tensor in TENSORS.items()]))
    found = read_onnx_initializers(path)
    assert_same(found, TENSORS)
    path.write_bytes(b"\0" * path.stat().st_size)  # the tensors are copies
    assert_same(found, TENSORS)


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (QUARTERS, field(4, raw(QUARTERS))),
        (QUARTERS, field(4, raw(QUARTERS)[:8]) + field(4, raw(QUARTERS)[8:])),
        (QUARTERS, b"".join(field(4, float(one)) for one in QUARTERS.flatten())),
        (torch.tensor([-1, 300]), field(7, varint(-1) + varint(300))),
        (torch.tensor([-1, 300]), field(7, -1) + field(7, 300)),
        (torch.tensor([-1, 300], dtype=torch.int32), field(5, varint(-1) + varint(300))),
        (torch.tensor([0.5], dtype=torch.float64), field(10, raw(torch.tensor([0.5], dtype=torch.float64)))),
    ],
)
def test_numbers_in_the_field_of_their_kind_are_read(tmp_path: Path, tensor: Tensor, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(model([], [tensor_proto("w", tensor, data=data)]))
    assert_same(read_onnx_initializers(tmp_path / "model.onnx"), {"w": tensor})


def test_dimensions_may_be_packed(tmp_path: Path) -> None:
    packed = field(1, varint(2) + varint(3)) + field(2, 1) + field(8, "w") + field(9, raw(QUARTERS))
    (tmp_path / "model.onnx").write_bytes(model([], [packed]))
    assert_same(read_onnx_initializers(tmp_path / "model.onnx"), {"w": QUARTERS})


def test_attributes_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    text = field(5, attribute("mode", b"linear"))
    inner = field(5, field(1, "then_branch") + field(6, graph([], [])) + field(20, 5))
    strings = field(5, field(1, "value") + field(5, field(2, 8) + field(6, "a text")))
    plain = node("If", "/If", ["x"], ["y"], axis=-1)
    (tmp_path / "model.onnx").write_bytes(model([plain + text + inner + strings], []))
    assert read_onnx(tmp_path / "model.onnx").nodes[0].attributes == {"axis": -1}


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files to refuse, and words of the message."""
    good = tensor_proto("w", QUARTERS)

    def with_tensor(*parts: bytes) -> bytes:
        return model([], [b"".join(parts)])

    huge = b"".join(field(1, 2**32) for _ in range(8))
    return {
        "nothing": (b"", "0 graphs"),
        "no graph": (field(1, 8), "0 graphs"),
        "two graphs": (model([], []) + field(7, b""), "2 graphs"),
        "graph is a number": (field(7, 3), "a number where a message should be"),
        "a zip": (b"PK\x03\x04" + bytes(60), "0 graphs|field|kind"),
        "longer than the file": (varint(7 << 3 | 2) + varint(2**40) + b"x", "field 7 from byte"),
        "field beyond its message": (field(7, varint(5 << 3 | 2) + varint(100)), "field 5 from byte"),
        "endless number": (field(7, b"\xff" * 20), "a number without an end"),
        "field 0": (field(7, b"\x00\x00"), "field 0"),
        "a group": (field(7, varint(1 << 3 | 3)), "a field of kind 3"),
        "twice": (model([], [good, good]), "two tensors named 'w'"),
        "short": (
            with_tensor(field(1, 6), field(2, 1), field(8, "w"), field(9, bytes(8))),
            "8 bytes for the 24 of 'w'",
        ),
        "long": (
            with_tensor(field(1, 6), field(2, 1), field(8, "w"), field(9, bytes(16))),
            "16 bytes for the 24 of 'w'",
        ),
        "no numbers": (with_tensor(field(1, 6), field(2, 1), field(8, "w")), "0 bytes for the 24 of 'w'"),
        "huge": (with_tensor(huge, field(2, 1), field(8, "w")), "'w' of shape"),
        "huge and empty": (with_tensor(huge, field(1, 0), field(2, 1), field(8, "w")), "'w' of shape"),
        "a terabyte": (
            with_tensor(field(1, 2**38), field(2, 1), field(8, "w"), field(9, b"")),
            "0 bytes for the 1099511627776",
        ),
        "negative": (with_tensor(field(1, -3), field(2, 1), field(8, "w")), "'w' of shape"),
        "many axes": (with_tensor(field(1, 1) * 17, field(2, 1), field(9, bytes(4))), "of shape"),
        "texts": (with_tensor(field(1, 1), field(2, 8), field(8, "w"), field(6, "a")), "kind of number"),
        "stored twice": (with_tensor(good, field(4, raw(QUARTERS))), "the numbers of 'w' twice"),
        "wrong field": (with_tensor(field(1, 1), field(2, 1), field(8, "w"), field(7, 5)), "numbers of 'w' in field 7"),
        "too wide": (
            with_tensor(field(1, 1), field(2, 6), field(8, "w"), field(5, 2**40)),
            "4 bytes for the 4 of 'w'.* or other numbers",
        ),
        "elsewhere": (with_tensor(good, field(14, 1)), "'w' in another file"),
        "name not text": (with_tensor(good, field(8, b"\xff\xfe")), "a name that is not text"),
    }


@pytest.mark.parametrize("what", hostile())
def test_what_lies_is_refused(tmp_path: Path, what: str) -> None:
    data, words = hostile()[what]
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"model\.onnx: wanted an ONNX file, found .*({words})"):
        read_onnx(tmp_path / "model.onnx")


def test_a_file_cannot_become_more_objects_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(model([node("Add", "", ["x"] * 100, ["y"])], []))
    assert len(read_onnx(tmp_path / "model.onnx").nodes[0].inputs) == 100
    monkeypatch.setattr(onnx, "MAX_FIELDS", 100)
    with pytest.raises(CheckpointError, match="more than 100 fields"):
        read_onnx(tmp_path / "model.onnx")


def test_numbers_stored_one_by_one_count_towards_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = field(7, b"\0" * 1000)
    (tmp_path / "model.onnx").write_bytes(
        model([], [tensor_proto("w", torch.zeros(1000, dtype=torch.int64), data=data)])
    )
    assert read_onnx_initializers(tmp_path / "model.onnx")["w"].shape == (1000,)
    monkeypatch.setattr(onnx, "MAX_FIELDS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 fields"):
        read_onnx(tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_onnx(tmp_path / "model.onnx")


def test_damaged_files_give_a_value_or_a_refusal(fuzz: Fuzz) -> None:
    nodes = [node("Conv", "/conv", ["x", "weight"], ["y"], strides=[2], epsilon=0.5, value=QUARTERS)]
    fuzz(read_onnx, model(nodes, [tensor_proto(name, tensor) for name, tensor in TENSORS.items()]))
    fuzz(read_onnx, WRITTEN_BY_ONNX, strict=False)
