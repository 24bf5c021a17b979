"""What can be evaluated: names and numbers of codebooks, lengths, rates, channels, sizes in bits."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import audiotok
from audiotok import Codes, Spec, Tokenizer, convert
from audiotok.errors import InputError, UnsupportedError
from audiotok.evaluate import systems
from audiotok.evaluate.systems import TokenizerSystem, open_system, size_in_bits

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Steps(Tokenizer):
    """Stereo at 8 kHz in, 16 kHz out: 7 entries for the mean of each half of a frame of both channels, and a right
    channel of nothing but zeros."""

    family = "steps"

    def __init__(self, *, decodable: bool = True) -> None:
        spec = Spec(
            "steps",
            sample_rate=8000,
            hop_length=4,
            codebook_sizes=(7, 7),
            channels=2,
            output_sample_rate=16000,
            decodable=decodable,
        )
        super().__init__(spec)

    def _config(self) -> dict[str, object]:
        return {}

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        frames = self.num_frames(wav.shape[2])
        halves = (
            torch.nn.functional.pad(wav, (0, 4 * frames - wav.shape[2])).view(len(wav), 2, frames, 2, 2).mean((1, 4))
        )
        return (3 * halves + 3).round().long().clamp(0, 6).transpose(1, 2), {}

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        left = ((tokens - 3) / 3).transpose(1, 2).repeat_interleave(4, 2).flatten(1)
        return torch.stack([left, torch.zeros_like(left)], 1)


@pytest.fixture
def wav(speech) -> Tensor:
    return speech[0]


def test_a_tokenizer_sends_its_codes(wav):
    system, tok = open_system("default"), audiotok.load()
    outcome = system.run(wav, 16000)
    assert (system.text, system.label) == ("default", tok.spec.name)
    assert system.tokenizer.fingerprint == tok.fingerprint
    wanted = tok.encode(wav)
    assert torch.equal(outcome.codes.tokens, wanted.tokens)
    assert torch.equal(outcome.wav, tok.decode(wanted)[0])
    frames = math.ceil(wav.shape[1] / tok.spec.hop_length)
    assert outcome.bits == frames * sum(math.log2(size) for size in tok.spec.codebook_sizes)
    assert outcome.encode_seconds > 0
    assert outcome.decode_seconds > 0


def test_the_first_codebooks_by_a_number(wav):
    for text in ("default:3", "logmel-16khz:3"):
        system = open_system(text)
        spec = system.tokenizer.full_spec
        assert system.label == f"{spec.name}, 3 of {spec.num_codebooks} codebooks"
        outcome = system.run(wav, 16000)
        assert outcome.codes.tokens.shape[1] == 3
        whole = system.tokenizer.use_codebooks(spec.num_codebooks).encode(wav)
        assert torch.equal(outcome.codes.tokens, whole.tokens[:, :3])
    assert open_system("logmel-16khz:8").label == "logmel-16khz"


@settings(max_examples=12, deadline=None)
@given(count=st.integers(1, 6000), rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
def test_what_comes_back_is_as_long_as_what_went_in(small, count, rate):
    wav = 0.1 * torch.randn(1, count, generator=torch.Generator().manual_seed(count))
    for tokenizer in (small, Steps()):
        outcome = TokenizerSystem("x", "x", tokenizer).run(wav, rate)
        assert outcome.wav.shape == wav.shape
        assert outcome.wav.dtype == torch.float32
        samples = math.floor(count * tokenizer.spec.sample_rate / rate + 0.5)
        assert outcome.codes.num_samples.tolist() == [max(1, samples)]


def test_other_rates_are_resampled_there_and_back(wav):
    system, tok = open_system("default"), audiotok.load()
    high = audiotok.audio.resample(wav, 16000, 44100)
    outcome = system.run(high, 44100)
    codes = tok.encode(high, 44100)
    assert torch.equal(outcome.codes.tokens, codes.tokens)
    back = audiotok.audio.resample(tok.decode(codes)[0], 16000, 44100)
    assert torch.equal(outcome.wav[:, : back.shape[1]], back[:, : outcome.wav.shape[1]])


def test_mono_audio_goes_to_every_channel_and_comes_back_as_their_mean():
    outcome = TokenizerSystem("steps", "steps", Steps()).run(torch.full((1, 8000), 0.66), 8000)
    assert set(outcome.codes.tokens.flatten().tolist()) == {5}  # 3 * 0.66 + 3
    middle = outcome.wav[0, 1000:-1000]
    assert torch.allclose(middle, torch.tensor(1 / 3), atol=1e-3)  # of 2/3 on the left and 0 on the right


def test_fractions_of_a_bit_count():
    outcome = TokenizerSystem("steps", "steps", Steps()).run(torch.zeros(1, 8000), 8000)
    assert outcome.bits == pytest.approx(2000 * 2 * math.log2(7), abs=1e-6)
    assert outcome.bits == pytest.approx(Steps().spec.bitrate_bps)


def test_what_travels_beside_the_tokens_counts(wav):
    tok = convert("encodec", FIXTURES / "encodec-native" / "48k-stereo-chunked")
    outcome = TokenizerSystem("x", "x", tok).run(wav, 16000)
    codes = outcome.codes
    assert outcome.wav.shape == wav.shape
    assert set(codes.extras) == {"scale", "segment_frames"}
    tokens = int(codes.lengths[0]) * sum(math.log2(size) for size in codes.spec.codebook_sizes)
    segments = codes.extras["scale"].numel()
    bits = int(codes.extras["segment_frames"].max()).bit_length()
    assert outcome.bits == tokens + segments * 32 + codes.extras["segment_frames"].numel() * bits


def test_only_valid_frames_of_a_batch_count():
    spec = Spec("x", sample_rate=16000, hop_length=320, codebook_sizes=(1024, 256))
    codes = Codes(torch.zeros(2, 2, 9, dtype=torch.int64), torch.tensor([9, 4]), torch.tensor([2880, 1280]), spec)
    assert size_in_bits(codes) == 13 * 18
    extras = {"none": torch.zeros(2, 0, dtype=torch.int64), "half": torch.zeros(2, 3, dtype=torch.float16)}
    assert size_in_bits(Codes(codes.tokens, codes.lengths, codes.num_samples, spec, extras=extras)) == 13 * 18 + 96


def test_the_audio_itself_is_the_best_there_can_be(wav):
    system = open_system("original")
    outcome = system.run(wav, 16000)
    assert torch.equal(outcome.wav, wav)
    assert (system.label, system.tokenizer, outcome.codes, outcome.bits) == ("original", None, None, 16 * wav.shape[1])
    assert outcome.encode_seconds == outcome.decode_seconds == 0


def test_folders_with_and_without_a_number(small, tmp_path, monkeypatch):
    small.save(tmp_path / "run")
    small.use_codebooks(2).save(tmp_path / "odd:1")
    small.use_codebooks(3)
    monkeypatch.chdir(tmp_path)
    found = {
        text: (open_system(text).label, open_system(text).tokenizer.spec.num_codebooks)
        for text in ("./run", "./run:2", f"{tmp_path}/run:1", "./odd:1", "./odd:1:3")
    }
    assert found == {
        "./run": ("run", 3),
        "./run:2": ("run, 2 of 3 codebooks", 2),
        f"{tmp_path}/run:1": ("run, 1 of 3 codebooks", 1),
        "./odd:1": ("odd:1, 2 of 3 codebooks", 2),  # saved with two
        "./odd:1:3": ("odd:1", 3),
    }


def test_a_number_behind_a_repository_and_its_revision(monkeypatch, small):
    asked = []
    monkeypatch.setattr(systems, "load", lambda name, device: asked.append(name) or small)
    found = [
        open_system(text).tokenizer.spec.num_codebooks for text in ("user/repo", "user/repo:2", "user/repo@v1.0:1")
    ]
    small.use_codebooks(3)
    assert (asked, found) == (["user/repo", "user/repo", "user/repo@v1.0"], [3, 2, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logmel-16khz:9", "'logmel-16khz:9': logmel-16khz has 1 to 8 codebooks, not 9"),
        ("logmel-16khz:0", "has 1 to 8 codebooks, not 0"),
        ("default:x", "after ':' comes the number of codebooks to use, not 'x'"),
        ("default:", "after ':' comes the number of codebooks to use, not ''"),
        ("default:-1", "not '-1'"),
        ("mimmi:4", "no tokenizer named 'mimmi'; the nearest are mimi.*anchors are opus:KBPS, codec2:BPS, original"),
        ("opsu:6", "no tokenizer named 'opsu'.*anchors are opus:KBPS"),
        ("./gone", r"'\./gone': no such folder: gone$"),
        ("./gone:2", "no such folder: gone$"),
        ("./gone:x", r"not 'x', and there is no folder \./gone:x"),
        ("a/b/c:2", r"a folder is written \./a/b/c"),
        ("", "no tokenizer named ''"),
        ("opus", "opus wants 6 to 256 kbit/s, for example opus:8"),
        ("opus:5.9", "opus wants 6 to 256 kbit/s"),
        ("opus:257", "opus wants 6 to 256 kbit/s"),
        ("opus:1e2", "opus wants 6 to 256 kbit/s"),
        ("opus:nan", "opus wants 6 to 256 kbit/s"),
        ("codec2:3000", "codec2 wants one of 3200, 2400, 1600, 1400, 1300, 1200, 700C, for example codec2:3200"),
        ("original:8", "'original:8' is no anchor: there are opus:KBPS, codec2:BPS, original"),
    ],
)
def test_text_that_names_nothing_says_what_would(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        open_system(text)


def test_a_tokenizer_whose_rows_do_not_come_apart_takes_no_number(tmp_path):
    convert("sqcodec", FIXTURES / "sqcodec" / "levels5_noncausal", levels=5).save(tmp_path / "sq")
    rows = open_system(str(tmp_path / "sq")).tokenizer.spec.num_codebooks
    assert open_system(f"{tmp_path}/sq:{rows}").label == "sq"
    with pytest.raises(InputError, match=f"needs all its {rows} codebooks"):
        open_system(f"{tmp_path}/sq:1")


def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used here"):
        open_system("default", "cuda:99")


@pytest.mark.parametrize("text", ["default", "original"])
@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (
            torch.zeros(2, 100),
            r"wants mono audio \[1, T\] of floats, not \[2, 100\] torch.float32: .*channels=1\) mixes it",
        ),
        (torch.zeros(100), r"not \[100\]"),
        (torch.zeros(1, 0), r"not \[1, 0\]"),
        (torch.zeros(1, 9, dtype=torch.int16), "torch.int16"),
        (torch.tensor([[0.0, math.nan]]), "wants finite audio"),
        (torch.tensor([[0.0, math.inf]]), "wants finite audio"),
    ],
)
def test_audio_that_cannot_be_used(text, wav, message):
    with pytest.raises(InputError, match=message):
        open_system(text).run(wav, 16000)


def test_a_tokenizer_that_only_encodes_gives_codes_but_no_audio(wav):
    system = TokenizerSystem("x", "x", Steps(decodable=False))
    codes, seconds = system.encode(wav, 16000)
    assert torch.equal(codes.tokens, Steps().encode(wav.expand(2, -1)[None], 16000).tokens)
    assert seconds > 0
    with pytest.raises(UnsupportedError, match="steps only encodes"):
        system.run(wav, 16000)
