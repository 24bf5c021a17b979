"""The trainable codec: every quantizer in both architectures, as a network and as a tokenizer."""

import itertools
import json

import pytest
import torch
from einops import rearrange

import audiotok
from audiotok.codec import Codec, CodecConfig, CodecNetwork, codec_spec, preset
from audiotok.codec.spectral import StftFeatures
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.nn.flow import Pieces, Whole
from audiotok.testing import check_tokenizer, parity

KINDS = {
    "rvq": (4, 4),
    "svq": (1, 1),
    "gvq": (4, 4),
    "fsq": (3, 3),
    "msrvq": (1, 7),
    "csrvq": (4, 4),
    "pq": (4, 4),
}
SPECTRAL = {"fft": 160, "width": 24, "hidden": 32, "encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}
TINY = {
    "spectral": SPECTRAL,
    "magnitudes": {**SPECTRAL, "phase": "griffin-lim", "iterations": 3},
    "convolutional": {"filters": 4, "ratios": [5, 4, 4]},
}


CAUSAL = ("spectral", "convolutional")


def tiny(kind: str = "rvq", architecture: str = "spectral", *, causal: bool = False) -> CodecConfig:
    return CodecConfig.from_dict(
        {
            "architecture": architecture if architecture in CAUSAL else "spectral",
            "hop_length": 80,
            "latent": 8,
            "causal": causal,
            "network": TINY[architecture],
            "quantizer": {"kind": kind, "num_codebooks": KINDS[kind][0], "codebook_size": 16, "levels": [3, 3]},
        }
    )


def network(config: CodecConfig) -> CodecNetwork:
    torch.manual_seed(1)
    made = CodecNetwork(config)
    made(torch.randn(4, 1, 4000))  # codebooks begin with k-means of what they see
    return made.eval()


@pytest.mark.parametrize(
    ("architecture", "kind", "causal"), [*itertools.product(TINY, KINDS, [False]), *((a, "rvq", True) for a in CAUSAL)]
)
def test_a_tokenizer_gives_what_the_network_gives(architecture, kind, causal):
    trained = network(tiny(kind, architecture, causal=causal))
    codec = Codec.of(trained, "tiny")
    wav = torch.randn(1, 1, 2 * 8000)
    with torch.no_grad():
        wanted = trained(wav)
    codes = codec.encode(wav)
    assert codec.spec.num_codebooks == KINDS[kind][1]
    assert torch.equal(codes.tokens, wanted.quantized.tokens)
    torch.testing.assert_close(codec.decode(codes), wanted.wav, atol=1e-5, rtol=0)
    assert set(check_tokenizer(codec)) >= {"shapes", "batches", "lengths", "decode", "copies", "errors"}


@pytest.mark.parametrize(("architecture", "kind"), list(itertools.product(TINY, KINDS)))
def test_every_weight_learns(architecture, kind):
    torch.manual_seed(0)
    trained = CodecNetwork(tiny(kind, architecture))
    found = trained(torch.randn(2, 1, 1600))
    (found.wav.square().mean() + found.quantized.loss).backward()
    without = [name for name, value in trained.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_magnitudes_are_compared_without_making_a_wave():
    trained = network(tiny(architecture="magnitudes"))
    wav = torch.randn(2, 1, 1590)
    found = trained(wav, synthesize=False)
    assert found.wav is None
    assert found.magnitudes.shape == trained.magnitudes(wav).shape == (2, 40, 81)
    assert trained(wav).wav.shape == wav.shape
    tone = torch.sin(torch.arange(1600) * 2 * torch.pi * 20 / 160)[None, None]
    assert trained.magnitudes(tone)[0, 5].argmax() == 20


def test_training_under_autocast_computes_in_bfloat16_what_is_float32_without_it():
    trained = network(tiny())
    wav = torch.randn(2, 1, 1600)
    with torch.autocast("cpu", torch.bfloat16):
        rough = trained.encode(wav)
    exact = trained.encode(wav)
    assert rough.dtype == torch.bfloat16
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_batch_padding_and_pieces_change_no_code_of_speech(speech):
    config = CodecConfig.from_dict({"preset": "small"})
    torch.manual_seed(1)
    trained = CodecNetwork(config)
    trained(torch.stack([wav[:, :16000] for wav in speech]))
    codec = Codec.of(trained.eval(), "small")
    codec.row_by_row = False
    shares = {row.way: row.share for row in parity(codec, speech)}
    assert {way: shares[way] for way in ("batch", "padded", "order", "chunked", "saved")} == dict.fromkeys(
        ("batch", "padded", "order", "chunked", "saved"), 0
    )


@pytest.mark.parametrize("kind", ["rvq", "gvq", "msrvq", "csrvq"])
def test_the_first_rows_decode_alone(kind):
    codec = Codec.of(network(tiny(kind)), "tiny")
    wav = torch.randn(1, 1, 3200)
    rows = {"rvq": 1, "gvq": 2, "msrvq": 3, "csrvq": 2}[kind]
    some = codec.encode(wav).truncate(rows)
    assert torch.equal(codec.use_codebooks(rows).encode(wav).tokens, some.tokens)
    assert len(codec.codebooks) == rows
    assert codec.decode(some).shape == (1, 1, 3200)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ({"kind": "gvq", "num_codebooks": 6, "groups": 2}, (0, 0, 1, 1, 2, 2)),
        ({"kind": "csrvq", "num_codebooks": 6, "scales": 2}, (0, 0, 0, 1, 1, 1)),
        ({"kind": "msrvq", "strides": [6, 2]}, (0, 1, 1, 1)),
        ({"kind": "rvq", "num_codebooks": 6}, ()),
    ],
)
def test_rows_of_tokens_belong_to_levels(values, levels):
    assert codec_spec(CodecConfig.from_dict({"quantizer": values}), "x").row_levels == levels


