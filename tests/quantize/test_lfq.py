import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import LFQ, ResidualLFQ

from .everything import frames


def test_tokens_are_the_signs_as_bits_first_one_most_significant():
    x = torch.tensor([[1.0, -1, 1], [1.0, -1, -1], [0.0, -1, 1], [-0.5, 2, 0.1]]).t()[None]
    quantizer = LFQ(3, 8, scale=0.5)
    tokens = quantizer.encode(x)
    assert tokens.tolist() == [[[5, 4, 1, 3]]]  # a zero counts as minus
    assert quantizer.decode(tokens)[0, :, 0].tolist() == [0.5, -0.5, 0.5]
    assert quantizer.codebooks[0][6].tolist() == [0.5, 0.5, -0.5]


@pytest.mark.parametrize("bits", [1, 2, 5, 6])
def test_entropy_loss_and_its_gradient_equal_the_sum_over_all_codes(bits):
    quantizer = LFQ(bits, 2**bits, entropy_weight=0.3, diversity=0.7, inverse_temperature=0.9, scale=0.8).train()
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    x = frames(2, 12, bits).requires_grad_()
    loss = quantizer(x, mask).loss
    (gradient,) = torch.autograd.grad(loss, x)

    rows = x.transpose(1, 2)[mask].double()
    p = (2 * 0.9 * rows @ quantizer.codebooks[0].double().t()).softmax(1)
    mean = p.mean(0)
    per_frame = -(p * p.log()).sum(1).mean()
    wanted = 0.3 * (per_frame + 0.7 * (mean * mean.log()).sum())
    (other,) = torch.autograd.grad(wanted, x)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    torch.testing.assert_close(gradient, other.float(), atol=1e-6, rtol=1e-4)


def test_a_large_codebook_costs_no_frames_by_codebook_matrix():
    quantizer = LFQ(18, 2**18).train()
    x = frames(1, 4000, 18).requires_grad_()  # all probabilities would take 4 GB
    quantizer(x).loss.backward()
    assert torch.isfinite(x.grad).all()


def test_commitment_loss_is_its_formula():
    quantizer = LFQ(4, 16, entropy_weight=0.0, commitment_weight=0.5).train()
    x = frames(2, 5, 4)
    torch.testing.assert_close(quantizer(x).loss, 0.5 * (x - torch.where(x > 0, 1.0, -1.0)).square().mean())


def test_straight_through_is_the_identity_for_one_and_for_several_stages():
    weight = frames(2, 5, 4, seed=1)
    for quantizer in (LFQ(4, 16), ResidualLFQ(4, 16, 3)):
        x = frames(2, 5, 4).requires_grad_()
        (quantizer.train()(x).quantized * weight).sum().backward()
        assert torch.equal(x.grad, weight)


def test_residual_stages_halve_their_scale():
    quantizer = ResidualLFQ(1, 2, 10)
    x = torch.linspace(-1.9, 1.9, 101).view(1, 1, -1)
    tokens = quantizer.encode(x)
    for depth in range(1, 11):
        assert (quantizer.decode(tokens[:, :depth]) - x).abs().max() <= 2.0 ** (1 - depth) + 1e-6


@pytest.mark.parametrize("size", [0, 1, 3, 48])
def test_sizes_that_are_no_power_of_two_are_input_errors(size):
    with pytest.raises(InputError, match=f"must be a power of two, at least 2, not {size}"):
        LFQ(4, size)
