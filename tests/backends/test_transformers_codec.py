"""Codecs of the transformers library: its own codes and audio, in any batch; nothing of a stranger's file is run."""

import copy
import gc
import json
import pickle
import shutil
import subprocess
import sys
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import audiotok
from audiotok import convert
from audiotok.backends import transformers_codec_config
from audiotok.backends.transformers_codec import TransformersCodec
from audiotok.backends.transformers_codec_config import codec_config, plain
from audiotok.backends.transformers_codec_network import sinc_resample
from audiotok.errors import CheckpointError, InputError, MissingDependencyError, UnsupportedError
from audiotok.hub import load_folder
from tests.parity_table import same_length

from .cases import Case, cases

HUBERT = Case("xcodec", "hubert-like")
READERS = {
    "xcodec-wavlm": "xcodec",
    "higgs-audio-v2": "higgs-audio-v2",
    "xcodec2": "xcodec2",
    "neucodec": "neucodec",
}
LOADED: dict[str, TransformersCodec] = {}


def loaded(case: Case) -> TransformersCodec:
    """Each checkpoint read once. Treat as read-only."""
    if case.id not in LOADED:
        LOADED[case.id] = convert(READERS.get(case.name, "xcodec"), case.folder)
    return LOADED[case.id]


@pytest.fixture(params=[HUBERT, *cases("transformers-codec")], ids=lambda case: case.id)
def case(request) -> Case:
    return request.param


@pytest.fixture
def folder(case, tmp_path):
    """A copy of a checkpoint, to be broken."""
    return shutil.copytree(case.folder, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("*.npy"))


def short(tok: TransformersCodec, speech: list[torch.Tensor]) -> list[torch.Tensor]:
    """Half a second of each row, at the tokenizer's rate and of unlike lengths."""
    rows = [row[:, 4000 : 12000 - 77 * i] for i, row in enumerate(speech)]
    return [audiotok.audio.resample(row, 16000, tok.spec.sample_rate) for row in rows]


# ---- upstream's own output -------------------------------------------------------------------------


def test_xcodec_codes_audio_and_semantic_features_are_upstreams(parity_table):
    tok = loaded(HUBERT)
    wav = HUBERT.array("input")
    codes = tok.encode(wav)
    parity_table.fixture(
        HUBERT.id, codes.tokens, HUBERT.array("codes"), wav=tok.decode(codes), wanted_wav=HUBERT.array("recon")
    )
    padded = functional.pad(wav, (160, 160))
    hidden = tok.model.semantic_model(padded, output_hidden_states=True).hidden_states
    mean = HUBERT.array("semantic_mean_hidden")
    torch.testing.assert_close(torch.stack(hidden).mean(0)[: len(mean)], mean, atol=1e-5, rtol=0)
    assert (tok.spec.hop_length, tok.spec.codebook_sizes, tok.spec.nested) == (320, (64,) * 8, True)


def test_fewer_codebooks_are_those_of_a_lower_bandwidth():
    tok = copy.deepcopy(loaded(HUBERT)).use_bandwidth(0.6)
    codes = tok.encode(HUBERT.array("input"))
    assert torch.equal(codes.tokens, HUBERT.array("codes_bw0.6"))
    torch.testing.assert_close(tok.decode(codes), HUBERT.array("recon_bw0.6"), atol=1e-4, rtol=0)
    whole = loaded(HUBERT).encode(HUBERT.array("input"))
    assert torch.equal(loaded(HUBERT).decode(whole.truncate(2)), tok.decode(codes))