@pytest.mark.parametrize("kind", ["fsq", "pq"])
def test_rows_that_do_not_come_apart(kind):
    codec = Codec.of(network(tiny(kind)), "tiny")
    with pytest.raises(UnsupportedError, match="needs all its"):
        codec.use_codebooks(1)


@pytest.mark.parametrize(("kind", "latents"), [("rvq", 1), ("msrvq", 4)])
def test_features_and_embeddings_hold_the_latents_of_a_frame_one_after_the_other(kind, latents):
    trained = network(tiny(kind))
    codec = Codec.of(trained, "tiny")
    codec.chunk_seconds = 0.1  # they come in pieces
    wav = torch.randn(1, 1, 6400)
    codes, (features, lengths) = codec.encode(wav), codec.features(wav)
    frames = 6400 // (80 * latents)
    assert lengths.tolist() == [frames]
    with torch.no_grad():
        wanted = trained(wav)
        assert torch.equal(codec._synthesize(codec.embed(codes)), codec.decode(codes))
    for found, values in ((features, wanted.latents), (codec.embed(codes), wanted.quantized.quantized)):
        torch.testing.assert_close(found, rearrange(values, "b d (f s) -> b (s d) f", s=latents), atol=1e-5, rtol=0)
    assert torch.equal(codec._quantize(features), codes.tokens)


def test_a_causal_codec_begins_no_louder_than_it_goes_on():
    torch.manual_seed(1)
    trained = CodecNetwork(CodecConfig.from_dict({"preset": "small", "causal": True}))
    wav = 0.1 * torch.randn(1, 1, 16000)
    trained(wav)
    with torch.no_grad():
        found = trained.eval()(wav).wav[0, 0].abs()
    assert found[:640].max() < 2 * found[640:].max()


