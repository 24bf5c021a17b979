import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audiotok.checkpoint import (
    CheckpointWriteError,
    file_sha256,
    read_json,
    read_safetensors,
    read_safetensors_metadata,
    read_torch,
    write_json,
    write_safetensors,
)
from audiotok.errors import CheckpointError

TENSORS = {
    "b.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "a.brain": torch.tensor([[1.5]], dtype=torch.bfloat16),
    "c.flags": torch.tensor([True, False, True]),
    "c.bytes": torch.arange(5, dtype=torch.uint8),
    "d.long": torch.tensor(7, dtype=torch.int64),
    "e.empty": torch.zeros(0, 3),
    "f.double": torch.tensor([1.0, torch.pi], dtype=torch.float64),
}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert list(left) == sorted(right)
    for name, tensor in right.items():
        assert left[name].dtype == tensor.dtype
        assert left[name].shape == tensor.shape
        assert torch.equal(left[name], tensor)


def raw_safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


# safetensors


def test_safetensors_written_here_are_read_here_and_by_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {"b": "2", "a": "1"})
    assert_same(read_safetensors(path), TENSORS)
    assert_same(dict(sorted(safetensors.torch.load_file(path).items())), TENSORS)
    assert read_safetensors_metadata(path) == {"a": "1", "b": "2"}
    with safetensors.safe_open(path, "pt") as reference:
        assert reference.metadata() == {"a": "1", "b": "2"}


def test_safetensors_written_by_the_reference_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    assert_same(read_safetensors(path), TENSORS)
    assert read_safetensors_metadata(path) == {}


def test_tensors_once_read_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": torch.ones(100_000)})
    tensor = read_safetensors(path)["a"]
    with path.open("r+b") as file:  # in place, as other programs write
        file.write(b"\0" * 200_000)
        file.truncate(1000)
    assert torch.equal(tensor, torch.ones(100_000))