@pytest.mark.parametrize("case", cases("transformers-codec"), ids=lambda case: case.id)
def test_codes_and_audio_are_upstreams_at_any_length(case, parity_table):
    tok, wav, rate = loaded(case), case.array("input"), case.meta["sample_rate"]
    assert (case.meta["codes_differing_in_float64"], tok.spec.sample_rate) == (0, rate)
    for length in case.meta["lengths"]:
        wanted, recon = case.array(f"codes_{length}")[None], case.array(f"recon_{length}")[None, None]
        codes = tok.encode(wav[None, :length])
        name = case.id if length == len(wav) else f"{case.id}, {length} samples"
        usable = min(recon.shape[2], tok.spec.output_samples(length))
        found = tok.decode(codes)
        parity_table.fixture(
            name, codes.tokens, wanted, wav=found[..., :usable], wanted_wav=recon[..., :usable], tolerance=1e-4
        )
        assert not found[..., usable:].any()
        torch.testing.assert_close(tok.decode(wanted), same_length(recon, tok.decode(wanted)), atol=1e-4, rtol=0)


def test_every_bandwidth_equals_the_library_itself(speech):
    from transformers import XcodecModel

    theirs = XcodecModel.from_pretrained(HUBERT.folder).eval()
    ours = copy.deepcopy(loaded(HUBERT))
    wav = speech[0][None, :, :16000]
    for bandwidth, books in ((0.6, 2), (1.2, 4), (2.4, 8)):
        with torch.no_grad():
            wanted = theirs.encode(wav, bandwidth=bandwidth).audio_codes
            audio = theirs.decode(wanted).audio_values
        codes = ours.use_bandwidth(bandwidth).encode(wav)
        assert ours.spec.num_codebooks == books
        assert torch.equal(codes.tokens, wanted)
        assert torch.equal(ours.decode(codes), audio)


