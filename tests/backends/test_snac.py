"""SNAC: codes, latents and audio equal upstream's, with and without its noise; networks with and without every part;
what a checkpoint or its configuration gets wrong is named."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.nn import functional

import audiotok
from audiotok.backends.snac import SNAC, read_snac
from audiotok.backends.snac_files import network_spec
from audiotok.backends.snac_network import NetworkSizes, Noise, WindowAttention
from audiotok.errors import CheckpointError, InputError
from audiotok.nn.flow import Pieces, Ragged
from audiotok.nn.weight_norm import fold_weight_norm
from audiotok.quantize.levels import pack, unpack

from .cases import Case, cases

CASES = cases("snac")
WITH_ATTENTION, PLAIN = CASES


def by_id(case):
    return case.name


def read(case):
    return read_snac(case.folder)


def tokens_of(case):
    return pack([case.array(f"codes_{level}") for level in range(case.meta["codebooks"])])


def frames_of(tok, features):
    """[B, latent, fine frames] of features, in which a coarse frame holds its fine ones one after the other."""
    return rearrange(features, "b (s d) f -> b d (f s)", s=tok.sizes.frames)


@pytest.fixture(scope="module")
def plain():
    """The case without attention. Treat as read-only."""
    return read(PLAIN)


@pytest.fixture
def folder(tmp_path):
    """A copy of the files of the case without attention, to be spoiled."""
    for name in ("pytorch_model.bin", "config.json"):
        shutil.copy(PLAIN.folder / name, tmp_path / name)
    return tmp_path


# ---- the same as upstream --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_codes_and_audio_are_upstreams(case: Case, parity_table):
    tok, wanted = read(case), tokens_of(case)
    assert (tok.spec.sample_rate, tok.spec.hop_length) == (
        case.meta["sample_rate"],
        case.meta["hop"] * tok.sizes.strides[0],
    )
    codes, wav = tok.encode(case.array("input")), tok.decode(wanted)[:, 0]
    parity_table.fixture(case.id, codes.tokens, wanted, wav=wav, wanted_wav=case.array("recon"), tolerance=1e-4)
    for level, found in enumerate(unpack(codes.tokens, tok.spec.row_levels)):
        assert torch.equal(found, case.array(f"codes_{level}"))


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_latents_are_upstreams(case: Case):
    tok = read(case)
    features, lengths = tok.features(case.array("input"))
    torch.testing.assert_close(frames_of(tok, features), case.array("latent"), rtol=0, atol=2e-4)
    assert lengths.tolist() == [features.shape[2]] * len(features)


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_the_rows_of_a_batch_are_what_they_are_alone(case: Case):
    tok, wav = read(case), case.array("input")
    tok.row_by_row = False
    assert torch.equal(tok.encode(wav).tokens, torch.cat([tok.encode(row[None]).tokens for row in wav]))


def test_the_first_levels_decode_as_the_sum_of_their_projected_entries(plain):
    weights = fold_weight_norm(torch.load(PLAIN.folder / "pytorch_model.bin", weights_only=True))
    codes, total = plain.encode(PLAIN.array("input")), 0.0
    for level, (rows, stride) in enumerate([(1, 4), (3, 2), (7, 1)]):
        part = {
            name: weights[f"quantizer.quantizers.{level}.{name}"] for name in ("codebook.weight", "out_proj.weight")
        }
        entries = part["codebook.weight"][PLAIN.array(f"codes_{level}")].transpose(1, 2)
        found = functional.conv1d(
            entries, part["out_proj.weight"], weights[f"quantizer.quantizers.{level}.out_proj.bias"]
        )
        total = total + found.repeat_interleave(stride, 2)
        torch.testing.assert_close(frames_of(plain, plain.embed(codes.truncate(rows))), total, atol=1e-5, rtol=0)
    few = read(PLAIN).use_codebooks(3)
    assert torch.equal(few.encode(PLAIN.array("input")).tokens, codes.tokens[:, :3])
    with pytest.raises(InputError, match="form levels: take 1, 3, 7 of them, not 2"):
        few.use_codebooks(2)


# ---- noise -----------------------------------------------------------------------------------------


def test_a_seed_gives_the_noise_that_upstream_draws_for_it(plain):
    tok, tokens = read(PLAIN), tokens_of(PLAIN)
    tok.noise_seed = 0
    torch.testing.assert_close(tok.decode(tokens)[:, 0], PLAIN.array("recon_noise"), atol=1e-4, rtol=0)
    assert float((plain.decode(tokens)[:, 0] - PLAIN.array("recon_noise")).abs().max()) > 0.1
    tok.noise_seed = 1
    assert float((tok.decode(tokens)[:, 0] - PLAIN.array("recon_noise")).abs().max()) > 0.1


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_noise_enters_where_upstream_adds_it(case: Case):
    """With the very draws of upstream, of which a batch has other ones than its rows alone."""
    tok, flow = read(case), Pieces(last=False)
    layers = [layer for layer in tok.decoder.modules() if isinstance(layer, Noise)]
    assert len(layers) == 4
    for i, layer in enumerate(layers):
        flow.keep(layer, case.array(f"noise_{i}").transpose(1, 2))
    flow.last = True
    wav = tok.push_decoder(tok.embed(tokens_of(case)), flow)[..., 0]
    torch.testing.assert_close(wav, case.array("recon_noise"), atol=1e-4, rtol=0)


def test_noise_depends_on_the_seed_alone():
    tok, tokens = read(WITH_ATTENTION), tokens_of(WITH_ATTENTION)
    tok.noise_seed = 7
    wanted = torch.cat([tok.decode(row[None]) for row in tokens])
    assert torch.equal(tok.decode(tokens), wanted)
    for settings in ({"row_by_row": False}, {"chunk_seconds": 1e-3}, {"chunk_seconds": 0.2}):
        for name, value in settings.items():
            setattr(tok, name, value)
        torch.testing.assert_close(tok.decode(tokens), wanted, atol=1e-5, rtol=0)
    tok.noise_seed = None
    assert torch.equal(tok.decode(tokens), tok.decode(tokens))


# ---- a tokenizer like any other --------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_it_keeps_the_promises_of_the_interface(case: Case, speech, parity_table):
    tok = read(case)
    rows = [audiotok.audio.resample(row, 16000, tok.spec.sample_rate)[:, : tok.spec.sample_rate] for row in speech]
    assert "batches" in parity_table.conforms(case.id, tok, rows)


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_pieces_of_any_length_give_the_codes_and_the_audio_of_the_whole(case: Case):
    tok, wav = read(case), case.array("input")
    codes = tok.encode(wav)
    audio = tok.decode(codes)
    pushed = []
    tok.encoder.register_forward_hook(lambda *_: pushed.append(1))
    for chunk_seconds in (1e-3, 0.1, 0.27):
        tok.chunk_seconds = chunk_seconds
        assert torch.equal(tok.encode(wav).tokens, codes.tokens)
        torch.testing.assert_close(tok.decode(codes), audio, atol=1e-5, rtol=0)
    frames = codes.tokens.shape[2]
    steps = [max(1, round(seconds * tok.spec.frame_rate)) for seconds in (1e-3, 0.1, 0.27)]
    assert len(pushed) == len(wav) * sum(math.ceil(frames / step) for step in steps)


def test_audio_is_padded_to_whole_coarse_frames(plain):
    assert [plain.num_frames(length) for length in (1, 2047, 2048, 2049, 20000)] == [1, 1, 1, 2, 10]
    codes = plain.encode([torch.zeros(1, length) for length in (1, 2048, 4000)])
    assert codes.lengths.tolist() == [1, 1, 2]
    assert plain.decode(codes).shape == (3, 1, 4000)


def test_half_of_it_is_enough_for_half_of_the_work(plain):
    wav = PLAIN.array("input")
    codes = plain.encode(wav)
    encoder, decoder = read(PLAIN).use_mode("encode"), read(PLAIN).use_mode("decode")
    assert torch.equal(encoder.encode(wav).tokens, codes.tokens)
    assert torch.equal(decoder.decode(codes), plain.decode(codes))
    assert (encoder.decoder, decoder.encoder) == (None, None)


@pytest.mark.parametrize(
    ("sizes", "levels", "millions"),
    [
        (NetworkSizes(48, (2, 4, 8, 8), 1024, (8, 8, 4, 2), (4, 2, 1), None, True, True), 3, 19.8),
        (NetworkSizes(64, (2, 3, 8, 8), 1536, (8, 8, 3, 2), (8, 4, 2, 1), 32, True, True), 4, 54.5),
    ],
)
def test_the_published_sizes_have_as_many_parameters_as_upstream_says(sizes, levels, millions):
    with torch.device("meta"):
        tok = SNAC(network_spec("published", 24000, sizes, [4096] * levels), sizes, 8)
    assert round(sum(value.numel() for value in tok.state_dict().values()) / 1e6, 1) == millions


def test_a_spec_of_another_network_is_refused(plain):
    values = plain.spec.to_dict()
    for change, message in (
        ({"hop_length": 512}, "must be those of its network, 2048 and"),
        ({"row_levels": []}, r"must be those of its network, 2048 and \(0, 1, 1, 2, 2, 2, 2\)"),
        ({"codebook_sizes": [48, 48, 47, 48, 48, 48, 48]}, "the rows of a level share a codebook"),
    ):
        with pytest.raises(InputError, match=message):
            SNAC(audiotok.Spec.from_dict({**values, **change}), plain.sizes, 8)


# ---- networks with and without every part, against a second implementation ------------------------------


class Second:
    """SNAC once more, from the quirks of its format: channels first, float64, whole signals of whole blocks. Weights
    are drawn where they are first asked for."""

    def __init__(self, config):
        self.config, self.weights, self.generator = config, {}, torch.Generator().manual_seed(0)

    def weight(self, name, *shape):
        if name not in self.weights:
            values = torch.randn(*shape, generator=self.generator) * math.prod(shape[1:]) ** -0.5 / 2
            self.weights[name] = 1 + values if name.endswith("alpha") else values
        return self.weights[name].double()

    def conv(self, x, name, channels, kernel, groups=1, **options):
        weight = self.weight(f"{name}.weight", channels, x.shape[1] // groups, kernel)
        return functional.conv1d(x, weight, self.weight(f"{name}.bias", channels), groups=groups, **options)

    def snake(self, x, name):
        alpha = self.weight(f"{name}.alpha", 1, x.shape[1], 1)
        return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)

    def unit(self, x, name, dilation):
        groups = x.shape[1] if self.config["depthwise"] else 1
        y = self.snake(x, f"{name}.0")
        y = self.conv(y, f"{name}.1", x.shape[1], 7, groups, dilation=dilation, padding=3 * dilation)
        return x + self.conv(self.snake(y, f"{name}.2"), f"{name}.3", x.shape[1], 1)

    def attention(self, x, name):
        width, size = x.shape[1], self.config["attn_window_size"]
        gain, bias = self.weight(f"{name}.norm.weight", width), self.weight(f"{name}.norm.bias", width)
        normed = functional.layer_norm(x.transpose(1, 2), (width,), gain, bias)
        qkv = normed @ self.weight(f"{name}.to_qkv.weight", 3 * width, width).T
        self.weights[f"{name}.rel_pos.inv_freq"] = 1 / 10000 ** (torch.arange(0, 64, 2) / 64)
        rates = self.weights[f"{name}.rel_pos.inv_freq"].double()
        found = []
        for start in range(0, x.shape[2], size):
            q, k, v = qkv[:, start : start + size].chunk(3, 2)
            angles = torch.arange(q.shape[1]).double()[:, None] * rates
            turn = torch.polar(torch.ones_like(angles), angles)
            heads = []
            for head in range(0, width, 64):
                a, b = (torch.complex(y[..., head : head + 32], y[..., head + 32 : head + 64]) * turn for y in (q, k))
                scores = (a[:, :, None] * b[:, None].conj()).real.sum(3) / 8
                heads.append(scores.softmax(2) @ v[..., head : head + 64])
            found.append(torch.cat(heads, 2))
        return x + (torch.cat(found, 1) @ self.weight(f"{name}.to_out.weight", width, width).T).transpose(1, 2)

    def encode(self, wav):
        config = self.config
        x = self.conv(wav[:, None].double(), "encoder.block.0", config["encoder_dim"], 7, padding=3)
        for i, rate in enumerate(config["encoder_rates"], 1):
            for j, dilation in enumerate((1, 3, 9)):
                x = self.unit(x, f"encoder.block.{i}.block.{j}.block", dilation)
            x = self.snake(x, f"encoder.block.{i}.block.3")
            options = {"stride": rate, "padding": math.ceil(rate / 2)}
            x = self.conv(x, f"encoder.block.{i}.block.4", 2 * x.shape[1], 2 * rate, **options)
        last = len(config["encoder_rates"]) + 1
        if config["attn_window_size"]:
            x, last = self.attention(x, f"encoder.block.{last}"), last + 1
        return self.conv(x, f"encoder.block.{last}", x.shape[1], 7, self.groups(x), padding=3)

    def quantize(self, x):
        codes, total = [], torch.zeros_like(x)
        for level, stride in enumerate(self.config["vq_strides"]):
            name, width = f"quantizer.quantizers.{level}", self.config["codebook_dim"]
            pooled = functional.avg_pool1d(x - total, stride)
            seen = self.conv(pooled, f"{name}.in_proj", width, 1).transpose(1, 2)
            table = self.weight(f"{name}.codebook.weight", self.config["codebook_size"], width)
            codes.append((functional.normalize(seen, dim=2) @ functional.normalize(table).T).argmax(2))
            found = self.conv(table[codes[-1]].transpose(1, 2), f"{name}.out_proj", x.shape[1], 1)
            total = total + found.repeat_interleave(stride, 2)
        return codes, total

    def decode(self, x):
        config, width = self.config, self.config["decoder_dim"]
        if config["depthwise"]:
            x = self.conv(x, "decoder.model.0", x.shape[1], 7, x.shape[1], padding=3)
            x, at = self.conv(x, "decoder.model.1", width, 1), 2
        else:
            x, at = self.conv(x, "decoder.model.0", width, 7, padding=3), 1
        if config["attn_window_size"]:
            x, at = self.attention(x, f"decoder.model.{at}"), at + 1
        for rate in config["decoder_rates"]:
            width, block = width // 2, f"decoder.model.{at}.block"
            weight = self.weight(f"{block}.1.weight", 2 * width, width, 2 * rate)
            x, bias = self.snake(x, f"{block}.0"), self.weight(f"{block}.1.bias", width)
            options = {"stride": rate, "padding": math.ceil(rate / 2), "output_padding": rate % 2}
            x, first = functional.conv_transpose1d(x, weight.double(), bias, **options), 2
            if config["noise"]:
                self.weight(f"{block}.2.linear.weight", width, width, 1)
                first = 3
            for j, dilation in enumerate((1, 3, 9), first):
                x = self.unit(x, f"{block}.{j}.block", dilation)
            at += 1
        return self.conv(self.snake(x, f"decoder.model.{at}"), f"decoder.model.{at + 1}", 1, 7, padding=3).tanh()[:, 0]

    def groups(self, x):
        return x.shape[1] if self.config["depthwise"] else 1


CONFIG = {
    "sampling_rate": 8000,
    "encoder_dim": 16,
    "encoder_rates": [3, 2],
    "latent_dim": 64,
    "decoder_dim": 64,
    "decoder_rates": [2, 3],
    "attn_window_size": 4,
    "codebook_size": 32,
    "codebook_dim": 8,
    "vq_strides": [6, 3, 1],
    "noise": False,
    "depthwise": False,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"depthwise": True},
        {"noise": True},
        {"attn_window_size": None, "encoder_rates": [5, 2], "decoder_rates": [2, 5], "latent_dim": None},
        {"vq_strides": [1, 1], "decoder_dim": 192},
    ],
    ids=["dense", "depthwise", "noise", "no-attention", "one-rate"],
)
def test_networks_of_other_kinds_are_as_by_a_second_implementation(change, tmp_path):
    config = {**CONFIG, **change}
    second, hop = Second(config), math.prod(config["encoder_rates"])
    block = hop * math.lcm(config["vq_strides"][0], config["attn_window_size"] or 1)
    wav = torch.randn(2, 5 * block, generator=torch.Generator().manual_seed(1)) / 3
    wav[:, 4 * block + 7 :] = 0  # what we pad ourselves
    latent = second.encode(wav)
    codes, quantized = second.quantize(latent)
    audio = second.decode(quantized)
    torch.save(second.weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tok = read_snac(tmp_path)
    tok.row_by_row = False
    wav = wav[:, : 4 * block + 7]
    torch.testing.assert_close(frames_of(tok, tok.features(wav)[0]), latent.float(), atol=1e-4, rtol=0)
    found = tok.encode(wav)
    assert torch.equal(found.tokens, pack(codes))
    assert tok.num_frames(wav.shape[1]) == found.tokens.shape[2] == 5 * block // (hop * config["vq_strides"][0])
    torch.testing.assert_close(tok.decode(found.tokens)[:, 0], audio.float(), atol=1e-4, rtol=0)


def test_frames_that_fill_no_window_attend_among_themselves(tmp_path):
    second = Second(CONFIG)
    codes, _ = second.quantize(second.encode(torch.randn(1, 144, generator=torch.Generator().manual_seed(2))))
    tokens = pack(codes)[:, :, :3]  # 18 frames: four windows of 4, and 2 frames
    levels = unpack(tokens, (0, 1, 1, 2, 2, 2, 2, 2, 2))
    total = 0.0
    for level, (code, stride) in enumerate(zip(levels, CONFIG["vq_strides"], strict=True)):
        name = f"quantizer.quantizers.{level}"
        entries = second.weights[f"{name}.codebook.weight"].double()[code].transpose(1, 2)
        total = total + second.conv(entries, f"{name}.out_proj", 64, 1).repeat_interleave(stride, 2)
    audio = second.decode(total)
    torch.save(second.weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    tok = read_snac(tmp_path)
    wav = tok.decode(tokens)
    assert wav.shape == (1, 1, 3 * 36)
    torch.testing.assert_close(wav[:, 0], audio.float(), atol=1e-4, rtol=0)
    tok.chunk_seconds = 1e-3
    torch.testing.assert_close(tok.decode(tokens), wav, atol=1e-5, rtol=0)


# ---- layers ----------------------------------------------------------------------------------------


def in_pieces(layer, x, size):
    flow, found = Pieces(last=False), []
    for start in range(0, x.shape[1], size):
        flow.last = start + size >= x.shape[1]
        found.append(layer(x[:, start : start + size], flow))
    return torch.cat(found, 1)


@torch.no_grad()
def test_windows_do_not_see_each_other_and_are_the_same_in_pieces_and_as_ragged_rows():
    torch.manual_seed(0)
    layer, x = WindowAttention(128, 8), torch.randn(2, 43, 128)
    whole = layer(x, Pieces())
    for start in range(0, 43, 8):
        part = layer(x[:, start : start + 8], Pieces())
        torch.testing.assert_close(whole[:, start : start + 8], part, atol=1e-5, rtol=0)
    for size in (1, 3, 8, 11, 42):
        torch.testing.assert_close(in_pieces(layer, x, size), whole, atol=1e-5, rtol=0)
    garbage = x.clone()
    garbage[1, 16:] = 1e3
    flow = Ragged([40, 16])
    found = layer(garbage, flow)
    assert flow.lengths == [40, 16]
    torch.testing.assert_close(found[0, :40], whole[0, :40], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, :16], whole[1, :16], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"rows of \[40, 17\] frames must be padded to whole windows of 8"):
        layer(x, Ragged([40, 17]))


# ---- reading ---------------------------------------------------------------------------------------


def test_a_folder_and_its_file_give_the_same_tokenizer(folder, plain):
    assert audiotok.convert("snac", folder).fingerprint == plain.fingerprint
    assert read_snac(folder / "pytorch_model.bin").fingerprint == plain.fingerprint
    assert plain.spec.name == "snac-24khz"
    assert read_snac(folder, name="mine").spec.name == "mine"
    assert (plain.provenance["license"], plain.provenance["converted_from"]["file"]) == ("MIT", "pytorch_model.bin")
    assert len(plain.provenance["converted_from"]["sha256"]) == 64


def test_what_a_configuration_leaves_out_is_as_in_upstreams_class(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("noise") is True
    assert config.pop("depthwise") is True
    path.write_text(json.dumps(config))
    assert read_snac(folder).sizes == read(PLAIN).sizes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_dim": 10**9}, "encoder_width must be a whole number from 1 to 65536, not 1000000000"),
        ({"encoder_dim": 2**16}, "the latent width must be a whole number from 1 to 65536"),
        ({"encoder_dim": 12}, r"is \[6\] torch.float32, wanted \[12\]|wanted \["),
        ({"encoder_rates": []}, "rates must be 1 to 16 whole numbers"),
        ({"encoder_rates": [2] * 17}, "rates must be 1 to 16 whole numbers"),
        ({"encoder_rates": [2, 4, 8, 0]}, "every number in rates must be a whole number from 1"),
        ({"encoder_rates": [2, 4, 8, 4]}, "and the decoder's .* differ"),
        ({"decoder_rates": "8842"}, "decoder_rates must be 1 to 16 whole numbers"),
        ({"decoder_dim": 8}, "the width of the decoder's last stage must be a whole number"),
        ({"decoder_dim": True}, "decoder_width must be a whole number from 1 to 65536, not True"),
        ({"latent_dim": 97}, "latent_dim is 97, but the encoder ends with 96 channels"),
        ({"attn_window_size": 0}, "window must be a whole number from 1"),
        ({"attn_window_size": 8}, "attention needs multiples of 64 channels, not 96 and 96"),
        ({"vq_strides": [4, 3, 1]}, r"the first of the strides \(4, 3, 1\) must be a multiple of each"),
        ({"vq_strides": [4, 2]}, "no part of the network takes: quantizer.quantizers.2"),
        ({"vq_strides": [4, 2, 1, 1]}, "has no weights 'quantizer.quantizers.3.in_proj.weight'"),
        ({"noise": 1}, "noise must be true or false, not 1"),
        ({"noise": False}, "has no weights 'decoder.model.2.block.2.block.0.alpha'"),
        ({"depthwise": False}, "no weights|wanted"),
        ({"codebook_size": 10**9}, "codebook_size must be a whole number from 1 to 16777216"),
        ({"codebook_size": 1024}, r"entries is \[48, 8\] torch.float32, wanted \[1024, 8\]"),
        ({"codebook_dim": 96}, "unknown .*project_in"),
        ({"sampling_rate": "24000"}, "sampling_rate must be a whole number"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, values, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(CheckpointError, match=message):
        read_snac(folder)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(name)}


def with_(name, value):
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: list(tensors.values()), "wanted tensors by name, found a list"),
        (with_("step", 3), "wanted tensors by name, found .step. with a int"),
        (with_("encoder.block.9.bias", torch.ones(3)), "no part of the network takes: encoder.block.9.bias"),
        (with_("encoder.block.0.bias", torch.ones(7)), r"encoder.0.bias is \[7\] torch.float32, wanted \[6\]"),
        (with_("encoder.block.0.bias", torch.ones(6).int()), "torch.int32, wanted"),
        (without("encoder.block.0.bias"), "has no weights 'encoder.block.0.bias'"),
        (without("decoder.model.3.block.2"), "has no weights 'decoder.model.3.block.2.linear.weight'"),
        (without("quantizer.quantizers.1.codebook"), "has no weights 'quantizer.quantizers.1.codebook.weight'"),
        (without("encoder.block.0.parametrizations.weight.original0"), "half of a weight-norm pair"),
    ],
)
def test_a_broken_checkpoint_is_refused(folder, change, message):
    path = folder / "pytorch_model.bin"
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(CheckpointError, match=message):
        read_snac(folder)


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_checkpoint_runs_nothing(folder):
    path = folder / "pytorch_model.bin"
    torch.save({**torch.load(path, weights_only=True), "x": Hostile(folder / "ran")}, path)
    with pytest.raises(CheckpointError, match="request for .* not followed"):
        read_snac(folder)
    assert not (folder / "ran").exists()


def test_files_that_are_missing_or_cut_short_are_named(folder):
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        read_snac(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights file \(pytorch_model.bin\)"):
        read_snac(folder)
    shutil.copy(PLAIN.folder / "pytorch_model.bin", path)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json"):
        read_snac(folder)


def test_a_saved_folder_that_lies_about_its_sizes_is_refused(plain, tmp_path):
    plain.save(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    network = saved["config"]["network"]
    for change, message in (
        ({"network": []}, "a network needs encoder_width, rates"),
        ({"network": {**network, "extra": 1}}, "a network needs encoder_width, rates"),
        ({"network": {**network, "encoder_width": 10**9}}, "encoder_width must be"),
        ({"network": {**network, "decoder_width": 2**16}}, "its config says"),
        ({"network": {**network, "strides": [8, 4, 2, 1]}}, "must be those of its network"),
        ({"codebook_dim": -1}, "codebook_dim must be above zero"),
    ):
        path.write_text(json.dumps({**saved, "config": {**saved["config"], **change}}))
        with pytest.raises(CheckpointError, match=message):
            audiotok.load(tmp_path)
