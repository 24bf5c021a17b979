"""The tokenizer inside the package, and every other name that `load` knows."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from pystoi import stoi

import audiotok
from audiotok.testing import check_tokenizer, parity

ASSETS = Path(audiotok.__file__).parent / "assets"


@pytest.fixture(scope="module")
def tok() -> audiotok.Tokenizer:
    return audiotok.load()


EMBEDDED = [name for name in audiotok.list_tokenizers() if audiotok.describe(name).source == "embedded"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_tokenizer_that_needs_no_network_conforms_on_real_speech(name, speech):
    found = audiotok.load(name)
    rows = [audiotok.audio.resample(row, 16000, found.spec.sample_rate) for row in speech]
    check_tokenizer(found, rows)
    assert found.spec == audiotok.describe(name).spec


def test_the_default_loads_without_a_network():
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import sys, audiotok; t = audiotok.load(); c = t.encode_file(sys.argv[1]); w = t.decode(c)\n"
        "print(*c.tokens.shape, *w.shape)"
    )
    clip = ASSETS / "clips" / "speech_en_1.flac"
    result = subprocess.run([sys.executable, "-c", code, clip], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1", "8", "135", "1", "1", "42896"]


def test_the_default_is_small_and_says_where_it_comes_from(tok):
    folder = ASSETS / audiotok.DEFAULT
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4e6
    assert tok.provenance["license"] == "apache-2.0"
    assert tok.provenance["fit"]["frames_used"] > 1_000_000
    assert "## Where it comes from" in (folder / "README.md").read_text()


def test_speech_stays_intelligible_on_every_clip(tok, clips):
    scores = {}
    for path in (path for path in clips if path.stem.startswith("speech")):
        wav, rate = audiotok.audio.load(path)
        decoded = tok.decode(tok.encode_file(path))
        assert decoded.shape == (1, *wav.shape)
        scores[path.stem] = float(stoi(wav[0].numpy(), decoded[0, 0].numpy(), rate))
    assert len(scores) == 10
    assert min(scores.values()) > 0.87, scores
    assert sum(scores.values()) / 10 > 0.89, scores


def test_more_codebooks_are_more_intelligible(tok, speech):
    codes = tok.encode(speech[0])
    scores = [
        float(stoi(speech[0][0].numpy(), tok.decode(codes.truncate(k))[0, 0].numpy(), 16000)) for k in (1, 2, 4, 8)
    ]
    assert scores == sorted(scores)


def test_parity_is_perfect_on_speech_music_and_effects(tok, clips):
    rows = [audiotok.audio.load(path, sample_rate=16000, channels=1)[0][:, : 16000 * 6] for path in clips]
    shares = {way.way: way.share for way in parity(tok, rows)}
    assert {way: share for way, share in shares.items() if way not in ("bfloat16", "gpu")} == dict.fromkeys(
        ("again", "batch", "padded", "order", "chunked", "saved"), 0.0
    )
    assert 0 < shares["bfloat16"] < 0.1


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(1, 20000), min_size=1, max_size=6), st.integers(0, 2**31), st.floats(-6, 0))
def test_any_mix_of_lengths_and_levels_gives_the_codes_of_each_row_alone(tok, lengths, seed, level):
    generator = torch.Generator().manual_seed(seed)
    rows = [10**level * torch.randn(1, count, generator=generator) for count in lengths]
    alone = [tok.encode(row[None]) for row in rows]
    tok.row_by_row, tok.max_padding = False, 1.0
    try:
        batch = tok.encode(rows)
    finally:
        tok.row_by_row, tok.max_padding = None, 0.25
    assert [torch.equal(one.tokens, row.tokens) for one, row in zip(alone, batch, strict=True)] == [True] * len(rows)


@pytest.mark.parametrize("level", [0.0, 1e-9, 1.0, 1e4])
def test_silence_and_absurd_levels_code_and_decode(tok, level):
    codes = tok.encode(torch.full((1, 8000), level))
    wav = tok.decode(codes)
    assert wav.shape == (1, 1, 8000)
    assert bool(wav.isfinite().all())
    if level < 1e-6:
        assert float(wav.abs().max()) < 1e-3
