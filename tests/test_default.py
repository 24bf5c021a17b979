"""The tokenizers inside the package, of which one is the default."""

import functools
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from pesq import pesq
from pystoi import stoi

import audiotok
from audiotok.catalog.embedded import EMBEDDED
from audiotok.evaluate.metric_base import Example
from audiotok.evaluate.spectral_metrics import mel_distance
from audiotok.testing import check_tokenizer, parity

ASSETS = Path(audiotok.__file__).parent / "assets"
NAMES = [entry.name for entry in EMBEDDED]
OFFLINE = [name for name in audiotok.list_tokenizers() if audiotok.describe(name).source == "embedded"]  # plug-ins, too

# By number of codebooks, on the ten clean clips of speech: mean ESTOI and PESQ-WB, at least
SPEECH = {
    "audiotok-base-16k": {8: (0.935, 3.2), 4: (0.905, 2.8), 2: (0.86, 2.25), 1: (0.78, 1.7)},
    "logmel-16khz": {8: (0.845, 1.85), 4: (0.785, 1.55), 2: (0.705, 1.25), 1: (0.63, 1.15)},
}
# The lowest ESTOI of a clip with all codebooks; the mean mel distance of music and effects with all, at most
LOWEST = {"audiotok-base-16k": 0.92, "logmel-16khz": 0.81}
MUSIC = {"audiotok-base-16k": 0.26, "logmel-16khz": 0.26}
MEGABYTES = {"audiotok-base-16k": 12, "logmel-16khz": 4}
BFLOAT16 = {"audiotok-base-16k": 0.4, "logmel-16khz": 0.1}  # share of codes that change, at most


@functools.cache
def load(name: str) -> audiotok.Tokenizer:
    return audiotok.load(name)


def clip(path: Path, seconds: float) -> torch.Tensor:
    """The beginning of a file, [1, T] at 16 kHz."""
    return audiotok.audio.load(path, sample_rate=16000, channels=1)[0][:, : int(16000 * seconds)]


def test_the_default_is_the_codec():
    tok = audiotok.load()
    assert (audiotok.DEFAULT, tok.spec.name, tok.family) == ("audiotok-base-16k", "audiotok-base-16k", "codec")
    assert NAMES == ["audiotok-base-16k", "logmel-16khz"]
    assert set(NAMES) <= set(OFFLINE)


def test_the_default_loads_without_a_network():
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import sys, audiotok; t = audiotok.load(); c = t.encode_file(sys.argv[1]); w = t.decode(c)\n"
        "print(t.spec.name, *c.tokens.shape, *w.shape)"
    )
    path = ASSETS / "clips" / "speech_en_1.flac"
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["audiotok-base-16k", "1", "8", "135", "1", "1", "42896"]


@pytest.mark.parametrize("name", OFFLINE)
def test_every_tokenizer_that_needs_no_network_conforms_on_real_speech(name, speech):
    spec = load(name).spec
    check_tokenizer(load(name), [audiotok.audio.resample(row, 16000, spec.sample_rate) for row in speech])
    assert spec == audiotok.describe(name).spec


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_where_it_comes_from(name):
    folder, facts = ASSETS / name, load(name).provenance
    assert sum(path.stat().st_size for path in folder.iterdir()) < MEGABYTES[name] * 1e6
    weights = [value for key, value in load(name).state_dict().items() if not key.endswith("window")]
    millions = audiotok.describe(name).parameters_millions
    assert sum(value.numel() for value in weights) / 1e6 == pytest.approx(millions, rel=0.01)
    assert facts["license"] == "apache-2.0"
    assert facts["how"].startswith("scripts/")
    assert len(facts["sources"]) == 4
    assert "16 kHz, mono" in facts["limits"]
    card = (folder / "README.md").read_text("utf-8")
    assert "## Where it comes from" in card
    assert facts["how"] in card


