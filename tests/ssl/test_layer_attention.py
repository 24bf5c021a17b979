"""Attention over layers: weights, gradients, missing layers, and it finds the layer that matters."""

import sys

import pytest
import torch

from audiotok.errors import InputError, MissingDependencyError
from audiotok.ssl.attention import LayerAttention, mean_layer_weights, plot_layer_weights

SIZES = (6, 8, 10)


def tokens_of(rows=2, frames=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (rows, frames), generator=generator) for size in SIZES], dim=1)


def test_features_are_the_weighted_sum_and_weights_sum_to_one():
    attention, tokens = LayerAttention(SIZES, 5, layers=(3, 7, 12)), tokens_of()
    features, weights = attention(tokens)
    assert (features.shape, weights.shape) == ((2, 5, 7), (2, 3, 7))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 7))
    for row, frame in ((0, 0), (1, 6)):
        starts = (0, 6, 14)
        vectors = [attention.table[start + tokens[row, i, frame]] for i, start in enumerate(starts)]
        scores = torch.stack([attention.score(vector)[0] for vector in vectors]).softmax(dim=0)
        torch.testing.assert_close(weights[row, :, frame], scores)
        expected = sum(weight * vector for weight, vector in zip(scores, vectors, strict=True))
        torch.testing.assert_close(features[row, :, frame], expected)


def test_gradients_are_those_of_finite_differences():
    attention = LayerAttention((2, 3), 4, hidden=5).double()
    tokens = torch.tensor([[[0, 1, 1], [2, 0, 1]]])

    def outputs(table, missing):
        parameters = {"table": table, "missing": missing}
        return torch.func.functional_call(attention, parameters, (tokens[:, :1],), {"layers": [1]})

    table, missing = (p.detach().clone().requires_grad_() for p in (attention.table, attention.missing))
    tokens = tokens.clamp(max=2)
    assert torch.autograd.gradcheck(outputs, (table, missing))


def test_a_missing_layer_is_the_shared_vector_and_takes_part():
    attention, tokens = LayerAttention(SIZES, 5, layers=(3, 7, 12)), tokens_of()
    features, weights = attention(tokens[:, [2, 0]], layers=[12, 3])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 7))
    scores = torch.stack(
        [
            attention.score(attention.table[tokens[:, 0]])[..., 0],
            attention.score(attention.missing).expand(2, 7),
            attention.score(attention.table[14 + tokens[:, 2]])[..., 0],
        ],
        dim=1,
    )
    torch.testing.assert_close(weights, scores.softmax(dim=1))
    features.sum().backward()
    assert float(attention.missing.grad.abs().sum()) > 0
    assert int(attention.table.grad[6:14].count_nonzero()) == 0


def test_masked_frames_are_zero_and_what_lies_there_does_not_matter():
    attention, tokens = LayerAttention(SIZES, 5), tokens_of()
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    spoilt = torch.where(mask[:, None], tokens, -100)
    features, weights = attention(spoilt, mask=mask)
    whole = attention(tokens)
    torch.testing.assert_close(features, whole[0] * mask[:, None])
    torch.testing.assert_close(weights, whole[1] * mask[:, None])
    expected = torch.cat([whole[1][0], whole[1][1, :, :4]], dim=1).mean(dim=1)
    torch.testing.assert_close(mean_layer_weights(weights, mask), expected)
    torch.testing.assert_close(mean_layer_weights(whole[1], mask), expected)


def test_centroids_are_where_it_begins():
    centroids = [torch.randn(size, 4) for size in SIZES]
    attention = LayerAttention(SIZES, centroids=centroids)
    assert torch.equal(attention.table, torch.cat(centroids))


def test_the_same_seed_begins_alike_and_leaves_torchs_own_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (LayerAttention(SIZES, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.table, other.table)


def synthetic(rows, seed):
    """Three layers of random tokens; only layer 2 (the last) tells the class, by the parity of its tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 8, (rows, 3, 12), generator=generator)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    tokens[:, 2] = tokens[:, 2] // 2 * 2 + labels[:, None]
    return tokens, labels


@pytest.mark.parametrize("frozen", [False, True])
def test_most_weight_ends_on_the_only_layer_that_is_informative(frozen):
    centroids = [torch.randn(8, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    attention = LayerAttention((8, 8, 8), centroids=centroids, trainable=not frozen, hidden=32)
    before = attention.table.detach().clone()
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 2)
    parameters = [p for p in (*attention.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(150):
        tokens, labels = synthetic(32, seed=step)
        logits = head(attention(tokens)[0].mean(dim=2))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, labels = synthetic(400, seed=10_000)
    features, weights = attention(tokens)
    accuracy = (head(features.mean(dim=2)).argmax(dim=1) == labels).float().mean()
    means = mean_layer_weights(weights)
    assert float(accuracy) > 0.97
    assert float(means[2]) > 0.7
    assert torch.equal(attention.table, before) == frozen


def test_the_picture_is_written(tmp_path):
    weights = torch.softmax(torch.randn(2, 3, 5), dim=1)
    plot_layer_weights(weights, tmp_path / "weights.png", layers=(3, 7, 12))
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'audiotok\[demo\]'"):
        plot_layer_weights(torch.ones(1, 1, 1), tmp_path / "weights.png")


def test_errors_say_what_was_wanted(tmp_path):
    attention, tokens = LayerAttention(SIZES, 5), tokens_of()
    with pytest.raises(InputError, match=r"mask must be \[2, 7\] bool"):
        attention(tokens, mask=torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(InputError, match=r"mask must be \[2, 7\] bool"):
        attention(tokens, mask=torch.ones(2, 7))
    with pytest.raises(InputError, match="2 rows of tokens for the 3 layers"):
        attention(tokens[:, :2])
    with pytest.raises(InputError, match="tokens must lie in"):
        attention(tokens + 6)
    with pytest.raises(InputError, match="give dim"):
        LayerAttention(SIZES)
    with pytest.raises(InputError, match="layers that differ"):
        LayerAttention(SIZES, 4, layers=(1, 1, 2))
    with pytest.raises(InputError, match="a codebook size each"):
        LayerAttention(SIZES, 4, layers=(1, 2))
    with pytest.raises(InputError, match=r"one \[V, 4\] for each V of \(6, 8, 10\)"):
        LayerAttention(SIZES, centroids=[torch.ones(6, 4)])
    with pytest.raises(InputError, match="no valid frame"):
        mean_layer_weights(torch.ones(1, 3, 2), torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="weights of 3 layers, but the numbers of 1"):
        plot_layer_weights(torch.ones(1, 3, 2), tmp_path / "x.png", layers=[1])
