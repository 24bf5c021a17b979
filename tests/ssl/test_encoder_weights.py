"""Reading published encoders: config.json, every form of the weights, and what is wrong with others."""

import json

import pytest
import torch
from encoder_models import ARCHITECTURES, config_of, ours, theirs

from audiotok.checkpoint import write_json, write_safetensors
from audiotok.errors import CheckpointError, InputError
from audiotok.ssl.encoder_config import SSLConfig
from audiotok.ssl.encoder_weights import encoder_state, load_encoder

CONV = "encoder.pos_conv_embed.conv"
PAIR = (f"{CONV}.parametrizations.weight.original0", f"{CONV}.parametrizations.weight.original1")


def published(folder, name="hubert-base", weights=None, preprocessor=True, **changes):
    """A folder as published, with the given weights or none."""
    write_json(folder / "config.json", json.loads(theirs(name).config.to_json_string()) | changes)
    if preprocessor:
        values = {"do_normalize": ARCHITECTURES[name][2], "sampling_rate": 16000}
        write_json(folder / "preprocessor_config.json", values)
    if weights is not None:
        write_safetensors(folder / "model.safetensors", weights)
    return folder


def renamed(state, names):
    return {names.get(key, key): value for key, value in state.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_form_of_the_weights_gives_the_same_encoder(name, tmp_path):
    state = theirs(name).state_dict()
    older = renamed(state, {PAIR[0]: f"{CONV}.weight_g", PAIR[1]: f"{CONV}.weight_v"})
    folded = {key: value for key, value in state.items() if key not in PAIR}
    folded[f"{CONV}.weight"] = theirs(name).encoder.pos_conv_embed.conv.weight
    heads = {"quantizer.codevectors": torch.ones(2), "project_q.weight": torch.ones(2, 2)}
    pretraining = {f"wav2vec2.{key}": value for key, value in older.items()} | heads
    halves = {key: value.bfloat16() for key, value in state.items()}
    wav = torch.randn(1, 6000)
    want = ours(name)(wav)[2]
    for i, form in enumerate((state, older, folded, pretraining, halves)):
        (tmp_path / str(i)).mkdir()
        folder = published(tmp_path / str(i), name)
        if i % 2:
            torch.save(form, folder / "pytorch_model.bin")
        else:
            write_safetensors(folder / "model.safetensors", form)
        encoder = load_encoder(folder, [2])
        assert encoder.config == config_of(name)
        assert {value.dtype for value in encoder.state_dict().values()} == {torch.float32}
        limit = 0.1 if form is halves else 2e-6
        assert (encoder(wav)[2] - want).abs().max() <= limit * want.abs().max()


def test_layers_that_nobody_asked_for_may_be_missing(tmp_path):
    state = {key: value for key, value in theirs("wavlm-base").state_dict().items() if ".layers.2." not in key}
    folder = published(tmp_path, "wavlm-base", state)
    wav = torch.randn(1, 6000)
    assert torch.equal(load_encoder(folder, [2])(wav)[2], ours("wavlm-base")(wav)[2])
    with pytest.raises(CheckpointError, match=r"19 weights that layers up to 3 need are missing: encoder.layers.2"):
        load_encoder(folder, [3])


def test_normalization_is_never_guessed(tmp_path):
    folder = published(tmp_path, weights=theirs("hubert-base").state_dict(), preprocessor=False)
    with pytest.raises(CheckpointError, match="give normalize=True or False"):
        load_encoder(folder, [1])
    assert load_encoder(folder, [1], normalize=True).config.normalize
    assert not load_encoder(folder, [1], normalize=False).config.normalize


def test_the_config_goes_to_json_and_back():
    for name in ARCHITECTURES:
        config = config_of(name)
        assert SSLConfig(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "data2vec-audio"}, "only wav2vec2, hubert, wavlm"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'.*only 'gelu'"),
        ({"feat_extract_activation": "selu"}, "feat_extract_activation"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim is 16"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        ({"feat_extract_norm": "batch"}, "only 'group' and 'layer'"),
        ({"hidden_size": 50}, "multiple of num_heads"),
        ({"hidden_size": 10**9}, "1..65536"),
        ({"hidden_size": "48"}, "whole numbers"),
        ({"conv_dim": [24, 24]}, "of one length"),
        ({"conv_dim": 24}, "describes no network"),
        ({"conv_kernel": [4, 3, 3, 3, 3, 2, 2]}, "stride above kernel"),
        ({"conv_bias": "no"}, "true or false"),
        ({"layer_norm_eps": 0.0}, "norm_eps"),
        ({"num_buckets": 30}, "multiple of 4"),
        ({"max_bucket_distance": 2, "num_buckets": 320}, "max_distance"),
    ],
)
def test_configs_that_are_refused(changes, message, tmp_path):
    folder = published(tmp_path, "wavlm-base", theirs("wavlm-base").state_dict(), **changes)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(folder, [1])


def test_an_adapter_after_the_last_block_does_not_matter(tmp_path):
    folder = published(tmp_path, "wav2vec2-base", theirs("wav2vec2-base").state_dict(), add_adapter=True)
    assert len(load_encoder(folder, [3]).blocks) == 3


def test_weights_that_are_refused(tmp_path):
    state, config = theirs("hubert-base").state_dict(), config_of("hubert-base")
    with pytest.raises(CheckpointError, match=r"model.safetensors or pytorch_model.bin, found neither"):
        load_encoder(published(tmp_path), [1])
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="wanted tensors by name"):
        load_encoder(tmp_path, [1])
    with pytest.raises(CheckpointError, match="found 0 tensors named"):
        encoder_state({"conv.weight": torch.ones(1)}, config, [1])
    with pytest.raises(CheckpointError, match="found 2 tensors named"):
        encoder_state(state | {f"teacher.{key}": value for key, value in state.items()}, config, [1])
    wrong = state | {"encoder.layers.0.attention.k_proj.weight": torch.ones(48, 47)}
    with pytest.raises(CheckpointError, match=r"k_proj.weight is torch.float32 \[48, 47\], but .* \[48, 48\]"):
        encoder_state(wrong, config, [1])
    wrong = state | {"encoder.layers.0.attention.k_proj.weight": torch.ones(48, 48, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match="torch.int8"):
        encoder_state(wrong, config, [1])
    half = {key: value for key, value in state.items() if key != PAIR[0]}
    with pytest.raises(CheckpointError, match="half of a weight-norm pair"):
        encoder_state(half, config, [1])
    none = {key: value for key, value in state.items() if key not in PAIR}
    with pytest.raises(CheckpointError, match=r"1 weights .* missing: encoder.pos_conv_embed.conv.weight"):
        encoder_state(none, config, [1])
    with pytest.raises(InputError, match="0..3"):
        load_encoder(published(tmp_path), [9])


def test_a_loaded_encoder_keeps_nothing_of_the_file_alive():
    state = {key: value.clone() for key, value in theirs("hubert-base").state_dict().items()}
    found = encoder_state(state, config_of("hubert-base"), [1])
    kept = {value.untyped_storage().data_ptr() for value in state.values()}
    assert not kept & {value.untyped_storage().data_ptr() for value in found.values()}