def test_the_same_tensors_give_the_same_bytes_in_any_order_and_process(tmp_path: Path) -> None:
    metadata = {f"key{index}": str(index) for index in range(20)}
    write_safetensors(tmp_path / "one", TENSORS, metadata)
    write_safetensors(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert file_sha256(tmp_path / "one") == ("e814d1a2a70968b39dfcfa146a7ce1e9580d9e80b454a81d4285ed9f1fb1c554")


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model", TENSORS, {"odd": "x"})
    data = (tmp_path / "model").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert (8 + length + entry["data_offsets"][0]) % TENSORS[name].element_size() == 0


def test_views_shared_memory_and_parameters_are_written_whole(tmp_path: Path) -> None:
    table = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    write_safetensors(tmp_path / "model", {"a": table, "b": table.t(), "c": table[:, 1]})
    tensors = read_safetensors(tmp_path / "model")
    assert torch.equal(tensors["b"], table.t())
    assert tensors["c"].tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"a": [1.0]}, None, "a list named 'a'"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, None, "complex64"),
        ({"a": torch.zeros(2).to_sparse()}, None, "sparse"),
        ({"a": torch.zeros(2, device="meta")}, None, "meta"),
        ({1: torch.zeros(2)}, None, "the name 1"),
        ({"__metadata__": torch.zeros(2)}, None, "the name '__metadata__'"),
        ({}, {"a": 1}, "metadata that is not text"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, tensors: Any, metadata: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        write_safetensors(tmp_path / "model", tensors, metadata)
    assert list(tmp_path.iterdir()) == []


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


EIGHT = b"\0" * 8
LYING_FILES = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "header beyond the file": raw_safetensors(entry(), EIGHT, length=10_000),
    "header of 2**63 bytes": raw_safetensors(entry(), EIGHT, length=2**63),
    "header of all bytes": raw_safetensors(entry(), EIGHT, length=2**64 - 1),
    "header not JSON": raw_safetensors(b"{not json}", EIGHT),
    "header not UTF-8": raw_safetensors(b'{"\xff": 1}', EIGHT),
    "header a list": raw_safetensors([1, 2], EIGHT),
    "header endless brackets": raw_safetensors(b"[" * 100_000, EIGHT),
    "header a number of 5000 digits": raw_safetensors(b"1" * 5000, EIGHT),
    "offsets out of range": raw_safetensors(entry(offsets=(0, 80)), EIGHT),
    "offsets backwards": raw_safetensors(entry(offsets=(8, 0)), EIGHT),
    "offsets negative": raw_safetensors(entry(offsets=(-8, 0)), EIGHT),
    "offsets missing": raw_safetensors({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "data too short": raw_safetensors(entry(), b"\0" * 7),
    "data too long": raw_safetensors(entry(), b"\0" * 9),
    "shape too large": raw_safetensors(entry(shape=(3,)), EIGHT),
    "shape overflows": raw_safetensors(entry(shape=(2**62, 2**62)), EIGHT),
    "shape negative": raw_safetensors(entry(shape=(-2,)), EIGHT),
    "dtype unknown": raw_safetensors(entry(dtype="F33"), EIGHT),
    "dtype wider": raw_safetensors(entry(dtype="F64"), EIGHT),
    "overlap": raw_safetensors({**entry(), "b": entry()["a"]}, EIGHT),
    "hole": raw_safetensors({**entry(), "b": entry(offsets=(16, 24))["a"]}, b"\0" * 24),
    "the same name twice": raw_safetensors(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
        EIGHT,
    ),
    "metadata not text": raw_safetensors({"__metadata__": {"a": 1}, **entry()}, EIGHT),
}


@pytest.mark.parametrize("name", LYING_FILES)
def test_a_lying_safetensors_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LYING_FILES[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: wanted a whole safetensors file, found .* again"):
        read_safetensors(path)


def test_a_header_of_another_kind_has_no_metadata_to_give(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(LYING_FILES["metadata not text"])
    with pytest.raises(CheckpointError, match="metadata that is not text"):
        read_safetensors_metadata(tmp_path / "model")


def test_damaged_safetensors_give_tensors_or_checkpoint_error(tmp_path: Path, fuzz: Any) -> None:
    write_safetensors(tmp_path / "good", TENSORS, {"a": "1"})
    fuzz(read_safetensors, (tmp_path / "good").read_bytes())


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    for reader in (read_safetensors, read_safetensors_metadata, read_torch, read_json, file_sha256):
        with pytest.raises(CheckpointError, match="no such file"):
            reader(tmp_path / "missing")
        with pytest.raises(CheckpointError, match="a folder"):
            reader(tmp_path)
        with pytest.raises(CheckpointError, match="null byte"):
            reader(str(tmp_path / "a\0b"))


def test_file_sha256_is_that_of_the_standard_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Writing, all or nothing


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "model.safetensors"
    write_safetensors(path, {"a": torch.zeros(2)})
    before = path.read_bytes()
    with pytest.raises(CheckpointWriteError, match="the disk is full") as caught:
        write_safetensors(path, {"a": torch.zeros(100_000)})
    assert caught.value.errno == errno.ENOSPC
    assert [item.name for item in small_disk.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == before
    write_json(small_disk / "config.json", {"a": 1})  # the space was given back
    with pytest.raises(CheckpointWriteError, match="the disk is full"):
        write_json(small_disk / "config.json", {"a": "x" * 100_000})
    assert read_json(small_disk / "config.json") == {"a": 1}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_fault_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": torch.zeros(2)})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match=r"the disk is full: free some space.*model\.safetensors") as caught:
        write_safetensors(path, {"a": torch.ones(2)})
    assert isinstance(caught.value, CheckpointError)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == before


def test_an_interrupt_while_writing_removes_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "config.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointWriteError, match="No such file or directory"):
        write_json(tmp_path / "missing" / "config.json", {})


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "config.json", {})
    assert (tmp_path / "config.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


# torch's own format


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_checkpoints_of_both_formats_are_read(tmp_path: Path, zipped: bool) -> None:
    value = {"state_dict": TENSORS, "step": 3, "names": ["a", ("b", None)], "rate": 0.5}
    torch.save(value, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    loaded = read_torch(tmp_path / "model.pt")
    assert isinstance(loaded, dict)
    assert {key: loaded[key] for key in ("step", "names", "rate")} == {
        "step": 3,
        "names": ["a", ("b", None)],
        "rate": 0.5,
    }
    assert_same(dict(sorted(loaded["state_dict"].items())), TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_pickle_that_asks_for_code_is_refused(tmp_path: Path, trap: Any, mark: Path, zipped: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(2), "b": trap}, path, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)["b"].close()
    assert mark.exists()  # the trap works where nobody takes care
    mark.unlink()
    with pytest.raises(CheckpointError, match=r"a request for \S*\.?open, which was not followed"):
        read_torch(path)


def test_archives_that_torch_would_unpack_or_run_are_refused(tmp_path: Path, trap: Any) -> None:
    path = tmp_path / "model.pt"
    (tmp_path / "pickle").write_bytes(pickle.dumps(trap))
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(tmp_path / "pickle", name)
    with pytest.raises(CheckpointError, match="a tar archive"):
        read_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("model/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(CheckpointError, match="a compressed zip archive"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as new:  # what makes an archive TorchScript
        new.writestr("model/version", "3")
        new.writestr("model/constants.pkl", pickle.dumps(()))
        new.writestr("model/data.pkl", pickle.dumps(trap))
    with pytest.raises(CheckpointError, match="wanted a torch checkpoint"):
        read_torch(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"PK", b"hello", b"\x80\x04N.", pickle.dumps({"a": 1}), b"\0" * 600, b"<html>not found</html>"):
        (tmp_path / "model.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match="wanted a torch checkpoint"):
            read_torch(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_checkpoints_give_data_or_checkpoint_error(tmp_path: Path, fuzz: Any, zipped: bool) -> None:
    value = {"a": torch.arange(20.0), "b": [1, "two"], "c": torch.ones(2, 3, dtype=torch.int32).t()}
    torch.save(value, tmp_path / "good", _use_new_zipfile_serialization=zipped)
    fuzz(read_torch, (tmp_path / "good").read_bytes(), count=250)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({"deep": [{"weight": huge}]}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="a tensor \\[1048576, 1048576\\] of 4 bytes"):
        read_torch(tmp_path / "a.pt")
