import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok.errors import CheckpointError, InputError
from audiotok.lm import (
    TokenSequence,
    read_jsonl,
    read_megatron,
    read_numpy,
    write_jsonl,
    write_megatron,
    write_numpy,
)

MEGATRON_TYPES = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}


def as_megatron_reads(prefix: Path) -> tuple[list[list[int]], list[int], type]:
    """Sequences, document boundaries and integer type, read by the offsets that the format's description gives."""
    index, data = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    assert struct.unpack_from("<Q", index, 9) == (1,)
    kind = MEGATRON_TYPES[index[17]]
    count, documents = struct.unpack_from("<QQ", index, 18)
    lengths = struct.unpack_from(f"<{count}i", index, 34)
    places = struct.unpack_from(f"<{count}q", index, 34 + 4 * count)
    boundaries = struct.unpack_from(f"<{documents}q", index, 34 + 12 * count)
    assert len(index) == 34 + 12 * count + 8 * documents
    sequences = [
        np.frombuffer(data, kind, count=length, offset=place).tolist()
        for length, place in zip(lengths, places, strict=True)
    ]
    return sequences, list(boundaries), kind


def forms(ids: list[int], number: int):
    """The same ids in one of the forms that are taken."""
    dtype = np.int64 if max(ids) >= 2**31 else np.int32
    return (ids, np.array(ids, dtype), torch.tensor(ids), TokenSequence(torch.tensor(ids), f"clip {number}"))[
        number % 4
    ]


@st.composite
def corpora(draw):
    """A vocabulary and sequences of its ids, the largest one among them."""
    vocab = draw(st.sampled_from([1, 2, 256, 257, 65499, 65500, 65536, 65537, 2**31]))
    sequences = draw(st.lists(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=30), min_size=1, max_size=20))
    sequences[-1].append(vocab - 1)
    return vocab, sequences


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_megatron_files_hold_the_sequences(tmp_path_factory, corpus):
    vocab, sequences = corpus
    prefix = tmp_path_factory.mktemp("m") / "train"
    report = write_megatron((forms(ids, i) for i, ids in enumerate(sequences)), prefix, vocab_size=vocab)
    found, boundaries, kind = as_megatron_reads(prefix)
    assert found == sequences
    assert boundaries == list(range(len(sequences) + 1))
    assert kind == (np.uint16 if vocab < 65500 else np.int32)
    assert (report.sequences, report.tokens) == (len(sequences), sum(map(len, sequences)))
    assert report.files == (f"{prefix}.bin", f"{prefix}.idx")
    ours = read_megatron(prefix)
    assert [ids.tolist() for ids in ours] == sequences
    assert (len(ours), ours[-1].tolist(), [ids.tolist() for ids in ours[::-2]]) == (
        len(sequences),
        sequences[-1],
        sequences[::-2],
    )


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_numpy_files_hold_the_sequences(tmp_path_factory, corpus):
    vocab, sequences = corpus
    folder = tmp_path_factory.mktemp("n") / "train"
    report = write_numpy((forms(ids, i) for i, ids in enumerate(sequences)), folder, vocab_size=vocab)
    tokens, offsets = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "offsets"))
    assert tokens.tolist() == [token for ids in sequences for token in ids]
    assert tokens.dtype == (np.uint8 if vocab <= 256 else np.uint16 if vocab <= 65536 else np.uint32)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == np.cumsum([0, *map(len, sequences)]).tolist()
    assert [ids.tolist() for ids in read_numpy(folder)] == sequences
    assert report.files == (str(folder / "tokens.npy"), str(folder / "offsets.npy"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["train"]


@settings(max_examples=60, deadline=None)
@given(
    corpora(),
    st.text(),
    st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.booleans()), max_size=3),
)
def test_json_lines_hold_the_sequences_and_what_is_known_of_them(tmp_path_factory, corpus, name, metadata):
    vocab, sequences = corpus
    path = tmp_path_factory.mktemp("j") / "train.jsonl"
    given_ones = [*(forms(ids, i) for i, ids in enumerate(sequences)), TokenSequence([vocab - 1], name, metadata)]
    report = write_jsonl(given_ones, path, vocab_size=vocab)
    found = list(read_jsonl(path))
    assert [one.ids.tolist() for one in found] == [*sequences, [vocab - 1]]
    assert (found[-1].id, found[-1].metadata) == (name, metadata)
    assert [one.id for one in found[:-1]] == [f"clip {i}" if i % 4 == 3 else "" for i in range(len(sequences))]
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == report.sequences + 1
    assert json.loads(lines[0]) == {"id": "", "ids": sequences[0]}


