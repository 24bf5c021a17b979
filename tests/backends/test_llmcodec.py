"""LLM-Codec: codes, latents and audio equal upstream's; its tokens are words; what a checkpoint or its configuration
gets wrong is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.nn import functional

import audiotok
from audiotok.backends.llmcodec import read_llmcodec
from audiotok.checkpoint import read_yaml
from audiotok.errors import CheckpointError, InputError
from audiotok.quantize.levels import pack, unpack

from .cases import cases

(CASE,) = cases("llmcodec")
TOKENS = pack([CASE.array(f"codes_{level}") for level in range(3)])


@pytest.fixture(scope="module")
def tok():
    """Treat as read-only."""
    return read_llmcodec(CASE.folder)


@pytest.fixture
def folder(tmp_path):
    """A copy of the checkpoint and its configuration, without the two files of words."""
    for name in ("ckpt.pth", "config.yaml"):
        shutil.copy(CASE.folder / name, tmp_path / name)
    return tmp_path


# ---- the same as upstream --------------------------------------------------------------------------


def test_codes_and_audio_are_upstreams(tok, parity_table):
    assert (tok.spec.sample_rate, tok.spec.hop_length) == (16000, 4 * 480)
    codes, wav = tok.encode(CASE.array("input")), tok.decode(TOKENS)[:, 0]
    parity_table.fixture(CASE.id, codes.tokens, TOKENS, wav=wav, wanted_wav=CASE.array("recon"), tolerance=1e-4)
    for level, found in enumerate(unpack(codes.tokens, tok.spec.row_levels)):
        assert torch.equal(found, CASE.array(f"codes_{level}"))


def test_latents_are_upstreams(tok):
    features, _ = tok.features(CASE.array("input"))
    frames = rearrange(features, "b (s d) f -> b d (f s)", s=4)
    torch.testing.assert_close(frames, CASE.array("latent"), rtol=0, atol=2e-4)


def test_a_seed_gives_the_noise_that_upstream_draws_for_it():
    tok = read_llmcodec(CASE.folder)
    tok.noise_seed = 0
    torch.testing.assert_close(tok.decode(TOKENS)[:, 0], CASE.array("recon_noise"), atol=1e-4, rtol=0)
    assert float((CASE.array("recon") - CASE.array("recon_noise")).abs().max()) > 0.1


def test_codebooks_are_the_words_projected_by_each_level(tok):
    weights = torch.load(CASE.folder / "ckpt.pth", weights_only=True)["codec_model"]
    coarse = torch.load(CASE.folder / "layer1.pth", weights_only=True)
    fine = torch.load(CASE.folder / "embed_llama2.pt", weights_only=True)["weight"]
    latent = CASE.array("latent")
    residual, total = latent, torch.zeros_like(latent)
    for level, (words, stride, rows) in enumerate([(coarse, 4, 1), (fine, 2, 3), (fine, 1, 7)]):
        name = f"quantizer.quantizers.{level}"
        assert torch.equal(weights[f"{name}.codebook.weight"], words)
        table = functional.linear(words, weights[f"{name}.cb_proj.weight"], weights[f"{name}.cb_proj.bias"])
        torch.testing.assert_close(tok.codebooks[rows - 1], table, atol=1e-5, rtol=0)
        pooled = functional.avg_pool1d(residual, stride)
        codes = functional.cosine_similarity(pooled[:, :, :, None], table.T[None, :, None], dim=1).argmax(2)
        assert torch.equal(codes, CASE.array(f"codes_{level}"))
        found = table[codes].transpose(1, 2).repeat_interleave(stride, 2)
        residual, total = residual - found, total + found
        embedded = rearrange(tok.embed(tok.encode(CASE.array("input")).truncate(rows)), "b (s d) f -> b d (f s)", s=4)
        torch.testing.assert_close(embedded, total, atol=1e-4, rtol=0)


def test_the_words_themselves_are_not_kept(tok, tmp_path):
    tok.save(tmp_path)
    assert {tuple(value.shape) for name, value in tok.state_dict().items() if name.startswith("quantizer")} == {
        (40, 64),
        (56, 64),
    }
    assert "LLaMA 2 Community License" in (tmp_path / "README.md").read_text()


# ---- a tokenizer like any other --------------------------------------------------------------------


def test_it_keeps_the_promises_of_the_interface(tok, speech, parity_table):
    rows = [row[:, :16000] for row in speech]
    assert "batches" in parity_table.conforms(CASE.id, tok, rows)


def test_audio_is_padded_to_whole_windows_of_two_frames(tok):
    assert [tok.num_frames(length) for length in (1, 1920, 1921, 3840, 3841, 20000)] == [2, 2, 2, 2, 4, 12]
    codes = tok.encode([torch.zeros(1, length) for length in (1, 3840, 4000)])
    assert codes.lengths.tolist() == [2, 2, 4]
    assert tok.decode(codes).shape == (3, 1, 4000)


def test_pieces_of_any_length_give_the_codes_and_the_audio_of_the_whole():
    tok, wav = read_llmcodec(CASE.folder), CASE.array("input")
    audio = tok.decode(TOKENS)
    pushed = []
    tok.encoder.register_forward_hook(lambda *_: pushed.append(1))
    for chunk_seconds in (1e-3, 0.4, 0.7):  # rounded up to whole windows: 2, 4 and 6 of 18 frames
        tok.chunk_seconds = chunk_seconds
        assert torch.equal(tok.encode(wav).tokens, TOKENS)
        torch.testing.assert_close(tok.decode(TOKENS), audio, atol=1e-5, rtol=0)
    assert len(pushed) == 9 + 5 + 3


def test_half_a_window_of_tokens_decodes(tok):
    some = TOKENS[..., :5]
    wav = tok.decode(some)
    assert wav.shape == (1, 1, 5 * 1920)
    difference = (wav - tok.decode(TOKENS)[..., : 5 * 1920]).abs()
    assert float(difference[..., : 2 * 1920].max()) < 1e-5  # too far from the window that was cut in two
    assert float(difference[..., 4 * 1920 :].max()) > 1e-3


def test_the_first_levels_encode_and_decode_alone():
    tok = read_llmcodec(CASE.folder).use_codebooks(1)
    codes = tok.encode(CASE.array("input"))
    assert torch.equal(codes.tokens, TOKENS[:, :1])
    assert tok.spec.codebook_sizes == (40,)
    assert tok.decode(codes).shape == (1, 1, 32000)
    with pytest.raises(InputError, match="take 1, 3, 7 of them, not 5"):
        tok.use_codebooks(5)


# ---- reading ---------------------------------------------------------------------------------------


def test_every_way_to_say_what_it_is_gives_the_same_tokenizer(folder, tok):
    assert audiotok.convert("llmcodec", folder).fingerprint == tok.fingerprint
    apart = folder / "apart" / "semantic_acoustic.pth"
    apart.parent.mkdir()
    shutil.copy(folder / "ckpt.pth", apart)
    (folder / "as.json").write_text(json.dumps(read_yaml(folder / "config.yaml")))
    assert read_llmcodec(apart, config=folder / "config.yaml").fingerprint == tok.fingerprint
    assert read_llmcodec(apart.parent, config=str(folder / "as.json")).fingerprint == tok.fingerprint
    with pytest.raises(CheckpointError, match="config.yaml"):
        read_llmcodec(apart)
    assert tok.spec.name == "llmcodec"
    assert read_llmcodec(folder, name="mine").spec.name == "mine"
    assert tok.provenance["converted_from"]["file"] == "ckpt.pth"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_dim": 10**9}, "encoder_width must be a whole number from 1 to 65536, not 1000000000"),
        ({"latent_dim": 512}, "latent_dim is 512, but the encoder ends with 64 channels"),
        ({"use_cblinear": False}, "only networks with use_cblinear are known, not False"),
        ({"vq_strides": [4, 2]}, "no part of the network takes: quantizer.quantizers.2"),
        ({"vq_strides": [4, 2, 1, 1]}, "has no weights 'quantizer.quantizers.3.codebook.weight'"),
        ({"attn_window_size": None}, "no weights 'encoder.block.5.weight'|no weights"),
        ({"sample_rate": 16000.0}, "sample_rate must be a whole number"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, values, message):
    config = read_yaml(folder / "config.yaml")
    config["generator"]["config"].update(values)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_llmcodec(folder, config=folder / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_rate: 16000", "holds no generator.config"),
        ("generator: [1, 2]", "holds no generator.config"),
        ("generator: {config: 3}", "holds no generator.config"),
        ("generator: !!python/object/apply:os.getcwd []", "tag"),
    ],
)
def test_another_yaml_is_refused(folder, text, message):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_llmcodec(folder)


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


LEVEL = "quantizer.quantizers.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {"generator": weights}, "holds no codec_model"),
        (lambda weights: [weights], "holds no codec_model"),
        (lambda weights: {"codec_model": 3}, "wanted tensors by name, found a int"),
        (lambda weights: {"codec_model": {**weights, "x.bias": torch.ones(1)}}, "no part of the network takes: x.bias"),
        (
            lambda weights: {"codec_model": {**weights, f"{LEVEL}.cb_proj.weight": torch.ones(64, 63)}},
            r"quantizers.1 takes words \[56, 64\] to the latents by \[64, 63\] and \[64\], wanted a width of 64",
        ),
        (
            lambda weights: {"codec_model": {**weights, f"{LEVEL}.codebook.weight": torch.ones(0, 64)}},
            r"takes words \[0, 64\]",
        ),
        (
            lambda weights: {"codec_model": {k: v for k, v in weights.items() if k != f"{LEVEL}.cb_proj.bias"}},
            "has no weights 'quantizer.quantizers.1.cb_proj.bias'",
        ),
        (
            lambda weights: {"codec_model": {k: v for k, v in weights.items() if ".rel_pos." not in k}},
            "has no weights 'encoder.block.5.rel_pos.inv_freq'",
        ),
    ],
)
def test_a_broken_checkpoint_is_refused(folder, change, message):
    path = folder / "ckpt.pth"
    torch.save(change(torch.load(path, weights_only=True)["codec_model"]), path)
    with pytest.raises(CheckpointError, match=message):
        read_llmcodec(folder)


def test_a_hostile_checkpoint_runs_nothing(folder):
    path = folder / "ckpt.pth"
    torch.save({**torch.load(path, weights_only=True), "x": Hostile(folder / "ran")}, path)
    with pytest.raises(CheckpointError, match="request for .* not followed"):
        read_llmcodec(folder)
    assert not (folder / "ran").exists()


def test_files_that_are_missing_or_cut_short_are_named(folder):
    path = folder / "ckpt.pth"
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match="ckpt.pth"):
        read_llmcodec(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="holds no weights file"):
        read_llmcodec(folder)