def test_a_causal_codec_looks_at_nothing_to_come():
    for architecture in CAUSAL:
        codec = Codec.of(network(tiny("rvq", architecture, causal=True)), "tiny")
        wav = torch.randn(1, 1, 3200)
        changed = wav.clone()
        changed[..., 1600:] = 0
        before = slice(0, 1600 // 80)
        assert torch.equal(codec.encode(wav).tokens[..., before], codec.encode(changed).tokens[..., before])
        codes = codec.encode(wav)
        shorter = codec.decode(codes.tokens[..., :20])
        torch.testing.assert_close(codec.decode(codes)[..., : shorter.shape[2]], shorter, atol=1e-5, rtol=0)


def test_features_of_the_transform():
    layer = StftFeatures(160, 80)
    tone = torch.sin(torch.arange(1600) * 2 * torch.pi * 20 / 160)[None, :, None]  # in the middle of bin 20
    frames = layer(tone, Pieces())
    assert frames.shape == (1, 20, 3 * 81)
    logs, phases = frames[0, 5, :81], frames[0, 5, 81:].view(81, 2)
    magnitude = 160 / 4  # of a sine under a Hann window
    assert logs.argmax() == 20
    torch.testing.assert_close(logs[20], torch.tensor(magnitude).log() * 0.3 + 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(phases[20].norm(), torch.tensor(magnitude**0.3), atol=1e-4, rtol=0)
    assert layer(torch.zeros(1, 160, 1), Whole()).isfinite().all()


def test_configurations_come_back_from_plain_values():
    for architecture, kind in itertools.product(TINY, KINDS):
        config = tiny(kind, architecture)
        assert CodecConfig.from_dict(config.to_dict()) == config
    assert preset("large", "convolutional").network.filters == 64
    assert preset("small").frame_rate == 50
    assert codec_spec(tiny("msrvq"), "x").frame_rate == 16000 / 320


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantiser": {}}, "did you mean quantizer"),
        ({"quantizer": {"num_codebook": 3}}, "did you mean num_codebooks"),
        ({"quantizer": {"kind": "vq"}}, "rvq, svq, gvq"),
        ({"quantizer": {"kind": "svq"}}, '"pq" has several'),
        ({"quantizer": {"kind": "fsq", "codebook_dim": 8}}, "leave codebook_dim 0"),
        ({"quantizer": {"kind": "gvq", "groups": 3}}, "3 equal groups"),
        ({"quantizer": {"num_codebooks": "many"}}, "whole number"),
        ({"quantizer": {"dropout": 2}}, "probability"),
        ({"quantizer": 3}, "group of keys"),
        ({"hop_length": 321}, "even number"),
        ({"hop_length": 2000}, "at most its window"),
        ({"architecture": "convolutional", "hop_length": 100}, "make a hop of 320"),
        ({"architecture": "recurrent"}, "spectral, convolutional"),
        ({"preset": "huge"}, "a preset is one of small, base, large"),
        ({"network": {"fft": 0}}, "from 1 to 65536"),
        ({"network": {"encoder_blocks": [1]}}, "encoder_blocks are 2 whole numbers"),
        ({"network": {"decoder_blocks": [0, 0]}}, "need a block each"),
        ({"sample_rate": True}, "whole number"),
        ({"network": {"encoder_blocks": [1, 10**9]}}, "each of encoder_blocks must be a whole number from 0 to 64"),
        ({"network": {"width": 10**9}}, "width must be a whole number from 1 to 65536"),
        ({"quantizer": {"num_codebooks": 10**9}}, "num_codebooks must be"),
        ({"quantizer": {"kind": "msrvq", "strides": [10**9, 1]}}, "each of strides must be"),
        ({"quantizer": {"kind": "fsq", "levels": []}}, "levels are 1 to 64 whole numbers"),
        ({"quantizer": {"kind": "fsq", "levels": 3}}, "levels are 1 to 64 whole numbers, not 3"),
        ({"quantizer": {"kind": "fsq", "levels": [5] * 11}}, "the product of levels must be .* not 48828125"),
        ({"quantizer": {"dropout": "half"}}, "dropout must be a number, not 'half'"),
        ({"quantizer": {"commitment": float("nan")}}, "commitment must be a number, not nan"),
        ({"architecture": "convolutional", "network": {"ratios": [10**9]}}, "each of ratios must be"),
        (
            {"architecture": "convolutional", "network": {"dilation_base": 9, "residual_layers": 7}},
            "the last dilation must",
        ),
        ({"architecture": "convolutional", "network": {"snake": "no"}}, "snake is true or false, not 'no'"),
        ({"causal": "no"}, "causal is true or false, not 'no'"),
        ({"architecture": ["spectral"]}, "spectral, convolutional, not"),
        ({"preset": ["small"]}, "small, base, large, not"),
        ({"network": []}, "group of keys"),
        ({"network": {"iterations": 0}}, "iterations must be"),
        ({"network": {"phase": "random"}}, "griffin-lim"),
        ({"network": {"phase": "griffin-lim"}, "causal": True}, "looks ahead"),
    ],
)
def test_a_configuration_that_makes_no_codec_says_why(values, message):
    with pytest.raises(InputError, match=message):
        CodecConfig.from_dict(values)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("network", {"width": 25}),
        ("network", {"encoder_blocks": [10**9, 1]}),
        ("network", "mine"),
        ("quantizer", {"kind": "audiotok.quantize:FSQ"}),
        ("quantizer", {"codebook_size": 32}),
        ("latent", 10**12),
        ("hop_length", 160),
        ("loader", "os:system"),
    ],
)
def test_a_folder_whose_configuration_lies_is_refused(tmp_path, part, values):
    Codec.of(network(tiny()), "tiny").save(tmp_path / "tiny")
    path = tmp_path / "tiny" / "config.json"
    stored = json.loads(path.read_text())
    before = stored["config"].get(part)
    stored["config"][part] = {**before, **values} if isinstance(values, dict) else values
    path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError):
        audiotok.load(tmp_path / "tiny")


def test_a_saved_codec_is_loaded(tmp_path):
    codec = Codec.of(network(tiny()), "tiny")
    codec.save(tmp_path / "tiny")
    loaded = audiotok.load(tmp_path / "tiny")
    wav = torch.randn(1, 1, 3200)
    assert torch.equal(loaded.encode(wav).tokens, codec.encode(wav).tokens)
    assert loaded.fingerprint == codec.fingerprint
