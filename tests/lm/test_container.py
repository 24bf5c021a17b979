import base64
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec
from audiotok.errors import CheckpointError, InputError
from audiotok.lm import header as headers
from audiotok.lm.container import compress, compress_bytes, decompress, decompress_bytes
from audiotok.lm.entropy import EntropyModel, fit_entropy_model
from audiotok.lm.header import Header, joined, split

CODINGS = ("static", "codebook", "adaptive")


def same(one: Codes, other: Codes) -> bool:
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "lengths", "num_samples"))
        and (one.spec, one.fingerprint) == (other.spec, other.fingerprint)
        and one.extras.keys() == other.extras.keys()
        and all(
            value.dtype == other.extras[name].dtype and torch.equal(value, other.extras[name])
            for name, value in one.extras.items()
        )
    )


def made(sizes: tuple[int, ...], lengths: list[int], seed: int, spread: int = 1, more_frames: int = 0) -> Codes:
    """Codes of random tokens, the smaller the more often the larger `spread` is."""
    random = np.random.default_rng(seed)
    spec = Spec("made", sample_rate=16000, hop_length=320, codebook_sizes=sizes, nested=True)
    tokens = torch.zeros(len(lengths), len(sizes), max(lengths, default=0) + more_frames, dtype=torch.int64)
    for row, length in enumerate(lengths):
        for k, size in enumerate(sizes):
            tokens[row, k, :length] = torch.from_numpy((random.random(length) ** spread * size).astype(np.int64))
    frames = torch.tensor(lengths, dtype=torch.int64)
    return Codes(tokens, frames, 320 * frames + 7, spec, "finger")


def encoded(clips: list[Path], *names: str) -> list[Codes]:
    tok = audiotok.load()
    return [tok.encode_file(path) for path in clips if path.stem.removeprefix("speech_") in names]


@pytest.fixture(scope="module")
def real(clips: list[Path]) -> Codes:
    """Eight codebooks of three rows of real speech, 2.7 s, 2.2 s and 1.9 s."""
    return Codes.batch(encoded(clips, "en_1", "fr_2", "it_2"))


@pytest.fixture(scope="module")
def table(clips: list[Path]) -> EntropyModel:
    """Of other speech."""
    return fit_entropy_model(encoded(clips, "en_2", "fr_1", "es_1"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 100, 1024, 5000]), min_size=1, max_size=4),
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from(CODINGS),
    st.booleans(),
)
def test_compress_and_decompress_are_inverse(sizes, lengths, seed, spread, coding, with_table):
    codes = made(tuple(sizes), lengths, seed, spread, more_frames=seed % 3)
    table = None
    if with_table or coding == "static":
        table = fit_entropy_model([made(tuple(sizes), [40, 30], seed + 1, spread)])
    data, result = compress_bytes(codes, coding=coding, table=table)
    assert same(decompress_bytes(data, table=table), codes)
    assert (result.tokens, result.total_bytes) == (sum(lengths) * len(sizes), len(data))
    assert result.fixed_bits == pytest.approx(sum(lengths) * sum(np.log2(sizes)))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("sizes", [(1,), (2,), (65536,), (2**20,), (65536, 1, 2)])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 3, 0], [500]])
def test_extreme_sizes_come_back(coding, sizes, lengths):
    codes = made(sizes, lengths, seed=3)
    codes.tokens[0, :, : min(1, lengths[0])] = torch.tensor(sizes)[:, None] - 1  # the last one
    table = fit_entropy_model([made(sizes, [20], seed=4)])
    data, _ = compress_bytes(codes, coding=coding, table=table)
    assert same(decompress_bytes(data, table=table), codes)


def test_no_rows_come_back():
    codes = made((5, 6), [], seed=0)
    assert codes.tokens.shape == (0, 2, 0)
    assert same(decompress_bytes(compress_bytes(codes)[0]), codes)


@pytest.mark.parametrize("coding", CODINGS)
def test_extras_and_all_facts_come_back(coding, table, real):
    codes = Codes(
        real.tokens,
        real.lengths,
        real.num_samples,
        real.spec,
        real.fingerprint,
        {
            "scale": torch.rand(3, 2, 1).transpose(1, 2),  # not in order in memory
            "half": torch.rand(3, 4).half(),
            "speaker": torch.arange(12).reshape(3, 4)[:, ::2],
            "none": torch.zeros(3, 0),
            "flag": torch.tensor([True, False, True]),
        },
    )
    data, _ = compress_bytes(codes, coding=coding, table=table)
    assert same(decompress_bytes(data, table=table), codes)


