"""A transformer with a window gives what the plain formula gives, whole, in pieces and as ragged rows."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from audiotok.errors import InputError
from audiotok.nn.causal_transformer import CausalTransformer
from audiotok.nn.flow import Pieces

from .test_flow import assert_all_ways_agree, in_pieces, whole


def network(context: int, *, layers: int = 2, dim: int = 24, heads: int = 3, seed: int = 0) -> CausalTransformer:
    torch.manual_seed(seed)
    made = CausalTransformer(dim, heads=heads, layers=layers, hidden=40, context=context, max_period=500.0)
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter) * (0.5 if parameter.dim() == 2 else 0.8)
    return made.requires_grad_(False)


def by_the_formula(made: CausalTransformer, x: Tensor) -> Tensor:
    """The same of x [B, T, D], query by query, with complex numbers for the rotations."""
    time = torch.arange(x.shape[1], dtype=x.dtype)
    half = made.rotation_size // 2
    angles = time[:, None] * 500.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    turns = torch.polar(torch.ones_like(angles), angles)
    for block in made.blocks:
        q, k, v = (
            part.unflatten(2, (block.heads, -1))
            for part in (
                functional.layer_norm(x, x.shape[2:], block.norm1.weight, block.norm1.bias) @ block.qkv.weight.T
            ).chunk(3, 2)
        )
        q, k = (torch.complex(*one.chunk(2, 3)) * turns[:, None] for one in (q, k))
        seen = torch.zeros_like(v)
        for t in range(x.shape[1]):
            first = max(0, t - block.context + 1)
            scores = torch.einsum("bhi,bshi->bhs", q[:, t], k[:, first : t + 1].conj()).real / math.sqrt(2 * half)
            seen[:, t] = torch.einsum("bhs,bshi->bhi", scores.softmax(2), v[:, first : t + 1])
        x = x + seen.flatten(2) @ block.out.weight.T * block.scale1
        inside = functional.layer_norm(x, x.shape[2:], block.norm2.weight, block.norm2.bias) @ block.up.weight.T
        x = x + functional.gelu(inside) @ block.down.weight.T * block.scale2
    return x


@pytest.mark.parametrize("context", [1, 2, 9, 40, 200])
@pytest.mark.parametrize("block", [7, 16, 128])
def test_it_is_the_formula(context, block, monkeypatch):
    monkeypatch.setattr("audiotok.nn.causal_transformer._BLOCK", block)
    made, x = network(context).double(), torch.randn(2, 45, 24, dtype=torch.float64)
    wanted = by_the_formula(made, x)
    torch.testing.assert_close(whole(made, x), wanted, atol=1e-11, rtol=0)
    torch.testing.assert_close(in_pieces(made, x, [1, 1, 5, 20, 3]), wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("context", [1, 4, 30, 99, 100, 1000])
def test_pieces_and_ragged_rows_agree(context):
    assert_all_ways_agree(network(context), [1, 2, 5, 31, 64, 100], 24, atol=2e-4)


def test_a_frame_sees_exactly_the_context():
    made = network(7, layers=1)
    for length, first in ((30, 23), (5, 0)):
        x = torch.randn(1, length, 24, requires_grad=True)
        whole(made, x)[0, -1].sum().backward()
        assert x.grad is not None
        assert x.grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(range(first, length))


def test_what_is_carried_from_piece_to_piece_does_not_grow():
    made, flow = network(10), Pieces(last=False)
    for size in (3, 500, 1, 40):
        made(torch.randn(1, size, 24), flow)
        kept = [value for value in flow._kept.values() if isinstance(value, tuple)]
        assert len(kept) == 2
        for keys, values in kept:
            assert keys.shape == values.shape == (1, 3, min(9, size if size == 3 else 9), 8)
            assert keys.untyped_storage().nbytes() == keys.numel() * 4  # no view of something longer
    flow.last = True
    made(torch.randn(1, 1, 24), flow)
    assert not flow._kept


def test_positions_are_exact_after_hours():
    made = network(10)
    cos, sin = made._rotation(360_000, torch.zeros(1, 2, 24))  # four hours at 25 frames/s
    for i in range(4):
        angle = 360_001 * 500.0 ** (-i / 4)
        assert float(cos[1, 0, 0, i]) == pytest.approx(math.cos(angle), abs=1e-7)
        assert float(sin[1, 0, 0, i]) == pytest.approx(math.sin(angle), abs=1e-7)


def test_no_frames_give_no_frames():
    made, flow = network(10), Pieces(last=False)
    assert made(torch.zeros(1, 0, 24), flow).shape == (1, 0, 24)
    x = torch.randn(1, 20, 24)
    parts = [made(x[:, :8], flow), made(x[:, :0], flow), made(x[:, 8:], flow)]
    torch.testing.assert_close(torch.cat(parts, 1), whole(made, x), atol=1e-4, rtol=0)


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(InputError, match="5 heads must share 24 channels"):
        network(3, heads=5)
    with pytest.raises(InputError, match="8 heads must share 24 channels, an even number each"):
        network(3, heads=8)
    with pytest.raises(InputError, match="context cannot be 0"):
        network(0)
