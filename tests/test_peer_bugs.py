"""Bugs that users of other codec libraries reported or that show in their code, as promises of every codec here.

The threads are named by repository and number. What `check_tokenizer` asks of every tokenizer is not repeated, but for
the shapes that these bugs had.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from audiotok import Codes, Tokenizer, audio
from audiotok.backends.encodec import EnCodec
from audiotok.errors import InputError
from tests.backends.formats import FORMATS

CODECS = [
    "encodec",
    "encodec-48khz",
    "encodec-audiocraft",
    "dac",
    "mimi",
    "speechtokenizer",
    "wavtokenizer",
    "sqcodec-5",
    "sqcodec-9",
    "snac",
    "llmcodec",
    "hificodec-encoder",
    "ticodec-encoder",
    "esc-conv",
    "esc-swin",
    "facodec-v1-encoder",
    "facodec-v2-encoder",
    "s3tokenizer-v1-25hz",
    "s3tokenizer-v2-25hz",
    "xcodec",
    "xcodec2",
    "neucodec",
    "higgs-audio-v2",
]
every_codec = pytest.mark.parametrize("name", CODECS)
AUDIO_TOLERANCE = 1e-4  # of audio in -1..1; float32 sums in another order


@cache
def codec(name: str) -> Tokenizer:
    """The smallest fixture of a family, read once. Left as it is by every test."""
    form = next(form for form in FORMATS if form.name == name)
    return form.read(form.folder)


def spoken(tok: Tokenizer, speech: list[Tensor], seconds: float, row: int = 0) -> Tensor:
    """[C, T] of real speech at the codec's rate; the second channel is the first one later and softer."""
    wav = audio.resample(speech[row], 16000, tok.spec.sample_rate)[:, : round(seconds * tok.spec.sample_rate)]
    return torch.cat([wav, 0.5 * wav.roll(40)])[: tok.spec.channels]


def same(found: Codes, wanted: Codes) -> None:
    assert found.lengths.tolist() == wanted.lengths.tolist()
    assert found.num_samples.tolist() == wanted.num_samples.tolist()
    assert torch.equal(found.tokens, wanted.tokens)


def test_every_codec_is_here():
    assert {form.family for form in FORMATS if form.name in CODECS} == {form.family for form in FORMATS}


# ---- batches: transformers#43377, transformers#23655, FunCodec#9, Codec-SUPERB#51, neucodec#37, Spark-TTS#175 --------


@every_codec
def test_every_row_of_a_batch_has_its_own_codes_and_its_own_length(name, speech, monkeypatch):
    """Codec-SUPERB fails on more than one row, does not cut units to their rows, and takes the axis of chunks for that
    of rows (transformers#39431)."""
    tok = codec(name)
    rows = [spoken(tok, speech, seconds, i) for i, seconds in enumerate((1.3, 0.7, 0.42))]
    longest = max(row.shape[1] for row in rows)
    padded = torch.ones(len(rows), tok.spec.channels, longest)  # not zeros: nothing of it may be heard
    for target, row in zip(padded, rows, strict=True):
        target[:, : row.shape[1]] = row
    alone = [tok.encode([row]) for row in rows]
    monkeypatch.setattr(tok, "row_by_row", False)
    monkeypatch.setattr(tok, "max_padding", 1.0)
    for codes in (tok.encode(rows), tok.encode(padded, lengths=[row.shape[1] for row in rows])):
        assert codes.tokens.shape == (len(rows), tok.spec.num_codebooks, max(int(one.lengths) for one in alone))
        for i, one in enumerate(alone):
            same(codes[i], one)
            assert not codes.tokens[i, :, int(one.lengths) :].any()


@every_codec
def test_codes_do_not_depend_on_how_many_rows_share_a_call(name, speech, monkeypatch):
    """sglang-omni#774: another shape of the batch alone changed 41 of 300 codes."""
    tok = codec(name)
    row = spoken(tok, speech, 0.6)
    alone = tok.encode([row])
    monkeypatch.setattr(tok, "row_by_row", False)
    for count in (2, 3, 8):
        for one in tok.encode([row] * count):
            same(one, alone)


@every_codec
def test_a_row_is_not_what_its_neighbours_are(name, speech, monkeypatch):
    """A loud, a silent and a spoken row: norms over the batch, or one loudness for all, would change the last."""
    tok = codec(name)
    row = spoken(tok, speech, 0.5)
    alone = tok.encode([row])
    monkeypatch.setattr(tok, "row_by_row", False)
    loud, silent = torch.ones_like(row), torch.zeros_like(row)
    same(tok.encode([loud, silent, row])[2], alone)


# ---- rates: Codec-SUPERB ignores sampling_rate -----------------------------------------------------------------------


