import torch

from audiotok.quantize import SimVQ

from .everything import frames


def test_loss_is_its_formula_and_moves_every_entry():
    quantizer = SimVQ(8, 32, commitment_weight=0.4, seed=1).train()
    x = frames().requires_grad_()
    result = quantizer(x)
    book = quantizer.codebooks[0].detach()
    chosen = book[result.tokens[:, 0]].transpose(1, 2)
    torch.testing.assert_close(result.loss, 1.4 * (x - chosen).square().mean())
    result.loss.backward()
    torch.testing.assert_close(x.grad, 0.4 * 2 * (x - chosen).detach() / x.numel())
    with torch.no_grad():
        quantizer.transform.weight -= quantizer.transform.weight.grad
    assert ((quantizer.codebooks[0] - book).abs().amax(1) > 0).all()


def test_training_with_an_optimizer_lowers_the_error_and_uses_many_entries():
    quantizer = SimVQ(8, 64, seed=1).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    x, errors = frames(4, 64), []
    for _ in range(100):
        optimizer.zero_grad()
        result = quantizer(x)
        result.loss.backward()
        optimizer.step()
        errors.append(result.loss.item())
    assert errors[-1] < 0.75 * errors[0]
    assert quantizer.encode(x).unique().numel() > 40


def test_a_seed_gives_the_same_codebook():
    assert torch.equal(SimVQ(8, 32, seed=4).codebooks[0], SimVQ(8, 32, seed=4).codebooks[0])
    assert not torch.equal(SimVQ(8, 32, seed=4).codebooks[0], SimVQ(8, 32, seed=5).codebooks[0])
