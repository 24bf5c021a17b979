"""Tokens as columns of a Hugging Face dataset."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import fsspec
import numpy as np
import pytest
import torch
from datasets import Audio, Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import audiotok
from audiotok import Codes, Tokenizer
from audiotok.dataset.mapping import ExampleEncoder, encode_examples
from audiotok.errors import AudioFileError, InputError, MissingDependencyError

STEREO = Path(__file__).parents[1] / "fixtures" / "encodec-native" / "48k-stereo-chunked"
FORKING = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    """Treat as read-only."""
    return audiotok.load()


@pytest.fixture(scope="module")
def stereo() -> Tokenizer:
    """With values beside its tokens. Treat as read-only."""
    return audiotok.convert("encodec", STEREO)


@pytest.fixture
def files(clips, tmp_path) -> Dataset:
    """Undecoded clips of all rates, on disk: only there does `datasets` keep what it computed."""
    made = Dataset.from_dict({"audio": [str(path) for path in clips], "speaker": list(range(len(clips)))})
    made.cast_column("audio", Audio(decode=False)).save_to_disk(tmp_path / "files")
    return datasets.load_from_disk(tmp_path / "files")


def check_same(found: Codes, wanted: Codes) -> None:
    assert (found.spec, found.fingerprint) == (wanted.spec, wanted.fingerprint)
    assert found.extras.keys() == wanted.extras.keys()
    for name in ("tokens", "lengths", "num_samples"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    for name, value in wanted.extras.items():
        assert found.extras[name].dtype == value.dtype
        assert torch.equal(found.extras[name], value)


def codes_of_files(tok: Tokenizer, clips: list[Path]) -> Codes:
    return Codes.batch([tok.encode_file(path) for path in clips])


# ---- map -------------------------------------------------------------------------------------------


def test_map_adds_the_tokens_of_the_files(tok, files, clips):
    encoder = encode_examples(tok)
    mapped = files.map(encoder, batched=True, batch_size=4)
    assert set(mapped.column_names) == {"audio", "speaker", "tokens", "num_frames", "num_samples"}
    wanted = codes_of_files(tok, clips)
    assert mapped["num_frames"][:] == wanted.lengths.tolist()
    assert mapped["num_samples"][:] == wanted.num_samples.tolist()
    check_same(encoder.codes(list(mapped)), wanted)
    check_same(encoder.codes(list(mapped.with_format("torch"))), wanted)
    assert str(mapped.features["tokens"].feature.feature.dtype) == "uint16"


@FORKING
def test_several_processes_give_the_same_also_after_torch_has_used_several_threads(tok, files, clips):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = codes_of_files(tok, clips)
        mapped = files.map(encode_examples(tok), batched=True, batch_size=4, num_proc=2)
    finally:
        torch.set_num_threads(threads)
    check_same(encode_examples(tok).codes(list(mapped)), wanted)


@FORKING
def test_an_iterable_dataset_gives_the_same_in_the_main_process_and_in_workers(tok, files, clips):
    encoder = encode_examples(tok)
    stream = files.to_iterable_dataset(num_shards=2).map(encoder, batched=True, batch_size=3)
    stream = stream.remove_columns("audio")
    check_same(encoder.codes(list(stream)), codes_of_files(tok, clips))
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    rows = sorted(loader, key=lambda row: int(row["speaker"]))
    check_same(encoder.codes(rows), codes_of_files(tok, clips))


def test_mapped_rows_become_batches_of_codes_in_a_data_loader(tok, files, clips):
    encoder = encode_examples(tok)
    mapped = files.map(encoder, batched=True, batch_size=16, remove_columns="audio")
    batches = list(DataLoader(mapped, batch_size=5, collate_fn=encoder.codes))
    assert [len(batch) for batch in batches] == [5, 5, 4]
    check_same(Codes.batch([row for batch in batches for row in batch]), codes_of_files(tok, clips))


# ---- what datasets remembers -----------------------------------------------------------------------


def test_a_second_map_is_read_from_the_cache_of_datasets_and_that_of_another_tokenizer_is_not(
    files, clips, monkeypatch
):
    def mapped(num_codebooks: int) -> Dataset:
        encoder = encode_examples(audiotok.load(num_codebooks=num_codebooks))
        return files.map(encoder, batched=True, batch_size=8)

    first = mapped(8)

    def refuse(*_: Any) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(Tokenizer, "encode_rows", refuse)
    assert mapped(8)["tokens"][:] == first["tokens"][:]
    with pytest.raises(AssertionError, match="encoded again"):
        mapped(7)


HASHES = f"""
import torch, audiotok
from audiotok.dataset.mapping import encode_examples
from datasets.fingerprint import Hasher
for tok in (audiotok.load(), audiotok.convert("encodec", {str(STEREO)!r})):
    tok.encode(torch.ones(1, tok.spec.channels, 9000))
    print(Hasher.hash(encode_examples(tok)))
