"""Muon's updates are orthogonal, of the size it says, and reach what they should."""

import math

import pytest
import torch
from torch import nn

from audiotok.errors import InputError
from audiotok.train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_singular_values_become_alike(shape):
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, min(shape))).Q for size in shape)
    matrix = left @ torch.diag(torch.logspace(0, -1.3, min(shape))) @ right.T
    found = torch.linalg.svdvals(orthogonal(matrix))
    assert found.min() > 0.6
    assert found.max() < 1.3
    rotation = torch.linalg.qr(torch.randn(16, 16)).Q
    torch.testing.assert_close(orthogonal(rotation) @ rotation.T, torch.eye(16), atol=0.35, rtol=0)


def test_a_step_has_the_size_it_says_and_takes_convolutions():
    weight = nn.Parameter(torch.zeros(8, 4, 3))
    weight.grad = torch.randn(8, 4, 3)
    Muon([weight], [], lr=0.5).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.5 * 0.2, rel=0.25)
    with pytest.raises(InputError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))], [], lr=0.1)


def test_what_is_no_matrix_moves_as_with_adamw():
    one, other, matrix = (nn.Parameter(torch.ones(size)) for size in ((5,), (5,), (3, 4)))
    muon = Muon([matrix], [one], 0.1, (0.8, 0.95), weight_decay=0.01)
    adamw = torch.optim.AdamW([other], 0.1, (0.8, 0.95), weight_decay=0.01, fused=True)
    for step in range(3):
        for some in (one, other, matrix):
            some.grad = torch.linspace(-1, 1, some.numel()).view_as(some) * (step + 1)
        muon.step()
        adamw.step()
        assert matrix.grad is not None
    assert torch.equal(one, other)
    assert not torch.equal(matrix, torch.ones(3, 4))


def test_gradients_that_overflow_in_half_precision_move_nothing():
    matrix, vector = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))
    muon, scaler = Muon([matrix], [vector], lr=0.1), torch.amp.GradScaler("cpu")

    def step(factor: float) -> None:
        scaler.scale((matrix.sum() + vector.sum()) * factor).backward()
        scaler.unscale_(muon)
        scaler.step(muon)
        scaler.update()
        muon.zero_grad()

    step(math.inf)
    assert torch.equal(matrix, torch.eye(3))
    assert torch.equal(vector, torch.ones(3))
    assert not muon.state
    step(1.0)
    assert not torch.equal(matrix, torch.eye(3))
    assert bool(vector.isfinite().all() and matrix.isfinite().all())


def test_matrices_decay_beside_their_gradient_as_in_adamw():
    matrix = nn.Parameter(torch.ones(3, 4))
    matrix.grad = torch.zeros(3, 4)
    Muon([matrix], [], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(matrix.detach(), torch.full((3, 4), 1 - 0.1 * 0.5))


def test_it_finds_a_matrix_that_gradient_descent_finds_slowly():
    torch.manual_seed(0)
    wanted = torch.randn(16, 16) / 4
    seen = torch.randn(256, 16) @ torch.diag(torch.logspace(0, -2, 16))  # badly conditioned

    def left(make) -> float:
        weight = nn.Parameter(torch.zeros(16, 16))
        optimizer = make([weight])
        for _ in range(200):
            for group in optimizer.param_groups:
                group["lr"] *= 0.98
            (seen @ (weight - wanted).t()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return float((weight.detach() - wanted).norm() / wanted.norm())

    assert (
        left(lambda some: Muon(some, [], lr=0.1)) < 0.4 < left(lambda some: torch.optim.SGD(some, lr=0.5, momentum=0.9))
    )


def test_its_state_is_saved_and_goes_on_bit_for_bit():
    def run(steps: int, state: dict | None = None, weight: nn.Parameter | None = None):
        weight = nn.Parameter(torch.eye(6)) if weight is None else weight
        optimizer = Muon([weight], [], lr=0.05, weight_decay=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            (weight @ torch.arange(36.0).view(6, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return weight, optimizer

    whole, _ = run(6)
    half, optimizer = run(3)
    rest, _ = run(3, optimizer.state_dict(), half)
    assert torch.equal(whole, rest)
