"""`load("dwavlm-l5-k1000")` and its like, from a stand-in Hub that holds small models in the published layouts."""

import io
import json
import re

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from stand_in_hub import StandInHub, point_client_at, run_python

import audiotok
from audiotok.catalog.ssl import LOCAL_FILES, RECIPES, VOCODER_LAYERS
from audiotok.errors import HubError, UnsupportedError
from audiotok.ssl.vocoder import UnitVocoder
from audiotok.ssl.vocoder_config import VocoderConfig
from audiotok.testing import check_tokenizer

WIDTH = 16


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def encoder_files(kind: str, *, safetensors: bool) -> dict[str, bytes]:
    """A 24-layer network of the large architecture with tiny widths, as transformers stores it."""
    import transformers
    from safetensors.torch import save

    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 24,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "conv_bias": True,
    }
    names = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}
    config = getattr(transformers, f"{names[kind]}Config")(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{names[kind]}Model")(config)
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    weights = {"model.safetensors": save(state)} if safetensors else {"pytorch_model.bin": saved(state)}
    preprocessor = {"do_normalize": True, "sampling_rate": 16000}
    return {
        "config.json": config.to_json_string().encode(),
        "preprocessor_config.json": json.dumps(preprocessor).encode(),
        **weights,
    }


def kmeans_file(seed: int, size: int = 1000) -> bytes:
    """A scikit-learn k-means of float64 centres, as joblib dumps it."""
    rng = np.random.default_rng(seed)
    model = MiniBatchKMeans(size, n_init=1, max_iter=1, batch_size=size, init="random", random_state=0)
    model.fit(rng.standard_normal((size, WIDTH)))
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def vocoder_files() -> dict[str, bytes]:
    """generator.ckpt with SpeechBrain's names and old-style weight norm, and its HyperPyYAML."""
    torch.manual_seed(0)
    vocoder = UnitVocoder(VocoderConfig(VOCODER_LAYERS, (1000,) * 6, embedding_dim=8, initial_channels=32))
    state = {}
    for name, value in vocoder.state_dict().items():
        name = name.replace("embedding.weight", "unit_embedding.weight")
        name = re.sub(r"pooling\.hidden", "attn_pooling.0", name)
        name = re.sub(r"pooling\.score", "attn_pooling.2", name)
        if name.startswith("generator."):
            stem, _, last = name.removeprefix("generator.").rpartition(".")
            name = f"{stem}.conv.{last}"
            if last == "weight":
                axes = tuple(range(1, value.dim()))
                state[f"{stem}.conv.weight_g"] = value.square().sum(axes, keepdim=True).sqrt()
                state[f"{stem}.conv.weight_v"] = value
                continue
        state[name] = value
    yaml = b"sample_rate: 16000\ngenerator: !new:speechbrain.lobes.models.HifiGAN.UnitHifiganGenerator\n"
    return {"generator.ckpt": saved(state), "hyperparams.yaml": yaml}


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, bytes]]:
    """Every repository that a name needs."""
    kinds = {"dwavlm": "wavlm", "dhubert": "hubert", "dwav2vec2": "wav2vec2"}
    files: dict[str, dict[str, bytes]] = {}
    back = vocoder_files()
    for name, recipe in RECIPES.items():
        kind = kinds[name.partition("-")[0]]
        if recipe.encoder not in files:
            files[recipe.encoder] = encoder_files(kind, safetensors=kind == "hubert")
        repository = files.setdefault(recipe.repository, dict(back) if recipe.vocoder_layers else {})
        for layer, file in recipe.kmeans.items():
            if file not in repository:
                repository[file] = kmeans_file(layer, 2000 if "k2000" in file else 1000)
    return files


@pytest.fixture
def hub(published, monkeypatch, tmp_path):
    with StandInHub() as server:
        for repository, files in published.items():
            server.add(repository, files)
        point_client_at(server, monkeypatch, tmp_path / "home")
        yield server


def test_the_first_line_of_use_works_and_survives_save_and_load(hub, speech, tmp_path):
    tok = audiotok.load("dwavlm-l5-k1000")
    assert tok.layers == (3, 7, 12, 18, 23)
    assert tok.source.startswith("microsoft/wavlm-large@")
    codes = tok.encode(speech[0])
    assert codes.tokens.shape == (1, 5, tok.num_frames(speech[0].shape[1]))
    assert tok.decode(codes).shape == (1, 1, speech[0].shape[1])
    tok.save(tmp_path / "mine")
    again = audiotok.load(tmp_path / "mine")
    assert torch.equal(again.encode(speech[0]).tokens, codes.tokens)
    assert torch.equal(again.decode(codes), tok.decode(codes))


@pytest.mark.parametrize("name", RECIPES)
def test_every_published_name_loads_and_is_what_its_entry_says(hub, speech, name):
    tok = audiotok.load(name)
    entry = audiotok.describe(name)
    assert tok.spec == entry.spec
    assert list(tok.layers) == sorted(RECIPES[name].kmeans)
    assert len(tok.encoder.blocks) == max(tok.layers)
    codes = tok.encode(speech[2])
    if entry.spec.decodable:
        assert tok.decode(codes).shape == (1, 1, speech[2].shape[1])


@pytest.mark.parametrize("name", ["dwavlm-l6-k1000", "dhubert-layer7-k1000", "dwav2vec2-l5-k1000"])
def test_published_names_conform(hub, speech, name):
    check_tokenizer(audiotok.load(name), [row[:, :24000] for row in speech])


def test_a_layer_of_a_set_is_the_name_of_that_layer(hub, speech):
    part = audiotok.load("dwavlm-l5-k1000", layers=[7, 18])
    whole = audiotok.load("dwavlm-l5-k1000").encode(speech[1])
    assert torch.equal(part.encode(speech[1]).tokens, whole.tokens[:, [1, 3]])
    alone = audiotok.load("dwavlm-layer7-k1000").encode(speech[1])
    assert torch.equal(alone.tokens[:, 0], whole.tokens[:, 1])


CODE = "import audiotok; print(audiotok.load('dwavlm-layer3-k1000').fingerprint)"


def test_after_the_first_load_no_network_is_needed(published, tmp_path):
    recipe = RECIPES["dwavlm-layer3-k1000"]
    with StandInHub() as hub:
        for repository in (recipe.encoder, recipe.repository):
            hub.add(repository, published[repository])
        first = run_python(CODE, hub, tmp_path / "home")
        assert first.returncode == 0, first.stderr
        count = len(hub.requests)
        assert run_python(CODE, hub, tmp_path / "home", offline=True).stdout == first.stdout
        assert len(hub.requests) == count


def test_what_is_not_there_is_named(hub):
    with pytest.raises(HubError, match="has no revision 'v9'"):
        audiotok.load("dwavlm-l5-k1000", revision="v9")


@pytest.mark.parametrize("name", LOCAL_FILES)
def test_names_whose_kmeans_is_not_on_the_hub_say_how_to_make_them(name):
    layer = LOCAL_FILES[name][1]
    with pytest.raises(UnsupportedError, match=f"audiotok convert ssl-kmeans ENCODER_FOLDER OUT --kmeans {layer}="):
        audiotok.load(name)