"""


def test_the_hash_is_that_of_any_other_run_before_and_after_encoding(tok, stereo):
    found = []
    for made in (audiotok.load(), audiotok.convert("encodec", STEREO)):
        encoder = encode_examples(made)
        found.append(Hasher.hash(encoder))
        made.encode(torch.ones(1, made.spec.channels, 9000))
        assert Hasher.hash(encoder) == found[-1]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", HASHES], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == found
    others = [encode_examples(tok, column="sound"), encode_examples(audiotok.load(num_codebooks=3))]
    assert len({*found, *map(Hasher.hash, others)}) == 4


# ---- cells of every kind ---------------------------------------------------------------------------


def cells_of(path: Path) -> list[Any]:
    wav, rate = audiotok.audio.load(path)
    array = wav.numpy() if len(wav) > 1 else wav[0].numpy()
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=wav, sample_rate=rate))
    return [
        str(path),
        {"path": str(path), "bytes": None},
        {"path": "not/here.flac", "bytes": path.read_bytes()},
        {"path": None, "bytes": path.read_bytes()},
        {"array": array, "sampling_rate": rate, "path": None},
        {"array": array.tolist(), "sampling_rate": rate},
        decoder,
    ]


@pytest.mark.parametrize("stem", ["speech_fr_2", "effect_bell_stereo"])
def test_all_kinds_of_cells_give_the_tokens_of_the_file(tok, stereo, clips, stem):
    path = next(path for path in clips if path.stem == stem)
    for tokenizer in (tok, stereo):
        wanted = tokenizer.encode_file(path).tokens[0].numpy()
        for tokens in encode_examples(tokenizer)({"audio": cells_of(path)})["tokens"]:
            assert np.array_equal(tokens, wanted)


def test_a_file_at_an_address_is_fetched(tok, clips):
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/clip.flac", clips[0].read_bytes())
    tokens = encode_examples(tok)({"audio": [{"path": "memory://corpus/clip.flac", "bytes": None}]})["tokens"]
    assert np.array_equal(tokens[0], tok.encode_file(clips[0]).tokens[0])
    for url in ("memory://corpus/none.flac", "gopher://clip.flac"):
        with pytest.raises(AudioFileError, match=f"row 0 .*cannot read {url}: "):
            encode_examples(tok)({"audio": [{"path": url, "bytes": None}]})


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 3000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_columns_and_codes_are_inverse(tok, stereo, counts, seed):
    draw = torch.Generator().manual_seed(seed)
    for tokenizer in (tok, stereo):
        rows = [0.1 * torch.randn(tokenizer.spec.channels, count, generator=draw) for count in counts]
        encoder = encode_examples(tokenizer)
        cells = [{"array": row.numpy(), "sampling_rate": tokenizer.spec.sample_rate} for row in rows]
        table = Dataset.from_dict(encoder({"audio": cells}))
        check_same(encoder.codes(list(table)), tokenizer.encode(rows))


def test_codes_with_values_beside_the_tokens_decode_from_columns(stereo, clips):
    encoder = encode_examples(stereo, column="sound")
    mapped = Dataset.from_dict({"sound": [str(clips[0])]}).map(encoder, batched=True)
    wanted = stereo.encode_file(clips[0])
    assert wanted.extras
    assert torch.equal(stereo.decode(encoder.codes(list(mapped))), stereo.decode(wanted))


# ---- errors ----------------------------------------------------------------------------------------


def flac(channels: int) -> bytes:
    data = io.BytesIO()
    audiotok.audio.save(data, torch.zeros(channels, 800), 16000, format="FLAC")
    return data.getvalue()


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        ("none.flac", AudioFileError, "row 1: cannot read none.flac: no such file"),
        ({"path": "a.flac", "bytes": b"RIFF"}, AudioFileError, r"row 1 \(a.flac\): cannot read audio data"),
        ({"path": None, "bytes": None}, InputError, "row 1: there is no audio in"),
        (None, InputError, "row 1: there is no audio in None"),
        ({"path": "b.flac", "bytes": flac(3)}, InputError, r"row 1 \(b.flac\): .* has 3 channels"),
        ({"array": [0.0, float("nan")], "sampling_rate": 48000}, InputError, "row 1 holds NaN"),
        ({"array": [1, 2], "sampling_rate": 48000}, InputError, "row 1: audio must be int16 or float"),
        ({"array": np.zeros(0, np.float32), "sampling_rate": 48000}, InputError, "row 1 is empty"),
    ],
)
def test_errors_name_the_row(stereo, clips, cell, kind, message):
    with pytest.raises(kind, match=message):
        encode_examples(stereo)({"audio": [str(clips[0]), cell]})


def test_errors_in_use_say_what_to_do(tok, clips, monkeypatch):
    made = Dataset.from_dict({"audio": [str(clips[0])]})
    with pytest.raises(InputError, match="call map with batched=True"):
        made.map(encode_examples(tok))
    with pytest.raises(InputError, match="no column 'sound', but audio"):
        made.map(encode_examples(tok, column="sound"), batched=True)
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    with pytest.raises(MissingDependencyError, match=r"ds.cast_column\('audio', Audio\(decode=False\)\)"):
        made.cast_column("audio", Audio()).map(encode_examples(tok), batched=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "nothing to join"),
        ([{"tokens": [[1]]}], "row 0 was not made by encode_examples: KeyError.'num_samples'"),
        ([{"tokens": [[1], [1, 2]], "num_samples": 1}], "row 0 was not made by encode_examples"),
        ([{"tokens": [[1]], "num_samples": 1}], f"1 rows of tokens, but {audiotok.DEFAULT} has 8 codebooks"),
    ],
)
def test_rows_that_are_not_of_this_tokenizer_are_refused(tok, rows, message):
    with pytest.raises(InputError, match=message):
        ExampleEncoder(tok, "audio").codes(rows)