@every_codec
def test_audio_at_another_rate_is_resampled(name, speech):
    tok = codec(name)
    rate = 16000 if tok.spec.sample_rate != 16000 else 24000
    wav = audio.resample(speech[0], 16000, rate)[:, : rate * 8 // 10].expand(tok.spec.channels, -1)
    found = tok.encode([wav], sample_rate=rate)
    same(found, tok.encode([audio.resample(wav, rate, tok.spec.sample_rate)]))
    assert found.num_samples.tolist() == [tok.spec.sample_rate * 8 // 10]
    taken_for_its_own = tok.encode([wav])
    assert taken_for_its_own.num_samples.tolist() == [wav.shape[1]]
    frames = min(int(found.lengths), int(taken_for_its_own.lengths))
    assert not torch.equal(found.tokens[..., :frames], taken_for_its_own.tokens[..., :frames])


# ---- lengths: DAC#37, DAC#45, snac#33, AudioDec#40, vllm-omni#4706 ---------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CODECS if codec(name).spec.decodable])
def test_audio_comes_back_as_long_as_it_was(name, speech):
    """DAC gave 31992 of 32000 samples, SNAC 10 s of 2 s."""
    tok = codec(name)
    for wav in (spoken(tok, speech, 1.0).repeat(1, 2)[:, : 2 * tok.spec.sample_rate], spoken(tok, speech, 0.5)[:, :-7]):
        back = tok.decode(tok.encode([wav]))
        assert back.shape == (1, tok.spec.channels, tok.spec.output_samples(wav.shape[1]))
        tail = back[0, :, -tok.spec.output_hop_length :]
        assert tail.abs().max() > 0, "the end is there, and not filled up"


def test_dac_gives_32000_samples_of_32000(speech):
    tok = codec("dac")
    assert tok.decode(tok.encode(torch.cat([speech[0], speech[1]], 1)[:, :32000])).shape == (1, 1, 32000)


def test_snac_gives_two_seconds_of_two_seconds(speech):
    tok = codec("snac")
    wav = spoken(tok, [torch.cat(speech, 1)], 2.0)
    assert tok.decode(tok.encode([wav])).shape[2] == 2 * tok.spec.sample_rate


# ---- long audio: encodec#71, DAC#39, DAC#22, X-Codec-2.0#28, S3Tokenizer#47, audio.cpp#436 ---------------------------


@every_codec
@pytest.mark.parametrize("seconds", [0.11, 0.37])
def test_long_audio_in_pieces_has_the_codes_of_the_whole(name, seconds, speech, monkeypatch):
    tok = codec(name)
    wav = spoken(tok, speech, 2.0)
    whole = tok.encode([wav])
    monkeypatch.setattr(tok, "chunk_seconds", seconds)
    pieces = tok.encode([wav])
    assert pieces.tokens.shape == whole.tokens.shape
    share = float((pieces.tokens != whole.tokens).float().mean())
    assert share <= tok.chunk_miss_rate
    if not tok.chunk_miss_rate:
        same(pieces, whole)


@pytest.mark.parametrize("name", ["encodec", "dac", "mimi", "speechtokenizer", "snac"])
def test_cutting_audio_oneself_changes_codes(name, speech):
    """So the test above has something to find."""
    tok = codec(name)
    hop = tok.spec.hop_length
    wav = spoken(tok, speech, 1.5)[:, : 16 * hop]
    halves = [tok.encode([half]).tokens for half in wav.split(8 * hop, 1)]
    whole = tok.encode([wav]).tokens
    assert torch.cat(halves, 2).shape == whole.shape
    assert not torch.equal(torch.cat(halves, 2), whole)


def test_all_segments_of_48_khz_audio_are_kept(speech):
    """audiocodecs keeps the first of them."""
    tok = codec("encodec-48khz")
    assert isinstance(tok, EnCodec)
    wav = spoken(tok, speech, 1.5)
    codes = tok.encode([wav])
    assert codes.extras["segment_frames"].tolist() == [[45, 45, 45, 45, 45, 3]]
    assert codes.tokens.shape == (1, tok.spec.num_codebooks, 228)
    for i, found in enumerate(codes.tokens[:, :, :225].split(45, 2)):
        start = i * tok.segment_step
        part = wav[:, start : start + 14400]
        one = tok.encode([part])  # a segment, and a second one of what the next would overlap
        assert torch.equal(found, one.tokens[:, :, :45])
    back = tok.decode(codes)
    assert back.shape == (1, 2, wav.shape[1])
    assert all(part.abs().max() > 0 for part in back[0].split(tok.segment_step, 1))


# ---- joints and streams: moshi#177, BigCodec#21, focalcodec#5, Encodec-Stream#1, MOSS-Audio-Tokenizer#11 -------------


@pytest.mark.parametrize("name", [name for name in CODECS if codec(name).spec.decodable])
def test_audio_decoded_in_pieces_has_no_clicks(name, speech, monkeypatch):
    tok = codec(name)
    codes = tok.encode([spoken(tok, speech, 2.0)])
    whole = tok.decode(codes)
    for seconds in (0.11, 0.37):
        monkeypatch.setattr(tok, "chunk_seconds", seconds)
        assert (tok.decode(codes) - whole).abs().max() <= AUDIO_TOLERANCE


@pytest.mark.parametrize("name", [name for name in CODECS if codec(name).spec.streamable])
@pytest.mark.parametrize("milliseconds", [7, 80, 1000])
def test_a_stream_drops_no_tail_and_has_the_codes_and_the_audio_of_the_whole(name, milliseconds, speech):
    tok = codec(name)
    rate, hop = tok.spec.sample_rate, tok.spec.hop_length
    wav = spoken(tok, speech, 1.0)
    wav = wav[:, : wav.shape[1] // hop * hop - hop + 1]  # one sample in the last frame
    whole = tok.encode([wav])
    with tok.stream() as stream:
        parts = [stream.push(part[None]) for part in wav.split(rate * milliseconds // 1000, 1)]
        parts.append(stream.flush())
    same(Codes.join(parts), whole)
    with tok.decode_stream() as back:
        pieces = [*map(back.push, parts), back.flush()]
    found, wanted = torch.cat(pieces, 2), tok.decode(whole)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= AUDIO_TOLERANCE


# ---- odd audio: VoiceCraft#50, encodec#87 ----------------------------------------------------------------------------


def odd_audio(rate: int, channels: int) -> dict[str, Tensor]:
    time = torch.arange(rate // 4)
    return {
        "silence": torch.zeros(channels, rate // 4),
        "a clipped square wave": (time * 200 // rate % 2 * 2.0 - 1.0).expand(channels, -1),
        "a constant": torch.full((channels, rate // 4), 0.7),
        "one click": (time == rate // 8).float().expand(channels, -1),
        "noise near nothing": 1e-30 * torch.randn(channels, rate // 4, generator=torch.Generator().manual_seed(0)),
        "far beyond full scale": 100 * torch.sin(0.1 * time).expand(channels, -1),
        "10 ms": 0.3 * torch.sin(0.1 * time[: rate // 100]).expand(channels, -1),
        "one sample": torch.full((channels, 1), 0.5),
        "one sample of silence": torch.zeros(channels, 1),
    }


@every_codec
@pytest.mark.parametrize("what", odd_audio(100, 1))
def test_odd_audio_has_codes_and_comes_back(name, what, monkeypatch):
    tok = codec(name)
    wav = odd_audio(tok.spec.sample_rate, tok.spec.channels)[what]
    codes = tok.encode([wav])
    assert codes.num_samples.tolist() == [wav.shape[1]]
    assert codes.tokens.shape[2] == int(codes.lengths) >= 1
    for size, row in zip(tok.spec.codebook_sizes, codes.tokens[0], strict=True):
        assert 0 <= int(row.min()) <= int(row.max()) < size
    same(tok.encode([wav]), codes)
    monkeypatch.setattr(tok, "row_by_row", False)
    for one in tok.encode([wav, wav]):
        same(one, codes)
    if tok.spec.decodable:
        back = tok.decode(codes)
        assert back.shape == (1, tok.spec.channels, tok.spec.output_samples(wav.shape[1]))
        assert bool(back.isfinite().all())


@every_codec
def test_whole_numbers_are_the_same_audio(name, speech):
    tok = codec(name)
    whole = (spoken(tok, speech, 0.4) * 32768).round().clamp(-32768, 32767).to(torch.int16)
    whole[:, :2] = torch.tensor([-32768, 32767])
    same(tok.encode([whole]), tok.encode([whole.float() / 32768]))


@every_codec
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_audio_that_is_no_number_is_refused(name, value, speech):
    tok = codec(name)
    wav = spoken(tok, speech, 0.3)
    wav[-1, -1] = value
    with pytest.raises(InputError, match="row 1 holds NaN or infinite samples"):
        tok.encode([torch.zeros_like(wav), wav])


@every_codec
def test_channels_are_counted_and_never_guessed(name, speech):
    """encodec#87: two mono rows are no stereo, and stereo is not mixed silently."""
    tok = codec(name)
    other = torch.zeros(1, 3 - tok.spec.channels, 2)
    with pytest.raises(InputError, match="takes (mono|stereo) audio"):
        tok.encode(other)