@pytest.fixture(scope="module")
def scores(clips) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """ESTOI and PESQ-WB of every clip of speech, by tokenizer and number of codebooks."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {
        name: {count: [] for count in SPEECH[name]} for name in NAMES
    }
    for wav in (clip(path, 4.0) for path in clips if path.stem.startswith("speech")):
        clean = wav[0].numpy()
        for name, by_count in found.items():
            codes = load(name).encode(wav)
            for count, one in by_count.items():
                coded = load(name).decode(codes.truncate(count))[0, 0].numpy()
                one.append((float(stoi(clean, coded, 16000, extended=True)), pesq(16000, clean, coded, "wb")))
    return found


def means(scores: list[tuple[float, float]]) -> tuple[float, float]:
    assert len(scores) == 10
    return sum(estoi for estoi, _ in scores) / 10, sum(quality for _, quality in scores) / 10


@pytest.mark.parametrize("name", NAMES)
def test_speech_is_intelligible_and_sounds_right(name, scores):
    for count, (estoi, quality) in SPEECH[name].items():
        found = means(scores[name][count])
        assert found[0] > estoi, (count, found)
        assert found[1] > quality, (count, found)
    assert min(estoi for estoi, _ in scores[name][8]) > LOWEST[name]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_default_is_clearly_better_on_speech_than_log_mel(count, scores):
    ours, floor = (means(scores[name][count]) for name in NAMES)
    assert ours[0] > floor[0] + 0.08
    assert ours[1] > floor[1] + 0.5


@pytest.mark.parametrize("name", NAMES)
def test_music_and_effects_keep_their_spectra(name, clips):
    tok, wavs = load(name), [clip(path, 6.0) for path in clips if not path.stem.startswith("speech")]
    codes = [tok.encode(wav) for wav in wavs]
    means = [
        sum(
            mel_distance(Example(wav[0], tok.decode(one.truncate(count))[0, 0], 16000))
            for wav, one in zip(wavs, codes, strict=True)
        )
        / len(wavs)
        for count in (8, 4, 2, 1)
    ]
    assert len(wavs) == 4
    assert means[0] < MUSIC[name], means
    assert means == sorted(means)


@pytest.mark.parametrize("name", NAMES)
def test_every_codebook_more_is_more_intelligible(name, speech):
    tok = load(name)
    codes = tok.encode(speech[0])
    scores = [
        float(stoi(speech[0][0].numpy(), tok.decode(codes.truncate(k))[0, 0].numpy(), 16000)) for k in (1, 2, 4, 8)
    ]
    assert scores == sorted(scores)


@pytest.mark.parametrize("name", NAMES)
def test_parity_is_perfect_on_speech_music_and_effects(name, clips, parity_table):
    ways = parity(load(name), [clip(path, 6.0) for path in clips])
    parity_table.parity(name, ways)
    shares = {way.way: way.share for way in ways}
    assert {way: share for way, share in shares.items() if way not in ("bfloat16", "gpu")} == dict.fromkeys(
        ("again", "batch", "padded", "order", "chunked", "saved"), 0.0
    )
    assert 0 < shares["bfloat16"] < BFLOAT16[name]


@pytest.mark.parametrize("name", NAMES)
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(1, 20000), min_size=1, max_size=6), st.integers(0, 2**31), st.floats(-6, 0))
def test_any_mix_of_lengths_and_levels_gives_the_codes_of_each_row_alone(name, lengths, seed, level):
    tok, generator = load(name), torch.Generator().manual_seed(seed)
    rows = [10**level * torch.randn(1, count, generator=generator) for count in lengths]
    alone = [tok.encode(row[None]) for row in rows]
    tok.row_by_row, tok.max_padding = False, 1.0
    try:
        batch = tok.encode(rows)
    finally:
        tok.row_by_row, tok.max_padding = None, 0.25
    assert [torch.equal(one.tokens, row.tokens) for one, row in zip(alone, batch, strict=True)] == [True] * len(rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.0, 1e-9, 1.0, 1e4])
def test_silence_and_absurd_levels_code_and_decode(name, level):
    codes = load(name).encode(torch.full((1, 8000), level))
    wav = load(name).decode(codes)
    assert wav.shape == (1, 1, 8000)
    assert bool(wav.isfinite().all())
    if level < 1e-6:
        assert float(wav.abs().max()) < 1e-3