def test_what_lies_beyond_a_row_comes_back_as_zeros():
    codes = made((9, 9), [3, 5], seed=1)
    codes.tokens[0, :, 3:] = 99  # no token at all, and not looked at
    found = decompress_bytes(compress_bytes(codes)[0])
    assert found.tokens[0, :, 3:].tolist() == [[0, 0], [0, 0]]
    assert torch.equal(found[0].tokens, codes[0].tokens)
    assert torch.equal(found[1].tokens, codes[1].tokens)


def test_real_speech_takes_fewer_bits_than_fixed(real, table):
    bits = {}
    for name, coding, given_table in (
        ("static", "static", table),
        ("codebook", "codebook", None),
        ("adaptive", "adaptive", None),
        ("adaptive with table", "adaptive", table),
    ):
        data, result = compress_bytes(real, coding=coding, table=given_table)
        assert same(decompress_bytes(data, table=given_table), real)
        bits[name] = 8 * result.payload_bytes / result.fixed_bits
        assert result.bitrate_bps == pytest.approx(8 * result.payload_bytes / (int(real.num_samples.sum()) / 16000))
    # Short rows, and few seconds to fit a table on: what is gained is little, but nothing is lost.
    assert bits["adaptive"] < 1.0
    assert bits["adaptive with table"] < bits["adaptive"]
    assert bits["codebook"] > 1.0  # its table costs more than it saves


def test_tokens_that_tell_nothing_cost_no_more_than_fixed():
    codes = made((1000, 1000), [3000], seed=2)
    _, result = compress_bytes(codes)
    assert result.fixed_bits == pytest.approx(6000 * np.log2(1000))
    assert 8 * result.payload_bytes < 1.002 * result.fixed_bits + 64


@pytest.mark.parametrize("coding", ["static", "adaptive"])
def test_a_table_of_other_audio_never_costs_more_than_none(coding):
    codes = made((1000, 100), [3000], seed=2)
    codes.tokens[:] = torch.tensor([999, 99])[:, None] - codes.tokens
    unlike = fit_entropy_model([made((1000, 100), [9000], seed=3, spread=8)])
    _, result = compress_bytes(codes, coding=coding, table=unlike)
    assert 8 * result.payload_bytes < 1.002 * result.fixed_bits + 64


@pytest.mark.parametrize("coding", ["codebook", "adaptive"])
def test_skewed_tokens_come_near_their_entropy(coding):
    codes = made((256,), [20000], seed=2, spread=6)
    counts = np.bincount(codes.tokens.flatten().numpy())
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum() * 20000
    _, result = compress_bytes(codes, coding=coding)
    assert entropy < 8 * result.payload_bytes < 1.02 * entropy


def test_a_table_of_more_codebooks_serves_the_first_ones(real, table):
    codes = real.truncate(3)
    data, _ = compress_bytes(codes, table=table)
    assert same(decompress_bytes(data, table=table), codes)


def test_files_are_read_as_written(real, table, tmp_path):
    for coding in CODINGS:
        result = compress(real, tmp_path / "a.atz", coding=coding, table=table)
        assert (tmp_path / "a.atz").stat().st_size == result.total_bytes
        assert same(decompress(tmp_path / "a.atz", table=table), real)
    assert [path.name for path in tmp_path.iterdir()] == ["a.atz"]


