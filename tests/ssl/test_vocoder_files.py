"""Vocoders are read from both layouts; nothing in a folder is run, and what is wrong is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from audiotok.errors import CheckpointError, InputError
from audiotok.nn.weight_norm import fold_weight_norm
from audiotok.ssl.vocoder_files import load_vocoder, plain_facts, save_vocoder

HIFIGAN = Path(__file__).parents[1] / "fixtures" / "speechbrain-unit-hifigan"
SOURCE = HIFIGAN / "multi-layer-attention"
TOKENS = torch.arange(6 * 10).reshape(1, 6, 10) % 40


@pytest.fixture
def folder(tmp_path):
    """A copy of a fixture's two files, to be spoiled."""
    for name in ("generator.ckpt", "hyperparams.yaml"):
        shutil.copy(SOURCE / name, tmp_path / name)
    return tmp_path


def state_of(folder):
    return torch.load(folder / "generator.ckpt", weights_only=True)


def respell(state):
    """The other spelling of weight norm."""
    pairs = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    for old, new in pairs.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def test_all_spellings_of_weight_norm_give_the_same_audio(folder):
    expected = load_vocoder(folder, layers=range(6)).decode(TOKENS)
    old = state_of(folder)
    assert any(name.endswith("weight_g") for name in old)
    for state in (respell(old), fold_weight_norm(old)):
        torch.save(state, folder / "generator.ckpt")
        assert torch.equal(load_vocoder(folder, layers=range(6)).decode(TOKENS), expected)


def test_half_precision_weights_are_read_as_float32(folder):
    torch.save({name: value.half() for name, value in state_of(folder).items()}, folder / "generator.ckpt")
    vocoder = load_vocoder(folder, layers=range(6))
    assert {parameter.dtype for parameter in vocoder.parameters()} == {torch.float32}


def test_layers_are_given_or_read_off_the_kmeans_files_or_asked_for(folder):
    with pytest.raises(InputError, match="does not say which layers.*give layers="):
        load_vocoder(folder)
    assert load_vocoder(folder, layers=(1, 3, 7, 12, 18, 23)).layers == (1, 3, 7, 12, 18, 23)
    with pytest.raises(InputError, match="240 embedded units cannot be those of 7 layers"):
        load_vocoder(folder, layers=range(7))
    (folder / "kmeans").mkdir()
    for layer in (23, 1, 3, 7, 12, 18):
        (folder / "kmeans" / f"LibriSpeech_wavlm_k40_L{layer}.pt").touch()
    assert load_vocoder(folder).layers == (1, 3, 7, 12, 18, 23)


def test_our_own_folder_gives_the_same_audio(folder, tmp_path):
    vocoder = load_vocoder(folder, layers=(1, 3, 7, 12, 18, 23))
    save_vocoder(vocoder, tmp_path / "ours", provenance={"license": "apache-2.0"})
    again = load_vocoder(tmp_path / "ours")
    assert again.config == vocoder.config
    assert torch.equal(again.decode(TOKENS), vocoder.decode(TOKENS))
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(InputError, match="decodes the layers"):
        load_vocoder(tmp_path / "ours", layers=(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tokenizer"}, 'wanted a "unit-vocoder"'),
        ({"config": 3}, 'wanted a "unit-vocoder"'),
        ({"audiotok_format": 2}, "newer audiotok"),
        ({"config": {"layers": [1]}}, "incomplete"),
    ],
)
def test_a_spoilt_folder_of_ours_is_refused(folder, tmp_path, change, message):
    save_vocoder(load_vocoder(folder, layers=range(6)), tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_vocoder(tmp_path / "ours")


def test_weights_of_another_size_are_refused_before_anything_is_built(folder, tmp_path):
    save_vocoder(load_vocoder(folder, layers=range(6)), tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["embedding_dim"] = 2**24  # 16 GiB, were it built
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"is \[241, 32\], wanted \[241, 16777216\]"):
        load_vocoder(tmp_path / "ours")


# ---- hyperparams.yaml ----------------------------------------------------------------------------


def test_the_yaml_is_read_as_lines_not_as_yaml(folder):
    facts = plain_facts(folder / "hyperparams.yaml")
    assert facts == {
        "sample_rate": 16000,
        "normalize_speaker_embeddings": False,
        "upsample_factors": [5, 4, 4, 2, 2],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    }


def test_a_hostile_yaml_runs_nothing_and_changes_nothing(folder):
    expected = load_vocoder(folder, layers=range(6)).decode(TOKENS)
    marker = folder / "ran"
    yaml = folder / "hyperparams.yaml"
    yaml.write_text(
        yaml.read_text()
        + f"""
__set_seed: !apply:os.system ["touch {marker}"]
evil: !!python/object/apply:os.system ["touch {marker}"]
generator: !new:subprocess.Popen
  args: [touch, {marker}]
loop: &a [*a, *a]
  sample_rate: !apply:os.system ["touch {marker}"]
"""
    )
    assert torch.equal(load_vocoder(folder, layers=range(6)).decode(TOKENS), expected)
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        "!apply:os.system ['true']",
        "!!python/object/apply:os.system ['true']",
        "!ref <factors>",
        "*anchor",
        "&anchor [5, 4, 4, 2, 2]",
        "[5, 4, !new:os.system, 2, 2]",
        "",
        "five",
        "[1e9]",
        "-5",
        "[[[[5]]",
        "[5,, 4]",
    ],
)
def test_a_fact_that_is_not_plain_is_refused_not_followed(folder, value):
    yaml = folder / "hyperparams.yaml"
    yaml.write_text(yaml.read_text().replace("upsample_factors: [5, 4, 4, 2, 2]", f"upsample_factors: {value}", 1))
    with pytest.raises(CheckpointError, match="upsample_factors"):
        load_vocoder(folder, layers=range(6))


