"""`SSLKMeans` from published files: the original's codes and audio, every conformance check, layers, long rows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import audiotok
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.ssl.published import read_ssl_kmeans
from audiotok.ssl.tokenizer import SSLKMeans
from audiotok.testing import check_tokenizer, parity

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = sorted(path.name for path in (FIXTURES / "speechbrain-discrete-ssl").iterdir())
LARGE = "wavlm-large-like"


def files(case: str) -> tuple[Path, dict[int, Path]]:
    folder = FIXTURES / "speechbrain-discrete-ssl" / case
    layers = json.loads((folder / "meta.json").read_text())["layers"]
    found = {int(re.search(r"_L(\d+)\.pt", path.name)[1]): path for path in (folder / "vocoder/kmeans").glob("*.pt")}
    return folder, {layer: found[layer] for layer in layers}


def read(case: str, *, vocoder: bool = False) -> SSLKMeans:
    folder, kmeans = files(case)
    return read_ssl_kmeans(folder / "ssl", kmeans=kmeans, vocoder=folder / "vocoder" if vocoder else None)


def rows(case: str) -> list[torch.Tensor]:
    folder, _ = files(case)
    wav, counts = np.load(folder / "input.npy"), np.load(folder / "num_samples.npy")
    return [torch.from_numpy(row[:count]) for row, count in zip(wav, counts, strict=True)]


@pytest.fixture(scope="module")
def large() -> SSLKMeans:
    return read(LARGE, vocoder=True)


@pytest.mark.parametrize("case", CASES)
def test_codes_are_the_originals_on_each_file_alone_in_any_batch(case):
    folder, _ = files(case)
    tok = read(case)
    for one_by_one in (True, False):
        tok.row_by_row, tok.max_padding = one_by_one, 1.0
        for i, codes in enumerate(tok.encode(rows(case))):
            wanted = np.load(folder / f"codes_single_{i}.npy")
            assert np.array_equal(codes.tokens[0].T.numpy(), wanted.reshape(-1, wanted.shape[-1]))


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_conforms_and_no_way_of_encoding_changes_a_code(case):
    tok = read(case, vocoder=case == LARGE)
    check_tokenizer(tok, rows(case))
    shares = {way.way: way.share for way in parity(tok, rows(case))}
    assert [shares[way] for way in ("again", "batch", "padded", "order", "chunked", "saved")] == [0.0] * 6


def test_decoded_audio_is_the_originals(large):
    folder, _ = files(LARGE)
    tokens = torch.from_numpy(np.load(folder / "codes.npy")).transpose(1, 2)
    wanted = np.load(folder / "recon.npy")
    assert np.abs(large.decode(tokens).numpy() - wanted).max() < 1e-4


def test_a_subset_of_layers_encodes_and_decodes(large):
    folder, _ = files(LARGE)
    whole = large.encode(rows(LARGE))
    layers = [int(layer) for layer in np.load(folder / "recon_subset_layers.npy")]
    part = read(LARGE, vocoder=True).use_layers(layers)
    kept = [large.layers.index(layer) for layer in sorted(layers)]
    codes = part.encode(rows(LARGE))
    assert torch.equal(codes.tokens, whole.tokens[:, kept])
    assert len(part.encoder.blocks) == max(layers)
    assert part.fingerprint != large.fingerprint
    tokens = torch.from_numpy(np.load(folder / "codes.npy")).transpose(1, 2)[:1, kept]
    assert np.abs(part.decode(tokens).numpy() - np.load(folder / "recon_subset.npy")).max() < 1e-4
    with pytest.raises(InputError, match="has codebooks for layers"):
        part.use_layers([99])


def test_a_subset_may_be_asked_for_when_loading(large, tmp_path):
    large.save(tmp_path)
    layer = large.layers[1]
    part = audiotok.load(tmp_path, layers=[layer])
    wanted = large.encode(rows(LARGE)).tokens[:, 1:2]
    assert torch.equal(part.encode(rows(LARGE)).tokens, wanted)
    with pytest.raises(UnsupportedError, match="no layers to choose from"):
        audiotok.load(layers=[3])


def test_a_saved_tokenizer_names_its_encoder_and_how_layers_are_counted(large, tmp_path):
    large.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"]["source"] == "ssl"
    assert config["config"]["layers"] == list(large.layers)
    assert config["config"]["indexing"].startswith("0 enters the first block")
    config["config"]["indexing"] = "counted from 1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not known here"):
        audiotok.load(tmp_path)


def test_weights_of_another_encoder_are_refused(large, tmp_path):
    from safetensors.torch import load_file, save_file

    large.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.startswith("encoder.") and weights[name].dim() == 2)
    weights[name] = weights[name] + 1e-3
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not the ones its config"):
        audiotok.load(tmp_path)


def test_kmeans_of_another_encoder_or_vocoder_is_refused(tmp_path):
    folder, kmeans = files(LARGE)
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.zeros((10, 7), np.float32))
    with pytest.raises(CheckpointError, match="holds centres of 7 values.*fitted on another encoder"):
        read_ssl_kmeans(folder / "ssl", kmeans={1: narrow})
    layer = next(iter(kmeans))
    small = tmp_path / "small.npy"
    np.save(small, np.zeros((5, read(LARGE).encoder.config.hidden_size), np.float32))
    with pytest.raises(InputError, match="the k-means has 5"):
        read_ssl_kmeans(folder / "ssl", kmeans={layer: small}, vocoder=folder / "vocoder")
    with pytest.raises(InputError, match="needs k-means files"):
        read_ssl_kmeans(folder / "ssl", kmeans={})


def test_long_rows_go_in_windows_that_change_some_codes(large, speech):
    """The weights are random, so attention looks everywhere alike: trained networks look mostly nearby."""
    wav = torch.cat(speech * 8, dim=1)  # 54 s
    whole = large.encode(wav).tokens
    large.chunk_seconds = 20.0
    try:
        windows = large.encode(wav).tokens
    finally:
        large.chunk_seconds = 60.0
    assert windows.shape == whole.shape
    assert 0 < float((windows != whole).float().mean()) < 0.1


def test_an_encoder_without_a_vocoder_says_so():
    tok = read("hubert-base-like")
    with pytest.raises(UnsupportedError, match="only encodes"):
        tok.decode(tok.encode(rows("hubert-base-like")))


def test_embeddings_and_codebooks_are_the_centres(large):
    folder, _ = files(LARGE)
    codes = large.encode(rows(LARGE)[0])
    embedded = large.embed(codes)
    width = large.encoder.config.hidden_size
    assert embedded.shape == (1, 4 * width, codes.tokens.shape[2])
    assert torch.equal(embedded[0, width : 2 * width].T, large.codebooks[1][codes.tokens[0, 1]])
    features, lengths = large.features(rows(LARGE))
    hidden = np.load(folder / f"hidden_{large.layers[0]}.npy")
    assert lengths.tolist() == [large.num_frames(len(row)) for row in rows(LARGE)]
    longest = int(lengths.argmax())
    assert (
        np.abs(features[longest, :width, : lengths[longest]].T.numpy() - hidden[longest][: lengths[longest]]).max() < 1
    )


@pytest.mark.parametrize("case", ["base-layer6", "large-normalised"])
def test_textless_units_are_the_originals(case):
    folder = FIXTURES / "textless-hubert-km" / case
    meta = json.loads((folder / "meta.json").read_text())
    layer = meta["layer"] if "layer" in meta else meta["layers"][0]
    tok = audiotok.convert(
        "ssl-kmeans", folder / "hubert", kmeans={layer: folder / "km.bin"}, normalize=meta["normalize_wav"]
    )
    found = sorted(folder.glob("input_*.npy"))
    assert found
    for path in found:
        wanted = np.load(folder / path.name.replace("input", "codes"))
        wav = torch.from_numpy(np.load(path).reshape(-1))
        assert np.array_equal(tok.encode(wav).tokens[0, 0].numpy(), wanted.reshape(-1))


def test_near_ties_grow_with_the_roundoff_and_cover_what_it_changes(large):
    counts = {}
    wanted = large.encode(rows(LARGE)).tokens
    for dtype in ("float32", "float16", "bfloat16"):
        tok = read(LARGE).to(getattr(torch, dtype))
        counts[dtype] = tok.near_ties(rows(LARGE))
        changed = (tok.encode(rows(LARGE)).tokens != wanted).float().mean((0, 2))
        if dtype == "float32":
            assert not changed.any()
    assert list(counts["float32"]) == list(large.layers)
    for layer in large.layers:
        assert counts["float32"][layer] <= counts["float16"][layer] <= counts["bfloat16"][layer]
        assert counts["float32"][layer] < 0.01
    assert max(counts["bfloat16"].values()) > 0