def reckoned(lengths: list[int], factor: int) -> Codes:
    """Codes of 100, 3 and 1 entries that no random generator is needed for."""
    spec = Spec("made", sample_rate=16000, hop_length=320, codebook_sizes=(100, 3, 1))
    tokens = torch.arange(len(lengths) * 3 * max(lengths)).reshape(len(lengths), 3, -1)
    tokens = (factor * tokens**2 // 7 % 101 * tokens % 13) % torch.tensor([100, 3, 1])[:, None]
    frames = torch.tensor(lengths)
    for row, length in enumerate(lengths):
        tokens[row, :, length:] = 0
    return Codes(tokens, frames, 320 * frames - 5, spec, "finger")


# Files of `reckoned` codes as the first version of the format wrote them: they must stay readable.
FROZEN = {
    "adaptive": (
        "QVRaGgFKAAAAAAAAACQAAAAjMjQhXJQwBaUP5FAF8c2xBK2hkbmlKTCKjYxNcYYy1pSMK5yB9hgDQ5H0IMxNTElVwpaSyQq7ZDNT"
        "Q/O0pBRLE4tEC7O0NKVaAF62AYBwpJ2sXXbTOXxHnDWZld5YireGaCF80GaoP9R5LFzGxQhT5xc="
    ),
    "codebook": (
        "QVRaGgE9AAAAAAAAADwAAABDDk3kFIcWmhAuSpiC0gdyqIL45liC1tDI3NIUGMVGxqY4QxlrSsYVzkB7jIGhSHoQ5iampCphS8lk"
        "hh0Ae3rHE2HueapERzK+UJYs7QAAAAAAAAAADgEAAMcaWFzXJ/V9/rRFiv2+8TIhkNHzisvlgt/n6tZlOj+ufsrrmQ=="
    ),
    "static": (
        "QVRaGgFPAAAAAAAAACQAAABDDk1EKkMLSwgXJURBqQM5TEF8cywBa2hkbmkKjGAjY1OcYYw1HeMKZaA9xsAwJD0AcxNTUpWwpWOy"
        "Qi7ZzNTQPC0pxdLEItHCLC1NqRYAgetHgEwlN1cYkRfYXRpV1wH2yjdegnS/dSjv/jX38jB05cr1d7lBbg=="
    ),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_files_of_the_first_version_stay_readable(coding):
    table = fit_entropy_model([reckoned([90], factor=5)])
    assert same(decompress_bytes(base64.b64decode(FROZEN[coding]), table=table), reckoned([40, 7], factor=3))


def test_any_changed_byte_is_noticed(table):
    data = bytearray(compress_bytes(made((100, 3), [40, 7], seed=1))[0])
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match="is not a whole file of compressed codes"):
            decompress_bytes(bytes(data))
        data[place] ^= 1 << place % 8
    assert decompress_bytes(bytes(data)).lengths.tolist() == [40, 7]


def test_any_missing_or_added_bytes_are_noticed():
    data = compress_bytes(made((100, 3), [40, 7], seed=1))[0]
    for wrong in [data[:end] for end in range(len(data))] + [data + b"\0", b"\0" + data, data[1:]]:
        with pytest.raises(CheckpointError, match="is not a whole file of compressed codes"):
            decompress_bytes(wrong)


def packed(facts: object) -> bytes:
    return packed_text(json.dumps(facts).encode())


def packed_text(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15, zdict=headers._COMMON)
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 2**40}, "more than max_tokens"),
        ({"frames": 2**41}, "number of frames is of the wrong kind"),
        ({"frames": 10**4000}, "number of frames is of the wrong kind"),
        ({"frames": 2**30, "lengths": [], "num_samples": []}, "more than max_tokens"),
        ({"lengths": [40], "frames": 2**26}, "1 lengths, but 2 numbers of samples"),
        ({"lengths": [41, 7]}, "lengths that are not numbers"),
        ({"lengths": [-1, 7]}, "lengths that are not numbers"),
        ({"lengths": [4.0, 7]}, "lengths that are not numbers"),
        ({"lengths": [True, 7]}, "lengths that are not numbers"),
        ({"lengths": "ab"}, "lengths that are not numbers"),
        ({"num_samples": [1, 2**63]}, "samples that are not numbers"),
        ({"coding": "magic"}, "coding 'magic'"),
        ({"coding": ["static"]}, "coding"),
        ({"coding": "static"}, "coding 'static' and the table ''"),
        ({"fingerprint": 5}, "of the wrong kind"),
        ({"table": 5}, "its table is no checksum"),
        ({"table": "0" * 10**6}, "its table is no checksum"),
        ({"surprise": 5}, "surprise"),
        ({"spec": {}}, "a Spec is incomplete"),
        ({"spec": []}, "header cannot be"),
        ({"spec": {"codebook_sizes": [2**21, 3]}}, "may have 1048576 entries"),
        ({"spec": {"codebook_sizes": [2**20] * 17}}, "16777216 together"),
        ({"spec": {"codebook_sizes": [50]}}, "not what these models can have written|longer than its tokens"),
    ],
)
def test_a_hostile_header_is_refused_before_memory_is_taken(changes, message):
    header, extras, payload = split(compress_bytes(made((100, 3), [40, 7], seed=1))[0])
    known = Header.unpack(header)
    facts = {**vars(known), "spec": known.spec.to_dict()}
    if isinstance(changes.get("spec"), dict) and changes["spec"]:
        changes = {"spec": {**facts["spec"], **changes["spec"]}}
    data = joined(packed({**facts, **changes}), extras, payload)
    with pytest.raises(CheckpointError, match=message):
        decompress_bytes(data)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"not zlib",
        zlib.compress(b"{}"),
        packed([]),
        packed("text"),
        packed(None),
        packed({"spec": 1})[:-3],
        packed({"spec": 1}) + b"more",
        packed({}),
    ],
)
def test_a_header_of_another_kind_is_refused(header):
    with pytest.raises(CheckpointError, match="its header cannot be"):
        decompress_bytes(joined(header, b"", b""))


def test_a_header_that_unpacks_to_gigabytes_is_refused():
    packer = zlib.compressobj(9, wbits=-15, zdict=headers._COMMON)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush()
    with pytest.raises(CheckpointError, match="longer than 16777216 bytes"):
        decompress_bytes(joined(bomb, b"", b""))
    with pytest.raises(CheckpointError, match="RecursionError"):
        decompress_bytes(joined(packed_text(b"[" * 100_000), b"", b""))


