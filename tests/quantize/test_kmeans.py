from itertools import pairwise

import pytest
import torch

from audiotok.errors import FitError, InputError
from audiotok.quantize import KMeansQuantizer

from .test_lloyd import mixture


def test_tokens_are_the_nearest_centroids_of_the_residuals():
    tables = [mixture(20, 8, seed=stage) for stage in range(3)]
    quantizer = KMeansQuantizer(tables)
    rows = mixture(100, 8, seed=9)
    tokens = quantizer.encode(rows.t()[None])[0]
    residual = rows.clone()
    for stage, table in enumerate(tables):
        found = torch.cdist(residual.double(), table.double()).argmin(1)
        assert torch.equal(tokens[stage], found)
        residual = residual - table[found]
    torch.testing.assert_close(quantizer.decode(tokens[None])[0].t(), rows - residual)
    assert quantizer.codebook_sizes == (20, 20, 20)


def test_each_further_codebook_lowers_the_error():
    x = mixture(6000, 8)
    quantizer = KMeansQuantizer.fit(x, 64, num_codebooks=4, seed=1)
    tokens = quantizer.encode(x.t()[None])
    errors = [(quantizer.decode(tokens, depth)[0].t() - x).square().sum(1).mean().item() for depth in (1, 2, 3, 4)]
    assert errors[0] < 0.3 * x.var(0).sum().item()
    assert all(later < 0.8 * sooner for sooner, later in pairwise(errors))


def test_fitting_is_deterministic_and_tells_its_progress():
    x, seen = mixture(2000, 8), []
    one = KMeansQuantizer.fit(x, 16, 2, iterations=3, progress=lambda *step: seen.append(step))
    other = KMeansQuantizer.fit(x, 16, 2, iterations=3)
    for a, b in zip(one.codebooks, other.codebooks, strict=True):
        assert torch.equal(a, b)
    assert [step[:2] for step in seen] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]


def test_cosine_centroids_ignore_the_length_of_the_frames():
    x = mixture(2000, 8)
    quantizer = KMeansQuantizer.fit(x, 16, cosine=True)
    tokens = quantizer.encode(x.t()[None])
    assert torch.equal(quantizer.encode(7 * x.t()[None]), tokens)
    wanted = torch.nn.functional.cosine_similarity(x[:, None], quantizer.codebooks[0][None], dim=2).argmax(1)
    assert torch.equal(tokens[0, 0], wanted)


def test_it_holds_no_parameters_and_training_does_not_change_it():
    quantizer = KMeansQuantizer(mixture(20, 8)).train()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer(mixture(100, 8).t()[None])
    assert list(quantizer.parameters()) == []
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


def test_wrong_centroids_and_data_are_errors():
    with pytest.raises(
        InputError, match=r"centroids must be \[V, D\] tables of one width D, not \[\[4, 2\], \[4, 3\]\]"
    ):
        KMeansQuantizer([torch.zeros(4, 2), torch.zeros(4, 3)])
    with pytest.raises(InputError, match="centroids must be"):
        KMeansQuantizer([])
    with pytest.raises(InputError, match='lookup must be "euclidean" or "cosine"'):
        KMeansQuantizer(torch.zeros(4, 2), lookup="dot")
    with pytest.raises(InputError, match="cosine k-means has one codebook"):
        KMeansQuantizer.fit(mixture(100), 4, 2, cosine=True)
    with pytest.raises(FitError, match="200 centroids were asked for, but there are only 100 rows"):
        KMeansQuantizer.fit(mixture(100), 200)


def test_a_near_tie_is_what_one_roundoff_could_change():
    quantizer = KMeansQuantizer(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    x = torch.tensor([[0.9, 1.0, 1.001, 1.1], [0.0, 0.0, 0.0, 0.0]])[None]
    assert quantizer.near_ties(x, 2.0**-24).tolist() == [[False, True, False, False]]
    assert quantizer.near_ties(x, 2.0**-8).tolist() == [[False, True, True, False]]
    assert not KMeansQuantizer(torch.zeros(1, 2)).near_ties(x, 1.0).any()
