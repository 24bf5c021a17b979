import torch

from audiotok.quantize import RandomProjection

from .everything import frames

GOLDEN = [[26, 26, 26, 26, 26, 26, 23, 20, 1, 1, 1, 1], [9, 9, 21, 14, 13, 10, 10, 0, 0, 0, 0, 3]]
PROJECTION = [0.155192, -0.372434, -0.573197, 0.383368]


def test_a_seed_gives_these_numbers_on_every_machine():
    quantizer = RandomProjection(8, 32, 4, num_codebooks=2, seed=11)
    x = torch.arange(8 * 12).view(1, 8, 12).mul(0.37).sin()
    assert quantizer.encode(x)[0].tolist() == GOLDEN
    assert [round(v, 6) for v in quantizer.projections[0, 0].tolist()] == PROJECTION


def test_another_seed_gives_other_tokens():
    x = frames(1, 200)
    one, other = (RandomProjection(8, 32, 4, seed=seed).encode(x) for seed in (0, 1))
    assert (one == other).float().mean() < 0.3


def test_tokens_are_those_of_the_paper_formula():
    quantizer, x = RandomProjection(8, 32, 4, num_codebooks=2, seed=3), 5 * frames(2, 50) + 1
    tokens = quantizer.encode(x)
    rows = x.transpose(1, 2).double()
    rows = (rows - rows.mean(2, keepdim=True)) / (rows.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    for k in range(2):
        found = torch.nn.functional.normalize(rows @ quantizer.projections[k].double(), dim=2)
        distance = (found[:, :, None] - quantizer.codebooks[k].double()).norm(dim=3)
        assert torch.equal(tokens[:, k], distance.argmin(2))
    torch.testing.assert_close(quantizer.codebooks[0].norm(dim=1), torch.ones(32))


def test_numbers_are_normal_with_the_variance_of_xavier():
    quantizer = RandomProjection(200, 4000, 100, seed=1)
    assert abs(quantizer.projections.std().item() / (2 / 300) ** 0.5 - 1) < 0.02
    assert abs(quantizer.projections.mean().item()) < 0.002
    fourth = (quantizer.projections / quantizer.projections.std()).pow(4).mean().item()
    assert abs(fourth - 3) < 0.15  # of a normal distribution


def test_decoding_is_the_least_squares_vector():
    quantizer = RandomProjection(8, 32, 4, num_codebooks=2, seed=3)
    tokens = quantizer.encode(frames(1, 20))
    decoded = quantizer.decode(tokens)[0]  # 2 · 4 equations determine 8 values
    for k in range(2):
        back = decoded.t() @ quantizer.projections[k]
        torch.testing.assert_close(back, quantizer.codebooks[k][tokens[0, k]], atol=1e-4, rtol=1e-4)


def test_training_changes_nothing_and_has_no_parameters():
    quantizer = RandomProjection(8, 32, 4).train()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    x = frames().requires_grad_()
    result = quantizer(x)
    assert result.loss.item() == 0
    assert list(quantizer.parameters()) == []
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    assert torch.equal(result.tokens, quantizer.eval().encode(x))
