"""Hidden states and codes of SpeechBrain's DiscreteSSL and of textlesslib, from the files those systems read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotok.checkpoint import read_centroids
from audiotok.quantize.nearest import SearchTable, nearest
from audiotok.ssl.encoder_weights import load_encoder

FIXTURES = Path(__file__).parents[1] / "fixtures"
SPEECHBRAIN = sorted((FIXTURES / "speechbrain-discrete-ssl").iterdir())
TEXTLESS = sorted((FIXTURES / "textless-hubert-km").iterdir())


def load(path):
    return torch.from_numpy(np.load(path))


def meta_of(case):
    return json.loads((case / "meta.json").read_text())


def tables_of(case):
    """Layer -> centroids, as searched."""
    meta = meta_of(case)
    found = {}
    for layer, k in zip(meta["layers"], meta["num_clusters"], strict=True):
        (path,) = (case / "vocoder" / "kmeans").glob(f"*_k{k}_L{layer}.pt")
        found[layer] = SearchTable.of(read_centroids(path))
    return found


def codes_of(states, tables):
    """[F, layers] of layer -> [F, D]."""
    return torch.stack([nearest(states[layer], table) for layer, table in tables.items()], dim=1)


def test_all_cases_are_there():
    assert len(SPEECHBRAIN) == 5
    assert len(TEXTLESS) == 2


@pytest.mark.parametrize("case", SPEECHBRAIN, ids=lambda case: case.name)
def test_speechbrain_codes_of_each_file_alone_and_in_a_padded_batch(case):
    tables = tables_of(case)
    encoder = load_encoder(case / "ssl", list(tables))
    wav, lengths = load(case / "input.npy"), load(case / "num_samples.npy")
    noisy = wav + torch.randn_like(wav) * (torch.arange(wav.shape[1]) >= lengths[:, None])
    encoder.row_by_row = False
    together = encoder(noisy, lengths)
    for i, size in enumerate(lengths.tolist()):
        want = load(case / f"codes_single_{i}.npy")[0]
        alone = encoder(wav[i : i + 1, :size])
        assert torch.equal(codes_of({layer: states[0] for layer, states in alone.items()}, tables), want)
        assert torch.equal(
            codes_of({layer: states[i, : len(want)] for layer, states in together.items()}, tables), want
        )


@pytest.mark.parametrize("case", SPEECHBRAIN, ids=lambda case: case.name)
def test_speechbrain_codes_of_whole_rows(case):
    # Without lengths SpeechBrain takes a row's trailing zeros for audio; so do we.
    tables = tables_of(case)
    states = load_encoder(case / "ssl", list(tables))(load(case / "input.npy"))
    for i, want in enumerate(load(case / "codes_no_lengths.npy")):
        assert torch.equal(codes_of({layer: rows[i] for layer, rows in states.items()}, tables), want)


@pytest.mark.parametrize("case", SPEECHBRAIN, ids=lambda case: case.name)
def test_speechbrain_hidden_states_of_every_layer(case):
    # Of the longest row: SpeechBrain's states of the others depend on how much padding they have.
    meta = meta_of(case)
    encoder = load_encoder(case / "ssl", range(meta["shapes"]["hidden"][0]))
    wav, lengths = load(case / "input.npy"), load(case / "num_samples.npy")
    row = int(lengths.argmax())
    alone = encoder(wav[row : row + 1])
    encoder.row_by_row = False
    batch = encoder(wav, lengths)
    for layer in encoder.layers:
        want = load(case / f"hidden_{layer}.npy")[row]
        assert (alone[layer][0] - want).abs().max() <= meta["tolerance"]["hidden"]
        assert (batch[layer][row] - want).abs().max() <= meta["tolerance"]["hidden"]


@pytest.mark.parametrize("case", TEXTLESS, ids=lambda case: case.name)
def test_textless_units(case):
    meta = meta_of(case)
    encoder = load_encoder(case / "hubert", [meta["layer"]])
    table = SearchTable.of(read_centroids(case / "km.bin"))
    for i in range(3):
        (states,) = encoder(load(case / f"input_{i}.npy").reshape(1, -1)).values()
        assert (states[0] - load(case / f"hidden_{i}.npy").squeeze(0)).abs().max() <= meta["tolerance"]["hidden"]
        assert torch.equal(nearest(states[0], table), load(case / f"codes_{i}.npy").squeeze(0))