def test_a_fact_that_is_there_twice_is_refused(folder):
    yaml = folder / "hyperparams.yaml"
    yaml.write_text(yaml.read_text() + "sample_rate: 8000\n")
    with pytest.raises(CheckpointError, match="sample_rate is there twice, again on line"):
        load_vocoder(folder, layers=range(6))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("upsample_factors: [5, 4, 4, 2, 2]", "upsample_factors: [5, 4, 4, 2]", "a factor and a kernel"),
        ("upsample_factors: [5, 4, 4, 2, 2]", "upsample_factors: [5, 4, 4, 2, 3]", "exceed its factor"),
        ("upsample_factors: [5, 4, 4, 2, 2]", "upsample_factors: 5", "upsample_factors"),
        ("[[1, 3, 5], [1, 3, 5]]", "[[1, 3, 5], [1, 3]]", "do not fit its residual blocks"),
        ("[[1, 3, 5], [1, 3, 5]]", "[1, 3, 5]", "do not fit its residual blocks"),
        ("[[1, 3, 5], [1, 3, 5]]", "[[1, 3, 0], [1, 3, 5]]", "dilations must be"),
        ("sample_rate: 16000", "sample_rate: [16000]", "sample_rate"),
        ("normalize_speaker_embeddings: False", "normalize_speaker_embeddings: 1", "normalize_speaker"),
    ],
)
def test_facts_that_do_not_fit_the_weights_are_refused(folder, old, new, message):
    yaml = folder / "hyperparams.yaml"
    text = yaml.read_text()
    assert old in text
    yaml.write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message):
        load_vocoder(folder, layers=range(6))


def test_without_the_yaml_the_published_values_are_taken_where_the_kernels_are_theirs(folder, tmp_path):
    expected = load_vocoder(folder, layers=range(6)).decode(TOKENS)
    (folder / "hyperparams.yaml").unlink()
    assert torch.equal(load_vocoder(folder, layers=range(6)).decode(TOKENS), expected)
    shutil.copy(HIFIGAN / "multi-speaker" / "generator.ckpt", folder / "generator.ckpt")
    with pytest.raises(CheckpointError, match="does not say the upsample_factors"):
        load_vocoder(folder, layers=range(3))


def test_a_yaml_of_a_gigabyte_is_not_read(folder):
    with (folder / "hyperparams.yaml").open("r+b") as file:
        file.truncate(10**9)
    with pytest.raises(CheckpointError, match="more than 1048576 bytes"):
        load_vocoder(folder, layers=range(6))


# ---- generator.ckpt ------------------------------------------------------------------------------


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_checkpoint_runs_nothing(folder):
    torch.save({**state_of(folder), "x": Hostile(folder / "ran")}, folder / "generator.ckpt")
    with pytest.raises(CheckpointError, match="generator.ckpt"):
        load_vocoder(folder, layers=range(6))
    assert not (folder / "ran").exists()


def without(state, name):
    return {key: value for key, value in state.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: [state], "found a list"),
        (lambda state: {"model": state}, "found a dict"),
        (lambda state: {**state, "cond_layer.conv.weight": torch.ones(1)}, "'cond_layer.conv.weight' is no weight"),
        (lambda state: without(state, "unit_embedding"), "embedding.weight is missing"),
        (lambda state: without(state, "attn_pooling.0"), "pooling.hidden.weight is missing"),
        (lambda state: without(state, "attn_pooling.2"), "pooling.score.weight is missing, wanted"),
        (lambda state: without(state, "ups."), "up-sampling stages"),
        (lambda state: without(state, "ups.4"), "up-sampling stages"),
        (lambda state: without(state, "resblocks.3.convs2.1"), "convs2.1.bias is missing"),
        (lambda state: without(state, "resblocks.9"), "9 residual blocks for 5"),
        (lambda state: {**state, "unit_embedding.weight": torch.ones(241, dtype=torch.int64)}, "wanted 2 axes"),
        (lambda state: {**state, "conv_post.conv.bias": torch.ones(1, dtype=torch.int64)}, "int64, not a float"),
        (lambda state: without(state, "conv_pre.conv.weight_g"), "half of a weight-norm pair"),
    ],
)
def test_weights_of_another_network_are_refused(folder, spoil, message):
    torch.save(spoil(state_of(folder)), folder / "generator.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_vocoder(folder, layers=range(6))


def test_a_config_json_of_upstreams_own_changes_nothing(folder):
    expected = load_vocoder(folder, layers=range(6)).decode(TOKENS)
    (folder / "config.json").write_text('{"speechbrain_interface": "UnitHIFIGAN"}')
    assert torch.equal(load_vocoder(folder, layers=range(6)).decode(TOKENS), expected)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="generator.ckpt: wanted a torch checkpoint, found no such file"):
        load_vocoder(tmp_path, layers=range(6))
