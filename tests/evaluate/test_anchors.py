"""Opus and Codec 2 beside tokenizers.

The programs behind them are not everywhere: here stand-ins on PATH take their place, Opus's with the real codec that
libsndfile carries. The programs themselves are tested with `-m slow`.
"""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiotok import audio
from audiotok.errors import MissingDependencyError
from audiotok.evaluate.anchors import CODEC2_MODES, ogg_packet_sizes
from audiotok.evaluate.programs import Program, ProgramError
from audiotok.evaluate.systems import open_system

OPUSENC = f"""#!{sys.executable}
import argparse, io, sys, numpy, soundfile
parser = argparse.ArgumentParser()
for name in ("bits", "chan", "rate"):
    parser.add_argument("--raw-" + name, type=int)
parser.add_argument("--raw", action="store_true")
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--bitrate", type=float)
parser.add_argument("paths", nargs=2)
given = parser.parse_args()
assert (given.raw, given.raw_bits, given.raw_chan, given.paths) == (True, 16, 1, ["-", "-"])
samples, file = numpy.frombuffer(sys.stdin.buffer.read(), "<i2"), io.BytesIO()
soundfile.write(file, samples, given.raw_rate, "OPUS", format="OGG")
sys.stdout.buffer.write(file.getvalue())
"""
OPUSDEC = f"""#!{sys.executable}
import io, sys, soundfile
assert sys.argv[1:] == ["--quiet", "--float", "--rate", "16000", "-", "-"]
samples, rate = soundfile.read(io.BytesIO(sys.stdin.buffer.read()), dtype="float32")
assert rate == 16000
sys.stdout.buffer.write(samples.astype("<f4").tobytes())
"""
COPY = "#!/bin/sh\nexec cat\n"
LATE = "#!/bin/sh\nhead -c {bytes} /dev/zero\nexec cat\n"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Writes programs that stand in for others; nothing else is on PATH but a shell's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        return tmp_path

    return write


# ---- the audio keeps its place ---------------------------------------------------------------------------------------


def test_opus_comes_back_in_step_and_counts_its_packets(programs, speech):
    programs(opusenc=OPUSENC, opusdec=OPUSDEC)
    system, wav = open_system("opus:24"), speech[0]
    outcome = system.run(wav, 16000)
    assert (system.label, system.tokenizer, outcome.codes) == ("Opus 24 kbit/s", None, None)
    assert outcome.wav.shape == wav.shape
    assert lag(wav[0], outcome.wav[0]) == pytest.approx(0, abs=0.05)
    assert float((wav - outcome.wav).square().mean() / wav.square().mean()) < 0.05
    assert 0 < outcome.bits < 16 * wav.shape[1]
    assert outcome.encode_seconds > 0
    assert outcome.decode_seconds > 0


def test_opus_counts_neither_headers_nor_their_container(programs, tmp_path):
    (tmp_path / "stream").write_bytes(ogg([19, 60, 100, 50], 3))
    programs(opusenc=f"#!/bin/sh\ncat {tmp_path}/stream\n", opusdec="#!/bin/sh\nhead -c 3600 /dev/zero\n")
    assert open_system("opus:6").run(torch.zeros(1, 900), 16000).bits == 8 * (100 + 50)


