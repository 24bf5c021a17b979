"""WavTokenizer: Lightning's and transformers' files give upstream's codes and audio, in every way of encoding."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from audiotok import audio, convert
from audiotok.backends.wavtokenizer_network import PositionNet
from audiotok.checkpoint import write_safetensors
from audiotok.errors import CheckpointError, UnsupportedError
from audiotok.nn.flow import Pieces

from .cases import Case, cases

CASES = cases("wavtokenizer")
HOP320, HOP600 = CASES


def tokens_of(case: Case) -> Tensor:
    """Upstream's codes [K, B, F] as ours."""
    return case.array("codes").transpose(0, 1)


def checkpoint_of(case: Case) -> Path:
    return case.folder / case.meta["checkpoint"]


def state_of(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(checkpoint_of(case), weights_only=True)["state_dict"]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_codes_and_audio_are_upstreams(case, parity_table):
    tok = convert("wavtokenizer", case.folder)
    parity_table.fixture(
        case.id,
        tok.encode(case.array("input")).tokens,
        tokens_of(case),
        wav=tok.decode(tokens_of(case)),
        wanted_wav=case.array("recon")[:, None],
        tolerance=case.meta["tolerance"]["recon_abs"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_latents_are_upstreams(case):
    tok = convert("wavtokenizer", case.folder)
    features, lengths = tok.features(case.array("input"))
    assert lengths.tolist() == [case.meta["codes_shape"][2]] * len(features)
    torch.testing.assert_close(features, case.array("latent"), atol=case.meta["tolerance"]["latent_abs"], rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = convert("wavtokenizer", case.folder)
    rows = [audio.resample(row, 16000, 24000)[:, :48000] for row in speech]
    parity_table.conforms(case.id, tok, rows)


def test_what_the_spec_says():
    tok = convert("wavtokenizer", HOP600.folder)
    spec = tok.spec
    assert (spec.name, spec.sample_rate, spec.hop_length, spec.codebook_sizes) == (
        "wavtokenizer-24khz-hop600",
        24000,
        600,
        (64,),
    )
    assert (spec.frame_rate, spec.batching, spec.streamable, spec.nested) == (40.0, "mask", False, False)
    assert [tok.num_frames(samples) for samples in (1, 599, 600, 601, 36077)] == [1, 1, 1, 2, 61]
    assert [table.shape for table in tok.codebooks] == [(64, 48)]
    with pytest.raises(UnsupportedError, match="does not stream"):
        tok.stream()
    assert convert("wavtokenizer", HOP600.folder, name="wt").spec.name == "wt"


def test_pieces_of_any_length_give_the_same_codes_and_audio(speech):
    tok = convert("wavtokenizer", HOP320.folder)
    wav = audio.resample(speech[0], 16000, 24000)
    whole = tok.encode(wav)
    decoded = tok.decode(whole)
    for seconds in (1 / 75, 0.1, 0.7):
        tok.chunk_seconds = seconds
        assert torch.equal(tok.encode(wav).tokens, whole.tokens)
        torch.testing.assert_close(tok.decode(whole), decoded, atol=1e-5, rtol=0)


def test_the_position_net_is_what_is_written_out_here():
    """Channels first, with the matrix of all frames by all frames."""
    torch.manual_seed(0)
    net = PositionNet(24, 4)
    state = net.state_dict()
    net.load_state_dict({name: torch.randn_like(value) * 0.3 for name, value in state.items()})
    state = net.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.group_norm(x, 4, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return torch.nn.functional.conv1d(x, weight, state[f"{name}.bias"], padding=weight.shape[2] // 2)

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    x = y = torch.randn(2, 24, 50)
    for block in range(5):
        name = f"blocks.{block}"
        if block == 2:
            seen = norm(y, f"{name}.norm")
            q, k, v = (conv(seen, f"{name}.{part}") for part in "qkv")
            weights = (q.mT @ k * 24**-0.5).softmax(2)
            y = y + conv(v @ weights.mT, f"{name}.proj_out")
        else:
            inside = conv(swish(norm(y, f"{name}.norm1")), f"{name}.conv1")
            y = y + conv(swish(norm(inside, f"{name}.norm2")), f"{name}.conv2")
    wanted = norm(y, "norm").mT
    with torch.no_grad():
        torch.testing.assert_close(net(x.mT, Pieces()), wanted, atol=1e-5, rtol=0)
        flow = Pieces(last=False)
        assert net(x.mT[:, :30], flow).shape == (2, 0, 24)
        flow.last = True
        torch.testing.assert_close(net(x.mT[:, 30:], flow), wanted, atol=1e-5, rtol=0)


def test_norms_stay_exact_over_long_audio():
    """Sums over 20 minutes of frames, of values far from zero."""
    torch.manual_seed(0)
    norm = PositionNet(32, 1).norm
    x = torch.randn(1, 48000, 32) + 30
    with torch.no_grad():
        found = norm(x)
        wanted = torch.nn.functional.layer_norm(x.double(), x.shape[1:], eps=1e-6)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


# ---- files ------------------------------------------------------------------------------------------------------


def transformers_folder(case: Case, folder: Path, prefix: str, **change: object) -> Path:
    """A fixture's weights as transformers names them, with its configuration."""
    state, named = state_of(case), {}
    for name, value in state.items():
        encodec = name.removeprefix("feature_extractor.encodec.")
        if encodec.startswith("encoder.model."):
            name = prefix + encodec.replace("encoder.model.", "encoder.layers.").replace(".conv.conv.", ".conv.")
            name = name.replace("weight_g", "parametrizations.weight.original0")
            name = name.replace("weight_v", "parametrizations.weight.original1")
        elif encodec.startswith("quantizer."):
            name = prefix + encodec.replace("quantizer.vq.layers.0._codebook", "quantizer.codebook")
        elif name.startswith(("backbone.", "head.out.")):
            name = name.replace("head.out.", "head.linear.")
        else:
            continue
        named[name] = value.contiguous()
    parts = yaml.safe_load((case.folder / case.meta["config"]).read_text())["model"]["init_args"]
    features, backbone = parts["feature_extractor"]["init_args"], parts["backbone"]["init_args"]
    config = {
        "model_type": "wavtokenizer",
        "architectures": ["WavTokenizerModel"],
        "sampling_rate": parts["sample_rate"],
        "audio_channels": 1,
        "num_filters": case.meta["hyperparameters_not_in_config"]["encoder_n_filters"],
        "upsampling_ratios": features["dowmsamples"],
        "num_residual_layers": 1,
        "dilation_growth_rate": 2,
        "compress": 2,
        "use_conv_shortcut": True,
        "use_causal_conv": False,
        "pad_mode": "reflect",
        "norm_type": "weight_norm",
        "kernel_size": 7,
        "last_kernel_size": 7,
        "residual_kernel_size": 3,
        "num_lstm_layers": 2,
        "hidden_size": backbone["input_channels"],
        "codebook_size": features["vq_bins"],
        "codebook_dim": backbone["input_channels"],
        "decoder_hidden_size": backbone["dim"],
        "decoder_intermediate_size": backbone["intermediate_dim"],
        "decoder_num_layers": backbone["num_layers"],
        "adanorm_num_embeddings": 4,
        "decoder_attention_num_groups": 32,
        "norm_eps": 1e-6,
    }
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", named)
    (folder / "config.json").write_text(json.dumps(config | change))
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("prefix", ["", "encoder_model."])
def test_a_folder_of_transformers_is_the_same_tokenizer(tmp_path, case, prefix):
    tok = convert("wavtokenizer", transformers_folder(case, tmp_path / "hf", prefix))
    assert tok.fingerprint == convert("wavtokenizer", case.folder).fingerprint
    assert torch.equal(tok.encode(case.array("input")).tokens, tokens_of(case))
    assert tok.provenance["converted_from"]["file"] == "model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "encodec"}, "is of a 'encodec', not of a wavtokenizer"),
        ({"use_causal_conv": True}, "use_causal_conv must be False, not True"),
        ({"upsampling_ratios": [8, 5, 4, 10**9]}, "upsampling_ratios must be"),
        ({"decoder_hidden_size": 10**9}, "decoder_hidden_size must be 96"),
        ({"norm_eps": 1e-5}, "norm_eps must be 1e-06"),
        ({"sampling_rate": "24k"}, "sampling_rate must be a whole number"),
    ],
)
def test_a_config_of_transformers_that_lies_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        convert("wavtokenizer", transformers_folder(HOP320, tmp_path, "", **change))


def _folder(case: Case, tmp_path: Path) -> Path:
    shutil.copytree(case.folder, tmp_path / "c", ignore=shutil.ignore_patterns("*.npy", "meta.json"))
    return tmp_path / "c"


def test_several_configurations_need_to_be_told_apart(tmp_path):
    """A published repository holds two checkpoints and two configurations."""
    folder = _folder(HOP320, tmp_path)
    theirs = folder / HOP320.meta["config"]
    shutil.copy(HOP600.folder / HOP600.meta["config"], folder)
    path = folder / HOP320.meta["checkpoint"]
    with pytest.raises(CheckpointError, match=r"several configurations lie beside .* config=\.\.\."):
        convert("wavtokenizer", path)
    assert convert("wavtokenizer", path, config=str(theirs)).spec.hop_length == 320
    with pytest.raises(CheckpointError, match=r"frame40.* dowmsamples must be \[8, 5, 4, 2\]"):
        convert("wavtokenizer", path, config=folder / HOP600.meta["config"])
    shutil.copy(checkpoint_of(HOP600), folder)
    with pytest.raises(CheckpointError, match="holds several weights files"):
        convert("wavtokenizer", folder)


def test_a_checkpoint_without_a_configuration_is_at_24_khz(tmp_path):
    """The large models are published so."""
    path = tmp_path / "wavtokenizer_large_unify_600_24k.ckpt"
    shutil.copy(checkpoint_of(HOP600), path)
    tok = convert("wavtokenizer", path)
    assert tok.fingerprint == convert("wavtokenizer", HOP600.folder).fingerprint
    assert tok.provenance["converted_from"]["file"] == path.name


def test_classes_named_in_the_configuration_are_not_looked_at(tmp_path):
    folder = _folder(HOP320, tmp_path)
    path = folder / HOP320.meta["config"]
    text = path.read_text()
    path.write_text(text.replace("decoder.heads.ISTFTHead", "os.system").replace("decoder.models.", "no.such.module."))
    assert torch.equal(convert("wavtokenizer", folder).encode(HOP320.array("input")).tokens, tokens_of(HOP320))
    path.write_text(text + "other: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(CheckpointError, match="tag"):
        convert("wavtokenizer", folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dim: 96", "dim: 1000000000", "dim must be 96, not 1000000000"),
        ("num_quantizers: 1", "num_quantizers: 8", "num_quantizers must be 1"),
        ("padding: same", "padding: center", "padding must be 'same', not 'center'"),
        ("n_fft: 1280", "n_fft: 1024", "n_fft must be 1280"),
        ("vq_bins: 128", "bins: 128", "vq_bins must be 128, not None"),
        ("  init_args:\n    sample_rate: 24000", "  init_args:\n    rate: 1", "sample_rate must be a whole number"),
        ("backbone:", "backbones:", r"has no model\.init_args\.backbone\.init_args"),
        ("model:", "models:", r"has no model\.init_args: is it the YAML"),
    ],
)
def test_a_configuration_that_lies_is_refused(tmp_path, old, new, message):
    folder = _folder(HOP320, tmp_path)
    path = folder / HOP320.meta["config"]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        convert("wavtokenizer", folder)


def _changed(tmp_path: Path, change: dict[str, object]) -> Path:
    """The first fixture's checkpoint with other weights, None for missing ones."""
    state = {name: value for name, value in {**state_of(HOP320), **change}.items() if value is not None}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


_CODEBOOK = "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"
_FIRST = "feature_extractor.encodec.encoder.model.0.conv.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({_CODEBOOK: None}, "holds no encoder and codebook"),
        ({_CODEBOOK: torch.zeros(128)}, r"wanted weights quantizer.* with 2 axes, found \[128\]"),
        ({_CODEBOOK: torch.zeros(128, 63)}, "wanted"),
        ({_CODEBOOK: [1.0]}, "wanted tensors by name"),
        ({f"{_FIRST}_g": None}, "half of a weight-norm pair"),
        ({"backbone.embed.weight": None}, r"wanted weights backbone\.embed\.weight with 3 axes, found none"),
        ({"backbone.embed.weight": torch.zeros(0, 64, 7)}, "found \\[0, 64, 7\\]"),
        ({"backbone.embed.weight": torch.zeros(95, 64, 7)}, "32 groups cannot share 95 channels"),
        ({"backbone.norm.scale.weight": torch.zeros(96)}, r"must be \[bandwidths, channels\], not \[96\]"),
        ({"backbone.pos_net.2.k.bias": None}, r"has no weights 'backbone\.pos_net\.2\.k\.bias'"),
        ({"backbone.convnext.1.gamma": torch.zeros(95)}, r"gamma is \[95\]"),
        ({"backbone.extra": torch.zeros(1)}, r"no part of the network takes: backbone\.extra"),
        ({"head.out.weight": torch.zeros(1283, 96), "head.istft.window": None}, "both must be even"),
        ({"head.istft.window": torch.ones(1280)}, "is no Hann window of 1280 samples"),
    ],
)
def test_another_network_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        convert("wavtokenizer", _changed(tmp_path, change))


def test_training_leftovers_do_not_matter(tmp_path):
    """Discriminators, the unused decoder of EnCodec, and norms for the other bandwidths."""
    plain = convert("wavtokenizer", HOP320.folder)
    assert any(name.startswith("feature_extractor.encodec.decoder.") for name in state_of(HOP320))
    scale = state_of(HOP320)["backbone.norm.scale.weight"].clone()
    scale[1:] = 1e9
    change = {
        "feature_extractor.encodec.decoder.model.0.conv.conv.bias": None,
        "multiperioddisc.discriminators.0.convs.0.weight_g": torch.zeros(3),
        "backbone.norm.scale.weight": scale,
    }
    assert convert("wavtokenizer", _changed(tmp_path, change)).fingerprint == plain.fingerprint
    scale[0, 0] += 1
    changed = convert("wavtokenizer", _changed(tmp_path, {"backbone.norm.scale.weight": scale}))
    assert not torch.equal(changed.decode(tokens_of(HOP320)), plain.decode(tokens_of(HOP320)))


def test_files_that_are_missing_broken_or_hostile_are_refused(tmp_path):
    folder = _folder(HOP320, tmp_path)
    path = folder / HOP320.meta["checkpoint"]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=path.name):
        convert("wavtokenizer", folder)
    torch.save(state_of(HOP320), path)
    with pytest.raises(CheckpointError, match="is no Lightning checkpoint: it has no state_dict"):
        convert("wavtokenizer", folder)
    path.write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    with pytest.raises(CheckpointError):
        convert("wavtokenizer", folder)
    assert not (tmp_path / "called").exists()
    path.unlink()
    with pytest.raises(CheckpointError, match="holds no weights file"):
        convert("wavtokenizer", folder)


class Calls:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_half_a_network_is_enough_for_half_the_work():
    tok = convert("wavtokenizer", HOP320.folder)
    codes = tok.encode(HOP320.array("input"))
    wav = tok.decode(codes)
    encoder = convert("wavtokenizer", HOP320.folder).use_mode("encode")
    decoder = convert("wavtokenizer", HOP320.folder).use_mode("decode")
    assert torch.equal(encoder.encode(HOP320.array("input")).tokens, codes.tokens)
    assert torch.equal(decoder.decode(codes), wav)