def test_vocabularies_beyond_four_bytes_have_numpy_and_json_lines(tmp_path):
    write_numpy([[0, 2**40]], tmp_path / "n", vocab_size=2**40 + 1)
    assert read_numpy(tmp_path / "n")[0].tolist() == [0, 2**40]
    assert read_numpy(tmp_path / "n").tokens.dtype == np.int64
    write_jsonl([[2**40]], tmp_path / "j")
    assert next(read_jsonl(tmp_path / "j")).ids.tolist() == [2**40]
    with pytest.raises(InputError, match="vocab_size must be from 1 to 2[*][*]31"):
        write_megatron([[1]], tmp_path / "m", vocab_size=2**31 + 1)


def test_real_codes_go_round(speech, tmp_path):
    codes = audiotok.load(num_codebooks=2).encode(speech)
    sequences = [(row.tokens[0] + torch.tensor([[0], [1024]])).T.flatten() for row in codes]  # frame by frame
    write_megatron(sequences, tmp_path / "a", vocab_size=2048)
    for found, wanted in zip(read_megatron(tmp_path / "a"), sequences, strict=True):
        assert torch.equal(torch.from_numpy(found.astype(np.int64)), wanted)


WRITERS = {
    "megatron": lambda sequences, path, vocab=100: write_megatron(sequences, path, vocab_size=vocab),
    "jsonl": lambda sequences, path, vocab=100: write_jsonl(sequences, path, vocab_size=vocab),
    "numpy": lambda sequences, path, vocab=100: write_numpy(sequences, path, vocab_size=vocab),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "there are no sequences to write"),
        ([[1], [100]], "sequence 1 holds the id 100, wanted 0 to 99"),
        ([[1], TokenSequence([-1], "b")], r"sequence 1 \(b\) holds the id -1, wanted 0 to 99"),
        ([[1], []], "sequence 1 must be one row of at least one whole number"),
        ([[1], [0.5]], "sequence 1 must be one row of at least one whole number, not .1. float64"),
        ([torch.ones(2, 2, dtype=torch.int64)], r"sequence 0 must be one row .* not .2, 2. int64"),
        ([torch.tensor([True])], "sequence 0 must be one row"),
        ([5], "sequence 0 must be one row"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, sequences, message):
    with pytest.raises(InputError, match=message):
        WRITERS[name](iter(sequences), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_source_that_fails_leaves_nothing_and_what_was_there(tmp_path, name):
    def failing():
        yield [1, 2]
        raise RuntimeError("the corpus is gone")

    before = {}
    if name != "numpy":  # which writes to new folders only
        WRITERS[name]([[7]], tmp_path / "out")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="gone"):
        WRITERS[name](failing(), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_megatron_files_are_replaced_and_the_index_is_last(tmp_path, monkeypatch):
    write_megatron([[7], [8]], tmp_path / "out", vocab_size=10)
    replaced = []
    rename = Path.replace

    def replace(self, target):
        replaced.append((Path(target).name, sorted(path.name for path in tmp_path.glob("out*"))))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_megatron([[1, 2, 3]], tmp_path / "out", vocab_size=10)
    # While the data is replaced there is no index, which would be the old one's.
    assert replaced == [("out.bin", ["out.bin"]), ("out.idx", ["out.bin"])]
    assert [ids.tolist() for ids in read_megatron(tmp_path / "out")] == [[1, 2, 3]]


def test_numpy_wants_a_new_folder(tmp_path):
    with pytest.raises(InputError, match="exists: name a new folder"):
        write_numpy([[1]], tmp_path, vocab_size=10)
    with pytest.raises(InputError, match="vocab_size must be at least 1, not 0"):
        write_numpy([[1]], tmp_path / "a", vocab_size=0)


def test_metadata_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(InputError, match=r"sequence 0 \(a\) has metadata that JSON cannot hold"):
        write_jsonl([TokenSequence([1], "a", {"x": object()})], tmp_path / "a")
    with pytest.raises(InputError, match="metadata that JSON cannot hold"):
        write_jsonl([TokenSequence([1], "a", {"x": float("nan")})], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_megatrons_own_with_documents_and_modes_is_read(tmp_path):
    data = np.array([5, 6, 7, 8], np.int64)
    (tmp_path / "a.bin").write_bytes(data.tobytes())
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 5, 3, 2)
    arrays = struct.pack("<3i", 2, 1, 1) + struct.pack("<3q", 0, 16, 24) + struct.pack("<2q", 0, 3)
    for modes in (b"", b"\0\1\0"):
        (tmp_path / "a.idx").write_bytes(head + arrays + modes)
        assert [ids.tolist() for ids in read_megatron(tmp_path / "a")] == [[5, 6], [7], [8]]


def test_damaged_megatron_files_are_refused(tmp_path):
    write_megatron([[7], [8, 9]], tmp_path / "a", vocab_size=10)
    index, data = (tmp_path / "a.idx").read_bytes(), (tmp_path / "a.bin").read_bytes()
    wrong = [(index[:end], data) for end in range(len(index))]
    wrong += [(index + b"\0", data), (index, data[:-1]), (index, data + b"\0"), (index, b"")]
    for place in range(58):  # all but the documents, of which nothing is read
        changed = bytearray(index)
        changed[place] ^= 0x41
        wrong.append((bytes(changed), data))
    for bad_index, bad_data in wrong:
        (tmp_path / "a.idx").write_bytes(bad_index)
        (tmp_path / "a.bin").write_bytes(bad_data)
        with pytest.raises(CheckpointError, match="a.idx: wanted an index of Megatron's"):
            read_megatron(tmp_path / "a")
    with pytest.raises(CheckpointError, match="No such file"):
        read_megatron(tmp_path / "b")


@pytest.mark.parametrize("name", ["tokens", "offsets"])
def test_damaged_numpy_files_are_refused(tmp_path, name):
    write_numpy([[7], [8, 9]], tmp_path / "a", vocab_size=10)
    path = tmp_path / "a" / f"{name}.npy"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="wanted a folder with tokens.npy and offsets.npy"):
            read_numpy(tmp_path / "a")
    for wrong in ([0, 1, 4], [0, 2, 1, 3], [1, 3], [], [[0, 3]], [0.0, 3.0]):
        path.write_bytes(whole)
        np.save(tmp_path / "a" / "offsets.npy", np.array(wrong))
        with pytest.raises(CheckpointError, match="that do not fit"):
            read_numpy(tmp_path / "a")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="wanted a folder with"):
        read_numpy(tmp_path / "a")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        "5",
        "{}",
        '{"ids": [1.5]}',
        '{"ids": [[1]]}',
        '{"ids": []}',
        '{"ids": ["a"]}',
        '{"ids": [[1], [1, 2]]}',
        '{"ids": [1], "id": 5}',
        '{"ids": [1], "metadata": 5}',
        '{"ids": [99999999999999999999]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_named_when_its_turn_comes(tmp_path, line):
    (tmp_path / "a").write_text('{"id": "x", "ids": [1, 2]}\n' + line + "\n")
    sequences = read_jsonl(tmp_path / "a")
    assert next(sequences).ids.tolist() == [1, 2]
    with pytest.raises(CheckpointError, match="found something else in line 2"):
        next(sequences)


PROGRAM = """
import resource, sys
import numpy as np
from audiotok import lm as export
kind, path = sys.argv[1:]
row = np.arange(10_000) % 50_000
export.write_jsonl([row], path + "small", vocab_size=50_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = (row for _ in range(3000))
if kind == "megatron":
    export.write_megatron(rows, path, vocab_size=50_000)
    assert export.read_megatron(path)[2999][-1] == 9999
else:
    export.write_numpy(rows, path, vocab_size=50_000)
    assert export.read_numpy(path)[2999][-1] == 9999
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["megatron", "numpy"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, kind):
    argv = [sys.executable, "-c", PROGRAM, kind, str(tmp_path / "out")]
    result = subprocess.run(
        argv, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written > 60_000_000
    assert int(result.stdout) * (1 if sys.platform == "darwin" else 1024) < 10_000_000
