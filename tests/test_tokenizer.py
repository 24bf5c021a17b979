"""The base class, through a small fitted tokenizer and through networks made up to break it."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audiotok import Codes, Spec, Tokenizer, audio, register_family
from audiotok.errors import AudiotokError, CodesMismatchError, InputError, UnsupportedError
from audiotok.testing import ConformanceError, check_tokenizer, parity

SPEC = Spec("toy", sample_rate=8000, hop_length=4, codebook_sizes=(256,), batching="bucket")


@register_family
class Mean(Tokenizer):
    """Token = mean of the samples of a frame in 256 steps. `leak` reads the whole padded row, as peers do."""

    family = "test-mean"

    def __init__(self, spec: Spec = SPEC, leak: bool = False):
        super().__init__(spec)
        self.leak = leak
        self.calls: list[tuple[int, ...]] = []

    def _config(self):
        return {"leak": self.leak}

    def _encode(self, wav: Tensor, lengths: Tensor):
        self.calls.append(tuple(wav.shape))
        frames = nn.functional.pad(wav, (0, -wav.shape[2] % self.spec.hop_length)).unfold(2, 4, 4)
        value = frames.mean((1, 3))
        if self.leak:
            value = value - wav.mean((1, 2))[:, None]
        return ((value.clamp(-1, 1) + 1) * 127.5).round().long()[:, None], {}

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]):
        return (tokens[:, 0, :, None] / 127.5 - 1).expand(-1, -1, 4).reshape(len(tokens), 1, -1)


def rows_of(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, count, generator=generator) - 0.5 for count in counts]


# ---- input: the rank says what it is ---------------------------------------------------------------


def test_rank_decides_the_meaning_never_the_size(small):
    wav = torch.randn(2, 1000) * 0.1
    assert len(small.encode(wav)) == 2  # two mono rows, not one stereo row
    assert len(small.encode(wav[0])) == 1
    assert len(small.encode(wav[:, None])) == 2
    with pytest.raises(InputError, match="takes mono audio, not 2 channels: mix down first"):
        small.encode(wav[None])


def test_all_kinds_of_input_give_the_same_codes(small, speech):
    whole = (speech[0] * 32768).round().to(torch.int16)
    wanted = small.encode(whole).tokens
    for wav in (whole[0], whole.numpy(), whole[0].numpy(), [whole[0]], [whole.numpy()], whole[None], whole / 32768.0):
        assert torch.equal(small.encode(wav).tokens, wanted)
    assert torch.equal(small.encode((whole[0] / 32768.0).tolist()).tokens, wanted)
    assert torch.equal(small.encode(whole.numpy().astype(np.float64) / 32768).tokens, wanted)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.zeros(1, 1, 1, 100), r"wants \[T\], \[B, T\], \[B, C, T\] or a list"),
        (torch.tensor(1.0), r"not \[\]"),
        (torch.zeros(0), "row 0 is empty"),
        (torch.zeros(0, 100), "at least one row"),
        ([], "row 0 is empty"),
        ([torch.zeros(100), torch.zeros(0)], "row 1 is empty"),
        ([torch.zeros(1, 1, 100)], "row 0 is"),
        ([torch.zeros(100), torch.full((10,), torch.nan)], "row 1 holds NaN or infinite"),
        (torch.tensor([0.0, torch.inf]), "row 0 holds NaN or infinite"),
        (torch.zeros(100, dtype=torch.int32), "int16 or float, not torch.int32"),
        (torch.zeros(100, dtype=torch.bool), "int16 or float"),
        (torch.zeros(100, dtype=torch.complex64), "int16 or float"),
        ("speech.flac", "int16 or float|tensor, an array or a list"),
        (None, "int16 or float|tensor, an array or a list"),
    ],
)
def test_wrong_audio_is_an_input_error(small, wav, message):
    with pytest.raises(InputError, match=message):
        small.encode(wav)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1.0, 0.5], "not shares of the longest"),
        ([100], r"must be \[2\]"),
        ([0, 100], "must lie in 1..100"),
        ([5, 101], "must lie in 1..100"),
    ],
)
def test_wrong_lengths_are_an_input_error(small, lengths, message):
    with pytest.raises(InputError, match=message):
        small.encode(torch.zeros(2, 100), lengths=lengths)
    with pytest.raises(InputError, match="lengths of its own"):
        small.encode([torch.zeros(5)], lengths=[5])


@pytest.mark.parametrize("rate", [0, -1, 16000.5, "16k"])
def test_a_wrong_sample_rate_is_an_input_error(small, rate):
    with pytest.raises(InputError, match="sample_rate must be a whole number"):
        small.encode(torch.zeros(100), sample_rate=rate)


def test_nan_in_the_padding_does_not_matter(small, speech):
    batch = torch.full((1, speech[0].shape[1] + 500), torch.nan)
    batch[:, :-500] = speech[0]
    codes = small.encode(batch, lengths=[speech[0].shape[1]])
    assert torch.equal(codes.tokens, small.encode(speech[0]).tokens)


def test_resampling_a_tensor_equals_reading_the_file(small, clips):
    path = next(path for path in clips if path.stem == "effect_bell_stereo")
    wav, rate = audio.load(path)
    assert (rate, len(wav)) == (44100, 2)
    codes = small.encode(wav.mean(0), sample_rate=rate)
    assert torch.equal(codes.tokens, small.encode_file(path).tokens)
    padded = torch.cat([wav.mean(0), torch.randn(999)])[None]
    again = small.encode(padded, sample_rate=rate, lengths=[wav.shape[1]])
    assert torch.equal(again.tokens, codes.tokens)
    assert int(codes.num_samples) == round(wav.shape[1] * 16000 / 44100)


def test_one_sample_at_another_rate_still_gives_a_frame(small):
    assert small.encode(torch.zeros(1), sample_rate=48000).tokens.shape == (1, 3, 1)


# ---- batches and pieces ----------------------------------------------------------------------------


def test_on_a_cpu_rows_go_one_by_one_and_on_request_in_buckets_of_equal_length():
    tok = Mean()
    rows = rows_of(40, 80, 40, 37)
    alone = tok.encode(rows)
    assert tok.calls == [(1, 1, 40), (1, 1, 80), (1, 1, 40), (1, 1, 37)]
    tok.calls.clear()
    tok.row_by_row = False
    assert torch.equal(tok.encode(rows).tokens, alone.tokens)
    assert sorted(tok.calls) == [(1, 1, 37), (1, 1, 80), (2, 1, 40)]


def test_a_masked_batch_is_one_padded_call(small, speech, monkeypatch):
    shapes = []
    inner = type(small)._features
    monkeypatch.setattr(type(small), "_features", lambda self, wav, n: shapes.append(wav.shape) or inner(self, wav, n))
    monkeypatch.setattr(small, "row_by_row", False)
    monkeypatch.setattr(small, "max_padding", 1.0)
    small.encode(speech)
    assert shapes == [(3, 1, max(row.shape[1] for row in speech))]
    shapes.clear()
    monkeypatch.setattr(small, "max_padding", 0.25)  # 2.7 s and 2.2 s together, 1.9 s alone
    small.encode(speech)
    assert shapes == [(2, 1, speech[0].shape[1]), (1, 1, speech[2].shape[1])]


def test_long_audio_goes_in_pieces_of_bounded_size(small, speech, monkeypatch):
    wav = torch.cat(speech, dim=1)
    whole = small.encode(wav)
    sizes = []
    inner = type(small)._features
    monkeypatch.setattr(type(small), "_features", lambda self, w, n: sizes.append(w.shape[2]) or inner(self, w, n))
    for seconds in (0.02, 0.5, 1.77, 3.0):
        sizes.clear()
        monkeypatch.setattr(small, "chunk_seconds", seconds)
        assert torch.equal(small.encode(wav).tokens, whole.tokens)
        assert max(sizes) <= seconds * 16000 + sum(small.context) + 3 * 320


def test_features_in_pieces_equal_the_whole(small, speech, monkeypatch):
    whole, lengths = small.features(speech)
    monkeypatch.setattr(small, "chunk_seconds", 0.3)
    pieces, again = small.features(speech)
    assert torch.equal(whole, pieces)
    assert lengths.tolist() == again.tolist() == [-(-row.shape[1] // 320) for row in speech]


def test_encoding_an_hour_takes_little_memory(small):
    wav = torch.zeros(1, 3600 * 16000)
    wav[0, ::997] = 0.5
    peak = []
    stop = threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        before = peak[0] if stop.wait(0.1) or peak else 0
        codes = small.encode(wav)
    finally:
        stop.set()
        watcher.join()
    assert codes.tokens.shape == (1, 3, 180000)
    # The pieces themselves take 50 MB; what the allocator keeps between them varies. The whole at once: over 1500 MB.
    assert max(peak) - before < 600e6


# ---- the base catches what a network does wrong ----------------------------------------------------


def test_conformance_finds_a_network_that_leaks_padding_or_the_whole_utterance_in_pieces():
    check_tokenizer(Mean())
    leaky = Mean(leak=True)
    leaky.spec = leaky.full_spec = Spec("leaky", 8000, 4, (256,), batching="mask")
    with pytest.raises(ConformanceError, match="batch: .* codes differ"):
        check_tokenizer(leaky)
    local = Mean(leak=True)
    local.context = (0, 0)
    with pytest.raises(ConformanceError, match="chunked: .* codes differ"):
        check_tokenizer(local)
    local.chunk_miss_rate = 1.0
    found = {one.way: one.share for one in parity(local, rows_of(4000, 3000))}
    assert found["batch"] == found["padded"] == found["order"] == found["saved"] == 0
    assert 0 < found["chunked"] < 1


def test_a_network_with_another_number_of_frames_or_rows_is_an_error(monkeypatch):
    tok = Mean()
    monkeypatch.setattr(tok, "_encode", lambda wav, n: (torch.zeros(1, 1, 3, dtype=torch.int64), {}))
    with pytest.raises(AudiotokError, match="num_frames says 10 frames"):
        tok.encode(torch.zeros(40))
    monkeypatch.setattr(tok, "_encode", lambda wav, n: (torch.zeros(1, 2, 10, dtype=torch.int64), {}))
    with pytest.raises(AudiotokError, match="its spec says 1"):
        tok.encode(torch.zeros(40))


def test_short_audio_is_padded_to_what_the_network_can_take():
    tok = Mean()
    tok.min_samples = 400
    codes = tok.encode(torch.zeros(3))
    assert tok.calls == [(1, 1, 400)]
    assert codes.num_samples.tolist() == [3]
    assert tok.decode(codes).shape == (1, 1, 3)


def test_extras_stay_with_their_row(monkeypatch):
    tok = Mean()
    inner = Mean._encode
    monkeypatch.setattr(
        tok, "_encode", lambda wav, n: (inner(tok, wav, n)[0], {"peak": wav.abs().amax((1, 2))[:, None]})
    )
    rows = rows_of(40, 80, 40)
    for one_by_one in (True, False):
        tok.row_by_row = one_by_one
        codes = tok.encode(rows)
        assert codes.extras["peak"][:, 0].tolist() == [float(row.abs().max()) for row in rows]
    tok.context, tok.chunk_seconds = (0, 0), 0.001
    with pytest.raises(AudiotokError, match="has extras, so its context must be None"):
        tok.encode(rows)


# ---- decode ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 319, 320, 321, 639, 641, 5000])
def test_decode_gives_back_exactly_as_many_samples(small, count):
    assert small.decode(small.encode(torch.randn(count) * 0.1)).shape == (1, 1, count)


def test_rows_of_a_decoded_batch_are_silent_after_their_end(small, speech):
    codes = small.encode(speech)
    wav = small.decode(codes)
    assert wav.shape == (3, 1, max(row.shape[1] for row in speech))
    for row, original in zip(wav, speech, strict=True):
        assert not row[:, original.shape[1] :].any()
        assert row[:, : original.shape[1]].any()


def test_bare_tokens_decode_to_whole_hops(small, speech):
    codes = small.encode(speech[0])
    for tokens in (codes.tokens, codes.tokens[0], codes.tokens.int()):
        wav = small.decode(tokens)
        assert wav.shape == (1, 1, codes.tokens.shape[2] * 320)
        assert torch.equal(wav[:, :, : speech[0].shape[1]], small.decode(codes))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.full((3, 5), 32), r"must lie in 0..31, not 32..32: take off vocabulary offsets"),
        (torch.full((3, 5), -1), "must lie in 0..31"),
        (torch.zeros(4, 5, dtype=torch.int64), "has 3 codebooks, not 4"),
        (torch.zeros(5, dtype=torch.int64), r"tokens \[K, F\] or \[B, K, F\]"),
        (torch.zeros(3, 5), "must be integers"),
        (torch.zeros(3, 0, dtype=torch.int64), "nothing to decode"),
        ([1, 2, 3], "decode wants Codes"),
    ],
)
def test_wrong_tokens_are_an_input_error(small, tokens, message):
    with pytest.raises(InputError, match=message):
        small.decode(tokens)


def test_codes_of_another_tokenizer_are_refused(small, speech):
    with pytest.raises(CodesMismatchError, match="made by toy"):
        small.decode(Mean().encode(speech[0]))


def test_fewer_codebooks_decode_only_where_the_spec_says_so(small, speech):
    codes = small.encode(speech[0])
    errors = [float((small.decode(codes.truncate(k)) - speech[0]).abs().mean()) for k in (1, 2, 3)]
    assert len(set(errors)) == 3
    tok = Mean(Spec("two", 8000, 4, (256, 256)))
    with pytest.raises(InputError, match="decodes 2 codebooks, not 1"):
        tok.decode(torch.zeros(1, 5, dtype=torch.int64))


def test_an_encoder_says_that_it_cannot_decode():
    tok = Mean(Spec("deaf", 8000, 4, (256,), decodable=False))
    with pytest.raises(UnsupportedError, match="deaf only encodes"):
        tok.decode(tok.encode(torch.zeros(40)))
    check_tokenizer(tok)


# ---- codebooks, embeddings, features ---------------------------------------------------------------


def test_embed_sums_the_codebooks_and_is_zero_in_padding(small, speech):
    codes = small.encode(speech)
    embedded = small.embed(codes)
    wanted = sum(book[codes.tokens[:, k]] for k, book in enumerate(small.codebooks)).transpose(1, 2)
    assert torch.equal(embedded, wanted * codes.mask[:, None])
    assert embedded.shape == (3, 80, codes.tokens.shape[2])


def test_use_codebooks_encodes_the_first_rows_only(small, speech):
    whole = small.encode(speech[0])
    try:
        part = small.use_codebooks(2).encode(speech[0])
        assert torch.equal(part.tokens, whole.tokens[:, :2])
        assert part.spec == whole.truncate(2).spec
        assert torch.equal(small.decode(part), small.decode(whole.truncate(2)))
        assert small.decode(whole).shape == small.decode(part).shape
        assert len(small.codebooks) == 2
    finally:
        small.use_codebooks(3)
    with pytest.raises(InputError, match="has 1 to 3 codebooks, not 4"):
        small.use_codebooks(4)
    with pytest.raises(UnsupportedError, match="needs all its 2 codebooks"):
        Mean(Spec("two", 8000, 4, (256, 256))).use_codebooks(1)


def test_steps_a_network_does_not_have_are_unsupported():
    tok = Mean()
    with pytest.raises(UnsupportedError, match="no features"):
        tok.features(torch.zeros(40))
    with pytest.raises(UnsupportedError, match="no embedding"):
        tok.embed(tok.encode(torch.zeros(40)))
    with pytest.raises(UnsupportedError, match="keeps no codebook"):
        _ = tok.codebooks


# ---- a frozen module -------------------------------------------------------------------------------


def test_parts_of_a_tokenizer_are_in_evaluation_mode_too(small):
    class WithParts(type(small)):
        def __init__(self, *args):
            super().__init__(*args)
            self.parts = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2))

    tok = WithParts(small.spec, small.mel, small.codebooks)
    assert not any(module.training for module in tok.modules())
    nn.Sequential(tok).train()
    assert not any(module.training for module in tok.modules())


def test_a_tokenizer_inside_a_model_in_training_stays_as_it_is(small):
    model = nn.ModuleList([small, nn.Dropout()]).train()
    assert model.training
    assert model[1].training
    assert not small.training
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_the_fingerprint_is_of_the_weights_and_not_of_the_dtype_or_name(small, tmp_path):
    small.save(tmp_path)
    from audiotok import load

    other = load(tmp_path, dtype="float16")
    assert other.dtype == torch.float16
    assert other.fingerprint == small.fingerprint
    weights = {name: value + 1 if value.is_floating_point() else value for name, value in small.state_dict().items()}
    other = load(tmp_path)
    other.load_state_dict(weights)
    assert other.fingerprint != small.fingerprint


def test_codes_are_ordinary_tensors_in_a_training_step(small, speech):
    codes = small.encode(speech)
    assert not codes.tokens.is_inference()
    embedding = nn.Embedding(32, 4)
    embedding(codes.tokens).sum().backward()
    assert float(embedding.weight.grad.sum()) == 4 * codes.tokens.numel()


def test_every_length_from_one_sample_up_comes_back_exactly(small):
    tok = small
    wav = torch.randn(1, 1300, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = Codes.batch([tok.encode(wav[:, :count]) for count in range(1, 1300, 7)])
    assert codes.num_samples.tolist() == list(range(1, 1300, 7))
    assert codes.lengths.tolist() == [-(-count // 320) for count in range(1, 1300, 7)]