@pytest.mark.parametrize("name", ["xcodec2", "neucodec"])
def test_one_codebook_equals_the_library_itself_on_the_features_of_its_other_extractor(name, speech):
    import transformers

    case = Case("transformers-codec", name)
    tok = loaded(case)
    kind = transformers.Xcodec2Model if name == "xcodec2" else transformers.NeuCodecModel
    theirs, extractor = kind.from_pretrained(case.folder).eval(), transformers.SeamlessM4TFeatureExtractor()
    for row in speech:
        wav = functional.pad(row, (0, -(-(row.shape[1] + 1) // 320) * 320 - row.shape[1]))
        seen = functional.pad(wav, (160, 160)) if name == "xcodec2" else wav
        bands = extractor(seen[0].numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
        with torch.no_grad():
            found = theirs.encode(wav[None], input_features=bands)
            audio = theirs.decode(audio_codes=found.audio_codes).audio_values
        assert torch.equal(tok.encode(row[None]).tokens, found.audio_codes.long())
        assert torch.equal(tok.decode(found.audio_codes), audio)


# ---- the interface ---------------------------------------------------------------------------------


def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = loaded(case)
    rows = short(tok, speech)
    parity_table.conforms(case.id, tok, rows)


def test_neucodec_takes_16_and_gives_24_khz(speech):
    tok = loaded(Case("transformers-codec", "neucodec"))
    assert (tok.spec.sample_rate, tok.spec.output_sample_rate, tok.spec.output_hop_length) == (16000, 24000, 480)
    for length, frames in ((1, 1), (319, 1), (320, 1), (639, 1), (640, 2), (1001, 3)):
        codes = tok.encode(speech[0][None, :, 4000 : 4000 + length])
        wav = tok.decode(codes)
        assert codes.tokens.shape == (1, 1, frames)
        assert wav.shape == (1, 1, -(-length * 3 // 2))
        assert wav.isfinite().all()
        assert not wav[..., 480 * frames :].any()


def test_a_batch_of_equal_rows_is_its_rows(case, speech):
    tok = copy.deepcopy(loaded(case))
    rows = torch.stack([row[:, 4000:12000] for row in speech])
    rows = rows if tok.spec.sample_rate == 16000 else torch.stack([audiotok.audio.resample(r, 2, 3) for r in rows])
    alone = [tok.encode(row[None]) for row in rows]
    tok.row_by_row = False
    together = tok.encode(rows)
    assert torch.equal(together.tokens, torch.cat([one.tokens for one in alone]))
    for one, wav in zip(alone, tok.decode(together), strict=True):
        torch.testing.assert_close(tok.decode(one)[0], wav, atol=1e-4, rtol=0)


def test_the_library_lets_padding_into_the_codes_and_we_do_not(speech):
    from transformers import XcodecModel

    theirs, tok = XcodecModel.from_pretrained(HUBERT.folder).eval(), loaded(HUBERT)
    rows = [speech[0][:, :16000], speech[1][:, :9600]]
    alone = [tok.encode([row]).tokens[0] for row in rows]
    padded = torch.stack([rows[0], functional.pad(rows[1], (0, 6400))])
    with torch.no_grad():
        batch = theirs.encode(padded).audio_codes
    assert torch.equal(batch[0], alone[0])
    assert int((batch[1, :, :30] != alone[1]).sum()) > 100  # of 240
    assert torch.equal(tok.encode(padded, lengths=[16000, 9600])[1].tokens[0], alone[1])


def test_latents_and_codebooks(case, speech):
    tok = loaded(case)
    rows = short(tok, speech)[:1]
    codes, (features, lengths) = tok.encode(rows), tok.features(rows)
    found = tok.embed(codes)
    assert found.shape == features.shape
    assert lengths.tolist() == codes.lengths.tolist()
    assert [len(table) for table in tok.codebooks] == list(tok.spec.codebook_sizes)
    assert torch.equal(tok._quantize(features), codes.tokens)
    assert torch.equal(tok._synthesize(found), tok._decode(codes.tokens, {}))
    if tok.model_type == "xcodec":
        looked_up = sum(table[row] for table, row in zip(tok.codebooks, codes.tokens[0], strict=True))
        torch.testing.assert_close(found[0].T, looked_up, atol=1e-5, rtol=0)


def test_the_decoder_of_xcodec_reaches_as_far_as_its_layers_say():
    tok = loaded(HUBERT)
    assert tok.decode_context == 11
    tokens = HUBERT.array("codes")[:1, :, :60]
    other = tokens.clone()
    other[:, :, 30] = (other[:, :, 30] + 32) % 64
    changed = (tok.decode(tokens) != tok.decode(other))[0, 0].view(60, 320).any(1).nonzero()[:, 0]
    assert 30 - 11 <= int(changed.min()) <= 30 - 9
    assert 30 + 9 <= int(changed.max()) <= 30 + 11
    pieces = copy.deepcopy(tok)
    pieces.chunk_seconds = 0.2
    torch.testing.assert_close(pieces.decode(tokens), tok.decode(tokens), atol=1e-5, rtol=0)
    assert loaded(Case("transformers-codec", "xcodec2")).decode_context is None


def test_half_of_it(case, speech):
    whole = loaded(case)
    rows = short(whole, speech)[:1]
    codes = whole.encode(rows)
    encoder, decoder = (copy.deepcopy(whole).use_mode(mode) for mode in ("encode", "decode"))
    sizes = [sum(value.numel() for value in tok.state_dict().values()) for tok in (encoder, decoder, whole)]
    assert max(sizes[:2]) < sizes[2]
    assert encoder.fingerprint == decoder.fingerprint == whole.fingerprint
    assert torch.equal(encoder.encode(rows).tokens, codes.tokens)
    assert torch.equal(decoder.decode(codes), whole.decode(codes))
    with pytest.raises(UnsupportedError, match="load it without mode="):
        encoder.decode(codes)
    with pytest.raises(UnsupportedError, match="load it without mode="):
        decoder.encode(rows)


def test_what_only_training_needs_is_left_out():
    names = set(loaded(HUBERT).state_dict())
    assert not [name for name in names if "decoder_semantic" in name or "fc1" in name or "embed_avg" in name]
    theirs = set(load_file(HUBERT.folder / "model.safetensors"))
    position = "semantic_model.encoder.pos_conv_embed.conv"
    assert names - {f"model.{name}" for name in theirs} == {f"model.{position}.weight"}  # weight norm is folded


def test_it_is_freed_and_pickled_after_use(speech):
    tok = copy.deepcopy(loaded(HUBERT))
    wanted = tok.encode(speech[0][None, :, :8000])
    for other in (pickle.loads(pickle.dumps(tok)), copy.deepcopy(tok), tok):
        assert torch.equal(other.encode(speech[0][None, :, :8000]).tokens, wanted.tokens)
    alive = weakref.ref(tok.model)
    del tok, other
    gc.collect()
    assert alive() is None


def test_resampling_keeps_what_is_below_the_limit():
    seconds = torch.arange(24000) / 24000
    wav = torch.stack([torch.sin(2 * torch.pi * hertz * seconds) for hertz in (440, 3000, 11000)])
    found = sinc_resample(wav, 24000, 16000)
    assert found.shape == (3, 16000)
    wanted = torch.sin(2 * torch.pi * torch.tensor([[440], [3000]]) * torch.arange(16000) / 16000)
    torch.testing.assert_close(found[:2, 100:-100], wanted[:, 100:-100], atol=5e-3, rtol=0)
    assert float(found[2, 100:-100].abs().max()) < 0.01
    assert sinc_resample(wav, 16000, 16000) is wav
    assert sinc_resample(wav[:, :1], 24000, 16000).shape == (3, 1)


# ---- files -----------------------------------------------------------------------------------------


def test_save_and_load(case, tmp_path, speech):
    tok = loaded(case)
    tok.save(tmp_path)
    again = load_folder(tmp_path)
    rows = short(tok, speech)[:1]
    assert again.fingerprint == tok.fingerprint
    assert torch.equal(again.encode(rows).tokens, tok.encode(rows).tokens)
    assert torch.equal(again.decode(tok.encode(rows)), tok.decode(tok.encode(rows)))
    assert again.provenance == tok.provenance
    assert again.provenance["converted_from"]["file"] == "model.safetensors"


def test_a_configuration_is_whole_and_plain(case):
    values = loaded(case)._config()
    assert json.loads(json.dumps(values)) == values
    assert plain(codec_config(values["model_type"], values["config"])) == values["config"]
    assert {"model_type", "hidden_size"} <= values["config"]["semantic_model_config"].keys()


def test_half_precision_files_other_weight_norm_and_torch_files_are_read(tmp_path, speech):
    shutil.copy(HUBERT.folder / "config.json", tmp_path)
    state = load_file(HUBERT.folder / "model.safetensors")
    state = {name: value for name, value in state.items() if not name.startswith("fc1.")}  # as Higgs Audio's is
    stem = "semantic_model.encoder.pos_conv_embed.conv."
    state[f"{stem}weight_g"] = state.pop(f"{stem}parametrizations.weight.original0")
    state[f"{stem}weight_v"] = state.pop(f"{stem}parametrizations.weight.original1")
    state["semantic_model.masked_spec_embed"] = torch.zeros(32)
    torch.save(state, tmp_path / "pytorch_model.bin")
    wav = speech[0][None, :, :8000]
    tok = convert("xcodec", tmp_path, name="mine")
    assert tok.spec.name == "mine"
    assert torch.equal(tok.encode(wav).tokens, loaded(HUBERT).encode(wav).tokens)
    assert torch.equal(convert("xcodec", tmp_path / "pytorch_model.bin").encode(wav).tokens, tok.encode(wav).tokens)
    save_file({name: value.half().contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    assert convert("xcodec", tmp_path / "model.safetensors").dtype == torch.float32


@pytest.mark.parametrize("case", [HUBERT], ids=["xcodec"])
def test_a_file_names_no_code_to_fetch_or_run(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    code = {"auto_map": {"AutoModel": "evil--modeling.Evil"}, "trust_remote_code": True}
    kernels = {"attn_implementation": "evil/kernels", "_attn_implementation": "evil/kernels"}
    for part in (values, values["semantic_model_config"], values["acoustic_model_config"]):
        part |= code | kernels | {"return_dict": False, "output_hidden_states": False}
    path.write_text(json.dumps(values))
    tok = convert("xcodec", folder)
    assert tok.fingerprint == loaded(HUBERT).fingerprint
    for model in (tok.model, tok.model.semantic_model):
        assert model.config._attn_implementation in ("sdpa", "eager")
    assert "evil" not in json.dumps(tok._config())


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


def broken_files() -> dict:
    def without(folder, name):
        (folder / name).unlink()

    def truncated(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])

    def tensors(folder, change):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    def hostile(folder):
        (folder / "model.safetensors").unlink()
        torch.save({"fc.weight": Bomb()}, folder / "pytorch_model.bin")

    def not_tensors(folder):
        (folder / "model.safetensors").unlink()
        torch.save({"fc.weight": 3}, folder / "pytorch_model.bin")

    def preprocessor(folder):
        (folder / "preprocessor_config.json").write_text('{"sampling_rate": 24000}')

    return {
        "no weights": (lambda folder: without(folder, "model.safetensors"), "no weights file"),
        "no config": (lambda folder: without(folder, "config.json"), "config.json"),
        "truncated": (truncated, "cut short"),
        "a tensor missing": (
            lambda folder: tensors(folder, lambda state: state.pop("fc.weight")),
            "missing .*fc.weight",
        ),
        "a tensor too many": (
            lambda folder: tensors(folder, lambda state: state.update(more=torch.zeros(2))),
            "unknown .*model.more",
        ),
        "another shape": (
            lambda folder: tensors(folder, lambda state: state.update({"fc.bias": torch.zeros(2)})),
            r"fc.bias is \[2\]",
        ),
        "whole numbers": (
            lambda folder: tensors(folder, lambda state: state.update({"fc.bias": state["fc.bias"].long()})),
            "fc.bias is .*int64",
        ),
        "a pickle that runs code": (hostile, "request for .*exec"),
        "no tensors": (not_tensors, "wanted tensors by name"),
        "another rate": (preprocessor, "sampling_rate is 24000, but config.json says 16000"),
    }


@pytest.mark.parametrize("case", [HUBERT], ids=["xcodec"])
@pytest.mark.parametrize("what", broken_files())
def test_broken_and_hostile_files_are_refused(folder, what):
    break_it, message = broken_files()[what]
    break_it(folder)
    with pytest.raises(CheckpointError, match=message):
        convert("xcodec", folder)


SEMANTIC, ACOUSTIC = "semantic_model_config", "acoustic_model_config"
ABSURD = [
    ("xcodec", "model_type", "xcodec2"),
    ("xcodec", "codebook_size", 10**9),
    ("xcodec", "codebook_size", 1),
    ("xcodec", "target_bandwidths", [1e6]),
    ("xcodec", "target_bandwidths", []),
    ("xcodec", "target_bandwidths", [float("nan")]),
    ("xcodec", "target_bandwidths", [0.001]),
    ("xcodec", "sample_rate", 0),
    ("xcodec", "block_dilations", [10**6, 1]),
    ("xcodec", "strides", [1, 2]),
    ("xcodec", SEMANTIC, "hubert"),
    ("xcodec", f"{SEMANTIC}.model_type", "llama"),
    ("xcodec", f"{SEMANTIC}.model_type", ["hubert"]),
    ("xcodec", f"{SEMANTIC}.hidden_size", 10**9),
    ("xcodec", f"{SEMANTIC}.hidden_size", 1 << 23),
    ("xcodec", f"{SEMANTIC}.hidden_size", "32"),
    ("xcodec", f"{SEMANTIC}.num_hidden_layers", 10**9),
    ("xcodec", f"{SEMANTIC}.num_hidden_layers", 257),
    ("xcodec", f"{SEMANTIC}.num_hidden_layers", 4),
    ("xcodec", f"{SEMANTIC}.num_attention_heads", 0),
    ("xcodec", f"{SEMANTIC}.initializer_range", -1.0),
    ("xcodec", f"{SEMANTIC}.hidden_act", "os.system"),
    ("xcodec", f"{SEMANTIC}.conv_stride", [5, 2, 2, 2, 2, 2, 1]),
    ("xcodec", f"{SEMANTIC}.conv_dim", [12] * 1000),
    ("xcodec", f"{ACOUSTIC}.model_type", "hubert"),
    ("xcodec", f"{ACOUSTIC}.n_codebooks", 10**9),
    ("xcodec", f"{ACOUSTIC}.downsampling_ratios", [2] * 64),
    ("xcodec", f"{ACOUSTIC}.downsampling_ratios", [8, 5, 4, -2]),
    ("xcodec", f"{ACOUSTIC}.upsampling_ratios", [2, 4, 5, 8]),
    ("higgs-audio-v2", "semantic_sample_rate", 1),
    ("higgs-audio-v2", "semantic_sample_rate", 15999),
    ("higgs-audio-v2", "downsample_factor", 0),
    ("xcodec2", "quantization_levels", [1024] * 8),
    ("xcodec2", "quantization_levels", [1] * 8),
    ("xcodec2", "quantization_levels", [4] * 9),
    ("xcodec2", "sampling_rate", 24000),
    ("xcodec2", "rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    ("xcodec2", "downsampling_ratios", [2, 2, 4, 5, 4]),
    ("xcodec2", "num_attention_heads", 3),
    ("xcodec2", f"{SEMANTIC}.model_type", "hubert"),
    ("xcodec2", f"{SEMANTIC}.max_source_positions", 1 << 20),
    ("xcodec2", f"{SEMANTIC}.add_adapter", True),
    ("neucodec", "output_sampling_rate", 48000),
    ("neucodec", "output_sampling_rate", 22050),
    ("neucodec", "input_sampling_rate", 8000),
]


@pytest.mark.parametrize(("family", "field", "value"), ABSURD)
def test_absurd_configurations_are_refused(family, field, value, tmp_path):
    source = HUBERT if family == "xcodec" else Case("transformers-codec", family)
    values = json.loads((source.folder / "config.json").read_text())
    inner, _, name = field.rpartition(".")
    (values[inner] if inner else values)[name] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(source.folder / "model.safetensors")
    with pytest.raises(CheckpointError):
        convert(family, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("num_hidden_layers", 10**9), ("model_type", "llama"), ("conv_stride", 3)]
)
def test_a_saved_folder_that_lies_is_refused(field, value, tmp_path):
    loaded(HUBERT).save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["config"]["config"][SEMANTIC][field] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not describe a tokenizer"):
        load_folder(tmp_path)


def test_arguments_that_do_not_fit():
    tok = loaded(HUBERT)
    config = tok._config()["config"]
    with pytest.raises(InputError, match="no codec 'llama' here: there are xcodec"):
        TransformersCodec(tok.spec, model_type="llama", config=config)
    with pytest.raises(InputError, match="must be an object"):
        TransformersCodec(tok.spec, model_type="xcodec", config=[1])
    with pytest.raises(InputError, match="its configuration is of a codec of Spec"):
        TransformersCodec(tok.spec.truncate(2), model_type="xcodec", config=config)


def test_an_old_library_is_named(monkeypatch):
    monkeypatch.setitem(transformers_codec_config._CLASSES, "xcodec", "XcodecConfigOfTheFuture")
    with pytest.raises(MissingDependencyError, match=r"has no XcodecConfigOfTheFuture: pip install 'transformers>="):
        convert("xcodec", HUBERT.folder)


def test_the_library_is_imported_only_when_one_is_built():
    code = "import sys, audiotok.backends.transformers_codec; print('transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
