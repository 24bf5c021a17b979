"""HiFi-Codec: codes, latents and audio equal upstream's; what a checkpoint or its configuration gets wrong is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import audiotok
from audiotok.backends.hificodec import read_hificodec
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.nn.hifigan import HifiGanGenerator
from audiotok.nn.weight_norm import fold_weight_norm

from .cases import Case, cases

CASES = cases("hificodec")
SMALL = CASES[0]


def by_id(case):
    return case.name


def read(case):
    return read_hificodec(case.folder)


@pytest.fixture(scope="module")
def small():
    """The 16 kHz case. Treat as read-only."""
    return read(SMALL)


@pytest.fixture
def folder(tmp_path):
    """A copy of the 16 kHz case's two files, to be spoiled."""
    for name in (SMALL.meta["checkpoint"], SMALL.meta["config"]):
        shutil.copy(SMALL.folder / name, tmp_path / name)
    return tmp_path


def spoil(folder, change):
    """Changes what the checkpoint holds."""
    path = folder / SMALL.meta["checkpoint"]
    parts = torch.load(path, weights_only=True)
    torch.save(change(parts) or parts, path)


def reconfigure(folder, **values):
    path = folder / SMALL.meta["config"]
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ---- the same as upstream --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_codes_and_audio_are_upstreams(case: Case, parity_table):
    tok = read(case)
    assert (tok.spec.sample_rate, tok.spec.hop_length) == (case.meta["sample_rate"], case.meta["hop"])
    wanted = case.array("codes").transpose(1, 2)  # theirs is [B, F, K]
    codes, wav = tok.encode(case.array("input")), tok.decode(wanted)[:, 0]
    parity_table.fixture(case.id, codes.tokens, wanted, wav=wav, wanted_wav=case.array("recon"), tolerance=1e-4)


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_latents_are_upstreams(case: Case):
    latent, lengths = read(case).features(case.array("input"))
    torch.testing.assert_close(latent, case.array("latent"), rtol=0, atol=2e-4)
    assert lengths.tolist() == [latent.shape[2]] * len(latent)


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_the_rows_of_a_batch_are_what_they_are_alone(case: Case):
    tok, wav = read(case), case.array("input")
    tok.row_by_row = False
    assert torch.equal(tok.encode(wav).tokens, torch.cat([tok.encode(row[None]).tokens for row in wav]))


def test_the_second_kind_of_residual_block_is_as_in_the_papers(folder):
    """Against a second implementation, written from the quirks of the format: two single dilated convolutions."""

    def change(parts):
        for part in ("generator", "encoder"):
            parts[part] = {
                name.replace("convs1", "convs"): value
                for name, value in parts[part].items()
                if ".convs2." not in name and ".convs1.2." not in name
            }

    spoil(folder, change)
    reconfigure(folder, resblock="2", resblock_dilation_sizes=[[1, 3, 9], [5, 2, 9]])  # of which two are used
    tok, wav = read_hificodec(folder), SMALL.array("input")
    assert tok.sizes.resblock_type == 2
    assert tok.sizes.resblock_dilations == ((1, 3), (5, 2))
    parts = torch.load(folder / SMALL.meta["checkpoint"], weights_only=True)
    latent = second_encoder({k: v.double() for k, v in fold_weight_norm(parts["encoder"]).items()}, wav.double())
    torch.testing.assert_close(tok.features(wav)[0], latent.float(), rtol=0, atol=2e-4)