@pytest.mark.parametrize("mode", CODEC2_MODES)
def test_codec2_takes_off_its_delay_and_counts_its_frames(programs, speech, mode):
    """With an encoder that copies and a decoder that comes late, the audio itself must come back."""
    facts = CODEC2_MODES[mode]
    programs(c2enc=COPY, c2dec=LATE.format(bytes=2 * facts.delay))
    wav = audio.resample(speech[0], 16000, 8000)
    outcome = open_system(f"codec2:{mode}").run(wav, 8000)
    assert float((outcome.wav - wav).abs().max()) <= 0.5 / 32768
    frames = -(-(wav.shape[1] + facts.delay) // facts.samples)
    assert outcome.bits == frames * facts.bits
    assert facts.bits * 8000 / facts.samples == (700 if mode == "700C" else int(mode))


def test_other_rates_are_resampled_there_and_back(programs, speech):
    programs(c2enc=COPY, c2dec=LATE.format(bytes=320))
    for rate in (16000, 22050, 44100):
        wav = audio.resample(speech[0], 16000, rate)
        outcome = open_system("codec2:3200").run(wav, rate)
        assert outcome.wav.shape == wav.shape
        low = audio.resample(audio.resample(wav, rate, 8000), 8000, rate)[:, : wav.shape[1]]
        assert float((outcome.wav[:, : low.shape[1]] - low).abs().max()) < 1e-3


@pytest.mark.parametrize("count", [1, 2, 5, 159, 160, 161])
def test_very_short_audio(programs, count):
    programs(c2enc=COPY, c2dec=LATE.format(bytes=320))
    assert open_system("codec2:3200").run(torch.full((1, count), 0.5), 44100).wav.shape == (1, count)


def test_samples_beyond_full_scale_are_clipped(programs):
    programs(c2enc=COPY, c2dec=LATE.format(bytes=320))
    found = open_system("codec2:3200").run(torch.tensor([[2.0, -2.0, 1.0, -1.0, 0.5]]), 8000).wav
    assert found.tolist() == [[32767 / 32768, -1.0, 32767 / 32768, -1.0, 0.5]]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "there", "message"),
    [
        ("opus:6", [], "needs the program opusenc: apt install opus-tools"),
        ("opus:6", ["opusenc"], "needs the program opusdec: apt install opus-tools"),
        ("codec2:1300", [], "needs the program c2enc: apt install codec2"),
        ("codec2:1300", ["c2enc"], "needs the program c2dec: apt install codec2"),
    ],
)
def test_a_missing_program_names_the_package(programs, monkeypatch, text, there, message):
    folder = programs(**dict.fromkeys(there, COPY))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(MissingDependencyError, match=message):
        open_system(text)


@pytest.mark.parametrize(
    ("text", "encoder", "decoder", "message"),
    [
        (
            "codec2:3200",
            "echo first >&2; echo 'no such mode ' >&2; exit 3",
            "cat",
            "c2enc ended with exit code 3: no such mode$",
        ),
        ("codec2:3200", "cat", "exit 1", "c2dec ended with exit code 1: it said nothing$"),
        ("codec2:3200", "cat", "head -c 100", "codec2:3200 gave 0 samples for 900"),
        ("opus:6", "echo hello", "cat", "the Ogg stream is broken 0 bytes after its beginning"),
        ("opus:6", "exit 0", "head -c 40", "opus:6 gave 0 samples for 900"),
    ],
)
def test_a_program_that_fails_says_why(programs, text, encoder, decoder, message):
    script = "#!/bin/sh\n{}\n"
    names = ("opusenc", "opusdec") if text.startswith("opus") else ("c2enc", "c2dec")
    programs(**{names[0]: script.format(encoder), names[1]: script.format(decoder)})
    rate = 16000 if text.startswith("opus") else 8000
    with pytest.raises(ProgramError, match=message):
        open_system(text).run(torch.zeros(1, 900), rate)


def test_a_program_that_cannot_be_started(programs):
    programs(c2enc="\0no program\0")
    with pytest.raises(ProgramError, match="c2enc cannot be started"):
        Program("c2enc", "codec2")([], b"")


# ---- Ogg -------------------------------------------------------------------------------------------------------------