@pytest.mark.parametrize(
    "extras",
    [
        b"garbage",
        struct.pack("<Q", 2**60) + b"{}",
        safetensors.torch.save({"scale": torch.zeros(3, 1)}),  # of three rows, not two
        safetensors.torch.save({"scale": torch.tensor(1.0)}),
    ],
)
def test_extras_that_do_not_fit_are_refused(extras):
    header, _, payload = split(compress_bytes(made((100, 3), [40, 7], seed=1))[0])
    with pytest.raises(CheckpointError, match="is not a whole file of compressed codes"):
        decompress_bytes(joined(header, extras, payload))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["codebook", "adaptive"]))
def test_any_payload_gives_codes_or_an_error(payload, coding):
    header, extras, _ = split(compress_bytes(made((100, 3), [40, 7], seed=1), coding=coding)[0])
    try:
        found = decompress_bytes(joined(header, extras, payload))
    except CheckpointError:
        return
    assert found.lengths.tolist() == [40, 7]
    for k, size in enumerate((100, 3)):
        assert 0 <= int(found.tokens[:, k].min()) <= int(found.tokens[:, k].max()) < size


def test_more_than_max_tokens_is_refused_and_can_be_allowed():
    codes = made((100, 3), [40, 7], seed=1)
    data, _ = compress_bytes(codes)
    with pytest.raises(CheckpointError, match="it says it holds 160 tokens, more than max_tokens = 159"):
        decompress_bytes(data, max_tokens=159)
    assert same(decompress_bytes(data, max_tokens=160), codes)


def test_a_table_that_is_missing_or_wrong_is_named(real, table, tmp_path):
    other = fit_entropy_model([real])
    compress(real, tmp_path / "a.atz", table=table)
    with pytest.raises(InputError, match=f"a.atz was compressed with the entropy model {table.checksum}: none"):
        decompress(tmp_path / "a.atz")
    with pytest.raises(InputError, match=f"{table.checksum}: the one given is {other.checksum}"):
        decompress(tmp_path / "a.atz", table=other)


def test_a_file_that_needs_no_table_takes_any(real, table):
    data, _ = compress_bytes(real)
    assert same(decompress_bytes(data, table=table), real)


def test_the_file_is_named(tmp_path):
    (tmp_path / "a.atz").write_bytes(b"RIFF....WAVE")
    with pytest.raises(
        CheckpointError, match=r"a\.atz is not a whole file of compressed codes: it begins with b'RIFF'"
    ):
        decompress(tmp_path / "a.atz")
    with pytest.raises(CheckpointError, match="no such file"):
        decompress(tmp_path / "b.atz")


def test_a_newer_version_is_named():
    data = bytearray(compress_bytes(made((5,), [3], seed=0))[0])
    data[4] = 2
    with pytest.raises(CheckpointError, match="it has version 2, wanted 1: was it written by a newer audiotok"):
        decompress_bytes(bytes(data))


@pytest.mark.parametrize(
    ("coding", "message"),
    [
        ("zip", "coding must be one of static, codebook, adaptive, not 'zip'"),
        ("static", "needs a table: fit one with fit_entropy_model"),
    ],
)
def test_wrong_arguments_are_refused(coding, message):
    with pytest.raises(InputError, match=message):
        compress_bytes(made((5,), [3], seed=0), coding=coding)


def test_codes_that_are_none_are_refused(tmp_path):
    codes = made((5, 7), [3, 9], seed=0)
    codes.tokens[1, 1, 8] = 7
    with pytest.raises(InputError, match="row 1, codebook 1, frame 8 is 7, wanted 0 to 6"):
        compress(codes, tmp_path / "a.atz")
    codes.tokens[1, 1, 8] = 6
    codes.tokens[0, 0, 2] = -1
    with pytest.raises(InputError, match="row 0, codebook 0, frame 2 is -1, wanted 0 to 4"):
        compress(codes, tmp_path / "a.atz")
    codes.tokens[0, 0, 2] = 0
    codes.lengths[0] = 10
    with pytest.raises(InputError, match="lengths must be 0 to 9, the frames there are"):
        compress(codes, tmp_path / "a.atz")
    with pytest.raises(InputError, match="entropy model is for codebooks of .* the codes have .6."):
        compress(made((6,), [3], seed=0), tmp_path / "a.atz", table=fit_entropy_model([made((5, 7), [3], seed=0)]))
    with pytest.raises(InputError, match="may have 1048576 entries"):
        compress(made((2**21,), [3], seed=0), tmp_path / "a.atz")
    assert list(tmp_path.iterdir()) == []
