import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import MultiScaleRVQ, ResidualVQ, VectorQuantizer, VQOptions, rotation_trick, straight_through

from .everything import DAC, frames


def test_straight_through_has_the_entry_bit_for_bit_and_the_gradient_of_the_identity():
    x, entry, weight = frames(seed=0).requires_grad_(), frames(seed=1).requires_grad_(), frames(seed=2)
    y = straight_through(x, entry)
    assert torch.equal(y, entry)
    (y * weight).sum().backward()
    assert torch.equal(x.grad, weight)
    assert entry.grad is None


def test_rotation_trick_has_the_entry_bit_for_bit_and_the_gradient_of_its_formula():
    x, entry, weight = frames(1, 5).requires_grad_(), frames(1, 5, seed=1), frames(1, 5, seed=2)
    y = rotation_trick(x, entry)
    assert torch.equal(y, entry)
    (y * weight).sum().backward()
    for f in range(5):
        v, q = x.detach()[0, :, f].double(), entry[0, :, f].double()
        e, qn = v / v.norm(), q / q.norm()
        r = (e + qn) / (e + qn).norm()
        matrix = torch.eye(8).double() - 2 * torch.outer(r, r) + 2 * torch.outer(qn, e)
        matrix = matrix * q.norm() / v.norm()
        torch.testing.assert_close(matrix @ v, q)  # the formula does take x to the entry
        wanted = matrix.t() @ weight[0, :, f].double()
        torch.testing.assert_close(x.grad[0, :, f].double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("entry", [torch.zeros(1, 3, 1), -2.0 * torch.ones(1, 3, 1)])
def test_rotation_trick_is_straight_through_where_no_rotation_is_defined(entry):
    x = torch.ones(1, 3, 1, requires_grad=True)
    y = rotation_trick(x, entry)
    assert torch.equal(y, entry)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(1, 3, 1))


@pytest.mark.parametrize(
    "make", [lambda: ResidualVQ(8, 16, 4), lambda: MultiScaleRVQ(8, 16), lambda: VectorQuantizer(8, 16)]
)
def test_residual_stages_together_are_one_identity(make):
    quantizer = make().train()
    x, weight = frames().requires_grad_(), frames(seed=5)
    (quantizer(x).quantized * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_every_commitment_stage_reaches_the_encoder():
    x = frames()
    gradients = []
    for stages in (1, 4):
        quantizer = ResidualVQ(8, 16, stages).train()
        leaf = x.clone().requires_grad_()
        quantizer(leaf).loss.backward()
        gradients.append(leaf.grad)
    assert not torch.allclose(gradients[0], gradients[1])


def test_commitment_loss_is_its_formula_and_pulls_towards_the_entries():
    quantizer = VectorQuantizer(8, 16, options=VQOptions(commitment_weight=0.7, kmeans_init=False)).train()
    x = frames().requires_grad_()
    entries = quantizer.codebooks[0].clone()
    result = quantizer(x)
    chosen = entries[result.tokens[:, 0]].transpose(1, 2)
    torch.testing.assert_close(result.loss, 0.7 * (x - chosen).square().mean())
    result.loss.backward()
    torch.testing.assert_close(x.grad, 0.7 * 2 * (x - chosen).detach() / x.numel())


def test_gradient_codebooks_learn_from_the_codebook_loss_alone():
    options = VQOptions(
        update="gradient", commitment_weight=0.0, codebook_weight=2.0, kmeans_init=False, revive_below=0
    )
    quantizer = VectorQuantizer(8, 4, options=options).train()
    x = frames().requires_grad_()
    result = quantizer(x)
    result.quantized.sum().backward(retain_graph=True)
    entries = quantizer.book().entries
    assert entries.grad is None
    result.loss.backward()
    rows, tokens = x.detach().transpose(1, 2).reshape(-1, 8), result.tokens.flatten()
    wanted = torch.zeros_like(entries)
    for row, token in zip(rows, tokens, strict=True):
        wanted[token] += 2.0 * 2 * (entries.detach()[token] - row) / rows.numel()
    torch.testing.assert_close(entries.grad, wanted)


def test_factorised_stages_train_their_own_maps():
    quantizer = ResidualVQ(8, 16, 3, codebook_dim=2, options=DAC).train()
    quantizer(frames()).quantized.square().sum().backward()
    for stage in range(3):
        layer = quantizer.layer(stage)
        assert layer.project_in.weight.grad.abs().sum() > 0
        assert layer.project_out.weight.grad.abs().sum() > 0


def test_an_optimizer_lowers_the_error_of_a_gradient_codebook():
    quantizer = ResidualVQ(8, 16, 2, codebook_dim=4, options=DAC).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=3e-2)
    x = frames(4, 64)
    errors = []
    for _ in range(120):
        optimizer.zero_grad()
        result = quantizer(x)
        error = (result.quantized - x).square().mean()
        (error + result.loss).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]


def test_unknown_estimators_are_input_errors():
    with pytest.raises(InputError, match=r"gradient must be one of .*'straight-through', 'rotation'.*, not 'magic'"):
        VQOptions(gradient="magic")