def ogg(sizes: list[int], segments_per_page: int) -> bytes:
    """An Ogg stream of packets of zeros, as RFC 3533 lays it out; checksums and numbers are left at 0."""
    lacing = [part for size in sizes for part in [255] * (size // 255) + [size % 255]]
    pages = []
    for start in range(0, len(lacing), segments_per_page):
        table = bytes(lacing[start : start + segments_per_page])
        pages.append(b"OggS" + bytes(22) + struct.pack("B", len(table)) + table + bytes(sum(table)))
    return b"".join(pages)


@given(
    sizes=st.lists(st.one_of(st.integers(0, 100), st.sampled_from([254, 255, 256, 509, 510, 511, 70000])), max_size=20),
    segments_per_page=st.integers(1, 255),
)
@settings(max_examples=100, deadline=None)
def test_packets_of_any_size_are_found_again(sizes, segments_per_page):
    assert ogg_packet_sizes(ogg(sizes, segments_per_page)) == sizes


@pytest.mark.parametrize("cut", [1, 26, 27, 28, 40])
def test_an_ogg_stream_that_is_cut_off(cut):
    data = ogg([30, 5], 255)
    with pytest.raises(ProgramError, match="broken 0 bytes"):
        ogg_packet_sizes(data[:cut])
    with pytest.raises(ProgramError, match=f"broken {len(data)} bytes"):
        ogg_packet_sizes(data + data[:cut])


# ---- the programs themselves -----------------------------------------------------------------------------------------


def lag(wav: Tensor, later: Tensor, rate: int = 16000) -> float:
    """Samples by which a waveform comes later than another, to a fiftieth of one, at 200 to 3400 Hz."""
    crossed = torch.fft.rfft(later) * torch.fft.rfft(wav).conj()
    hertz = torch.fft.rfftfreq(len(wav), 1 / rate)
    band = (hertz > 200) & (hertz < 3400)
    shifts = torch.arange(-3, 3, 0.02)
    turned = torch.exp(2j * torch.pi * shifts[:, None] * hertz[band] / rate) * crossed[band]
    return float(shifts[turned.real.sum(1).argmax()])


def envelope_lag(pairs: list[tuple[Tensor, Tensor]], rate: int = 16000) -> float:
    """Seconds by which the magnitudes of short-time spectra at 200 to 3400 Hz come later than others, all pairs taken
    together, to 1 ms. Phases do not matter: Codec 2 makes its own."""
    size, hop, reach = 192, rate // 1000, 20
    band = slice(200 * size // rate, 3400 * size // rate)
    scores = torch.zeros(2 * reach + 1)
    for wav, later in pairs:
        one, other = (
            torch.stft(x, size, hop, window=torch.hann_window(size), return_complex=True)[band].abs()
            for x in (wav, later)
        )
        one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
        frames = one.shape[1]
        for i, shift in enumerate(range(-reach, reach + 1)):
            a = one[:, max(0, -shift) : frames - max(0, shift)]
            b = other[:, max(0, shift) : frames - max(0, -shift)]
            scores[i] += torch.nn.functional.cosine_similarity(a, b, 1).mean()
    return (int(scores.argmax()) - reach) / 1000


@pytest.fixture(scope="module")
def ten_clips() -> list[Tensor]:
    files = sorted((Path(__file__).parents[1] / "data" / "audio").glob("speech_*.flac"))
    assert len(files) == 10
    return [audio.load(file, sample_rate=16000, channels=1)[0] for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["opus:6", "codec2:3200", "codec2:1300", "codec2:700C"])
def test_programs_give_back_as_many_samples_as_they_got(text):
    system = open_system(text)
    for count in (1, 2, 100, 319, 320, 321, 16000, 16001, 100003):
        for rate in (8000, 16000, 44100):
            wav = 0.1 * torch.randn(1, count, generator=torch.Generator().manual_seed(count))
            assert system.run(wav, rate).wav.shape == (1, count)


@pytest.mark.slow
def test_real_opus_is_in_step_to_a_fraction_of_a_sample(ten_clips):
    system = open_system("opus:64")
    outcomes = [system.run(wav, 16000) for wav in ten_clips]
    for wav, outcome in zip(ten_clips, outcomes, strict=True):
        assert lag(wav[0], outcome.wav[0]) == pytest.approx(0, abs=0.05)
    seconds = sum(wav.shape[1] for wav in ten_clips) / 16000
    assert (
        64000 < sum(outcome.bits for outcome in outcomes) / seconds < 96000
    )  # speech makes it take more than was asked


@pytest.mark.slow
@pytest.mark.parametrize("mode", CODEC2_MODES)
def test_real_codec2_is_in_step(ten_clips, mode):
    system = open_system(f"codec2:{mode}")
    pairs = [(wav[0], system.run(wav, 16000).wav[0]) for wav in ten_clips]
    assert abs(envelope_lag(pairs)) <= 0.002
    later = [(wav, torch.roll(found, 160)) for wav, found in pairs]
    assert abs(envelope_lag(later) - 0.01) <= 0.002  # it would be seen


@pytest.mark.slow
def test_real_programs_sound_as_they_did(ten_clips):
    """Mean ESTOI on these clips, by pystoi; the more bits, the better."""
    from pystoi import stoi

    found = {}
    for text in ("opus:6", "opus:12", "codec2:3200", "codec2:1200"):
        outcomes = [open_system(text).run(wav, 16000) for wav in ten_clips]
        scores = [
            stoi(wav[0].numpy(), outcome.wav[0].numpy(), 16000, extended=True)
            for wav, outcome in zip(ten_clips, outcomes, strict=True)
        ]
        found[text] = float(np.mean(scores))
    assert found["codec2:1200"] < found["codec2:3200"] < found["opus:12"]
    assert found["opus:6"] < found["opus:12"]
    figures = {
        "opus:6": 0.881,
        "opus:12": 0.960,
        "codec2:3200": 0.801,
        "codec2:1200": 0.721,
    }  # opusenc 0.2, c2enc 1.0.5
    assert found == pytest.approx(figures, abs=0.02)