def second_encoder(weights, wav):
    def conv(x, name, dilation=1, **options):
        weight = weights[f"{name}.weight"]
        padding = options.pop("padding", dilation * (weight.shape[2] - 1) // 2)
        return functional.conv1d(x, weight, weights[f"{name}.bias"], dilation=dilation, padding=padding, **options)

    def leaky(x, slope=0.1):
        return torch.where(x < 0, slope * x, x)

    x = conv(wav[:, None], "conv_pre")
    for stage, (factor, kernel) in enumerate([(2, 4), (4, 8), (5, 11), (8, 16)]):
        x = conv(leaky(x), f"ups.{stage}", stride=factor, padding=(kernel - factor) // 2)
        total = torch.zeros_like(x)
        for i, dilations in enumerate([(5, 2), (1, 3)]):  # backwards
            y, name = x, f"resblocks.{2 * stage + i}"
            for j, dilation in enumerate(dilations):
                y = y + conv(leaky(y), f"{name}.convs.{j}", dilation)
            groups = (total + y).unflatten(1, (-1, 16))
            mean, var = groups.mean((2, 3), keepdim=True), groups.var((2, 3), unbiased=False, keepdim=True)
            normed = ((groups - mean) / (var + 1e-6).sqrt()).flatten(1, 2)
            norm = f"normalize.{2 * stage + i}"
            total = normed * weights[f"{norm}.weight"][:, None] + weights[f"{norm}.bias"][:, None]
        x = total / 2
    return conv(leaky(x, 0.01), "conv_post")


# ---- a tokenizer like any other --------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_it_keeps_the_promises_of_the_interface(case: Case, speech, parity_table):
    tok = read(case)
    rows = [audiotok.audio.resample(row, 16000, tok.spec.sample_rate) for row in speech]
    assert len(parity_table.conforms(case.id, tok, rows)) == 10


def test_frames_are_the_whole_hops_of_the_audio(small):
    lengths = [320, 321, 639, 640, 641, 1599, 3210]
    for length in lengths:
        frames = small.encoder(torch.zeros(1, 1, length)).shape[2]
        assert frames == small.num_frames(length) == length // 320
    codes = small.encode([torch.zeros(1, length) for length in (1, 319, 320, 959)])
    assert codes.lengths.tolist() == [1, 1, 1, 2]
    wav = small.decode(codes)
    assert wav.shape == (4, 1, 959)
    assert wav[3, 0, :640].any()
    assert not wav[3, 0, 640:].any()  # the rest of 319 samples is in no frame


def test_every_frame_hears_the_whole_utterance(small, speech):
    wav = speech[0][:, :16000].clone()
    before = small.features([wav])[0]
    wav[:, -320:] *= 3
    assert bool((small.features([wav])[0][..., 0] != before[..., 0]).any())
    assert small.context is None


def test_long_codes_decode_in_pieces_of_the_receptive_field():
    tok = read(CASES[1])
    tokens = torch.randint(48, (1, 4, 200), generator=torch.Generator().manual_seed(0))
    whole = tok.decode(tokens)
    tok.chunk_seconds = 30 / tok.spec.frame_rate
    assert tok.decode_context == 20
    assert float((tok.decode(tokens) - whole).abs().max()) < 1e-5
    tok.decode_context = 12
    assert float((tok.decode(tokens) - whole).abs().max()) > 1e-5


@pytest.mark.parametrize("kernels", [(3, 7, 11), (3,)])
def test_the_receptive_field_of_the_zero_padded_generator_is_computed_rightly(kernels):
    torch.manual_seed(0)
    generator = HifiGanGenerator(
        3,
        initial_channels=16,
        upsample_factors=(5, 4, 2),
        upsample_kernels=(11, 8, 4),
        resblock_kernels=kernels,
        resblock_dilations=((1, 3, 5),) * len(kernels),
        padding="zeros",
    ).double()
    features = torch.randn(1, 3, 101, dtype=torch.float64, requires_grad=True)
    generator(features)[..., 50 * 40 : 51 * 40].abs().sum().backward()
    touched = features.grad.abs().sum((0, 1)).nonzero().flatten()
    assert max(50 - int(touched.min()), int(touched.max()) - 50) == generator.context_frames
    assert generator.min_frames == 1
    assert generator(torch.zeros(1, 3, 1, dtype=torch.float64)).shape == (1, 1, 40)
    with pytest.raises(InputError, match="padding must be one of"):
        HifiGanGenerator(3, padding="circular")


def test_the_groups_of_a_stage_stay_together(small):
    assert not small.spec.nested
    with pytest.raises(UnsupportedError, match="needs all its 4 codebooks"):
        small.use_codebooks(2)
    books = torch.load(SMALL.folder / SMALL.meta["checkpoint"], weights_only=True)["quantizer"]
    names = [f"quantizer_modules{stage}.{group}.embedding.weight" for stage in ("", "2") for group in (0, 1)]
    for book, name in zip(small.codebooks, names, strict=True):
        assert torch.equal(book, books[name])


def test_half_of_it_is_enough_for_half_of_the_work(small, speech):
    codes = small.encode(speech[0])
    wav = small.decode(codes)
    encoder, decoder = read(SMALL).use_mode("encode"), read(SMALL).use_mode("decode")
    assert torch.equal(encoder.encode(speech[0]).tokens, codes.tokens)
    assert torch.equal(decoder.decode(codes), wav)
    assert (encoder.generator, decoder.encoder) == (None, None)


# ---- reading ---------------------------------------------------------------------------------------


def test_every_way_to_say_what_it_is_gives_the_same_tokenizer(folder, small):
    checkpoint, config = folder / SMALL.meta["checkpoint"], folder / SMALL.meta["config"]
    assert audiotok.convert("hificodec", folder).fingerprint == small.fingerprint
    assert read_hificodec(checkpoint, config=config).fingerprint == small.fingerprint
    assert read_hificodec(checkpoint, sample_rate=16000).fingerprint == small.fingerprint  # kernels as published
    assert small.spec.name == "hificodec-16khz-hop320"
    assert read_hificodec(folder, name="mine").spec.name == "mine"
    assert small.provenance["converted_from"]["file"] == "HiFi-Codec-16k-320d"
    assert len(small.provenance["converted_from"]["sha256"]) == 64


def test_what_shapes_do_not_tell_must_be_said(folder):
    checkpoint = folder / SMALL.meta["checkpoint"]
    with pytest.raises(InputError, match="does not say its sample rate: give config= .* or sample_rate="):
        read_hificodec(checkpoint)
    with pytest.raises(InputError, match="sample_rate=24000, but the configuration of .* says 16000"):
        read_hificodec(folder, sample_rate=24000)
    with pytest.raises(InputError, match="sample_rate must be a whole number from 1"):
        read_hificodec(checkpoint, sample_rate=0)
    other = CASES[1].folder / CASES[1].meta["checkpoint"]
    with pytest.raises(CheckpointError, match=r"cannot tell the upsample_rates, and kernels \[11, 8, 8\].*config="):
        read_hificodec(other, sample_rate=24000)


def test_a_folder_with_several_checkpoints_is_not_guessed_at(folder):
    shutil.copy(folder / SMALL.meta["checkpoint"], folder / "HiFi-Codec-24k-320d")
    with pytest.raises(CheckpointError, match="found HiFi-Codec-16k-320d, HiFi-Codec-24k-320d: give the file itself"):
        read_hificodec(folder)
    (folder / "HiFi-Codec-24k-320d").unlink()
    shutil.copy(folder / SMALL.meta["config"], folder / "config_24k_320d.json")
    with pytest.raises(CheckpointError, match=r"config_16k_320d.json, config_24k_320d.json"):
        read_hificodec(folder)
    (folder / SMALL.meta["checkpoint"]).unlink()
    with pytest.raises(CheckpointError, match="found none"):
        read_hificodec(folder, config=folder / SMALL.meta["config"])
    with pytest.raises(CheckpointError, match="no such file"):
        read_hificodec(folder / "absent")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upsample_rates": [10**9, 5, 4, 2]}, "whole number from 1 to 1024, not 1000000000"),
        ({"upsample_rates": [8, 5, 4]}, "3 up-sampling factors, 4 kernels"),
        ({"upsample_rates": [9, 5, 4, 2]}, "must exceed its factor by 0, 2, 4, ..., not 16 and 9"),
        ({"upsample_rates": "8542"}, "upsample_factors must be a list"),
        ({"upsample_rates": [8, 5, 4, True]}, "not True"),
        ({"upsample_kernel_sizes": [16, 10, 8, 4]}, r"is \[16, 10, 8, 4\], its weights say \[16, 11, 8, 4\]"),
        ({"upsample_initial_channel": 10**9}, "is 1000000000, its weights say 64"),
        ({"resblock_kernel_sizes": [3, 7]}, r"its weights say \[3, 1\]"),
        ({"resblock_dilation_sizes": [[1, 3, 10**9], [1, 3, 5]]}, "from 1 to 1024"),
        ({"resblock_dilation_sizes": [[1, 3], [1, 3, 5]]}, "needs 3 dilations, not"),
        ({"resblock_dilation_sizes": [1, 3]}, "needs 3 dilations, not 1"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "must be 2 lists"),
        ({"sampling_rate": 10**12}, "sampling_rate must be a whole number"),
        ({"sampling_rate": "16000"}, "sampling_rate must be a whole number"),
        ({"n_codes": 1024}, "n_codes of its configuration is 1024, its weights say 64"),
        ({"n_code_groups": 4}, "n_code_groups of its configuration is 4, its weights say 2"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, values, message):
    reconfigure(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_hificodec(folder)


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_checkpoint_runs_nothing(folder):
    spoil(folder, lambda parts: {**parts, "x": Hostile(folder / "ran")})
    with pytest.raises(CheckpointError, match="request for .* not followed"):
        read_hificodec(folder)
    assert not (folder / "ran").exists()


def without(part, name):
    return lambda parts: {**parts, part: {k: v for k, v in parts[part].items() if not k.startswith(name)}}


def with_(part, name, value):
    return lambda parts: {**parts, part: {**parts[part], name: value}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: [parts], "wanted a state dict named 'generator', found NoneType"),
        (lambda parts: {"generator": parts["generator"]}, "wanted a state dict named 'encoder'"),
        (lambda parts: {**parts, "quantizer": 3}, "'quantizer', found int"),
        (with_("encoder", "conv_pre.bias", [1.0]), "wanted tensors by name, found 'conv_pre.bias' with a list"),
        (
            with_("encoder", "conv_pre.bias", torch.ones(8, dtype=torch.int32)),
            r"conv_pre.bias is \[8\] torch.int32, wanted",
        ),
        (
            with_("encoder", "conv_pre.bias", torch.ones(1).expand(10**12)),
            "as large as they say, found a tensor .1000000000000",
        ),
        (with_("encoder", "conv_pre.bias", torch.ones(9)), r"conv_pre.bias is \[9\] torch.float32, wanted \[8\]"),
        (with_("encoder", "extra.weight", torch.ones(9)), "unknown .*encoder.extra.weight"),
        (without("encoder", "conv_post.bias"), "missing .*encoder.conv_post.bias"),
        (without("encoder", "conv_pre.weight_g"), "half of a weight-norm pair"),
        (without("encoder", "normalize.7"), "missing .*encoder.norms.7.bias"),
        (without("generator", "ups."), "8 residual blocks for 0 up-sampling stages"),
        (without("generator", "ups.3"), "8 residual blocks for 3 up-sampling stages"),
        (without("generator", "resblocks.7"), "7 residual blocks for 4 up-sampling stages"),
        (without("quantizer", "quantizer_modules."), "groups.0.layers.0.books.0.entries is missing"),
        (without("quantizer", "quantizer_modules2.1"), "missing .*quantizer.groups.1.layers.1"),
        (without("quantizer", "quantizer_modules.1"), "n_code_groups of its configuration is 2, its weights say 1"),
        (with_("quantizer", "quantizer_modules.0.embedding.weight", torch.ones(0, 64)), "codebooks are empty"),
    ],
)
def test_a_broken_checkpoint_is_refused(folder, change, message):
    spoil(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_hificodec(folder)


def test_a_truncated_checkpoint_is_refused(folder):
    path = folder / SMALL.meta["checkpoint"]
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match="HiFi-Codec-16k-320d"):
        read_hificodec(folder)


def test_a_saved_folder_that_lies_about_its_sizes_is_refused(small, tmp_path):
    small.save(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    for change, message in (
        ({"groups": 3}, "codebooks must be those of its network"),
        ({"groups": 10**9}, "groups must be a whole number from 1 to 4"),
        ({"network": []}, "sizes of a network must be"),
        ({"network": {**saved["config"]["network"], "base_channels": 10**9}}, "base_channels must be"),
        ({"network": {**saved["config"]["network"], "base_channels": 2**15}}, "the encoder cannot have"),
        ({"network": {**saved["config"]["network"], "base_channels": 4}}, "cannot be normalised in 0 groups"),
        ({"network": {**saved["config"]["network"], "initial_channels": 2**16}}, "its config says"),
        ({"network": {**saved["config"]["network"], "resblock_dilations": 3}}, "resblock_dilations must be"),
    ):
        path.write_text(json.dumps({**saved, "config": {**saved["config"], **change}}))
        with pytest.raises(CheckpointError, match=message):
            audiotok.load(tmp_path)
