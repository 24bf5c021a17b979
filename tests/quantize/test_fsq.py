import math

import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import FSQ, ResidualFSQ

from .everything import frames


def test_levels_are_those_of_the_paper_formula_number_by_number():
    levels, x = [8, 5, 4, 3], 2 * frames(1, 300, 4)
    tokens = FSQ(levels).encode(x)[0, 0]
    decoded = FSQ(levels).decode(tokens[None, None])[0]
    for f in range(300):
        index, step = 0, 1
        for i, count in enumerate(levels):
            half = (count - 1) * 1.001 / 2
            offset = 0.5 if count % 2 == 0 else 0.0
            rounded = round(half * math.tanh(x[0, i, f].item() + math.atanh(offset / half)) - offset)
            index += step * (rounded + count // 2)
            step *= count
            assert decoded[i, f].item() == pytest.approx(rounded / (count // 2))
        assert tokens[f].item() == index


def test_every_token_decodes_to_its_own_point_and_back():
    for quantizer in (FSQ([5, 4, 3]), FSQ([5, 4, 2], symmetric=True)):
        size = quantizer.codebook_sizes[0]
        tokens = torch.arange(size).view(1, 1, -1)
        points = quantizer.decode(tokens)
        assert torch.equal(points[0].t(), quantizer.codebooks[0])
        assert len(points[0].t().unique(dim=0)) == size
        assert points.abs().max() == 1
        far = torch.atanh(points.double().clamp(-0.99, 0.99)).float()
        if quantizer.grid.symmetric:
            assert torch.equal(quantizer.encode(far), tokens)


def test_extreme_inputs_stay_on_the_grid():
    for quantizer in (FSQ([8, 5]), FSQ([1000, 3], margin=0.0), FSQ([2, 3], symmetric=True)):
        x = torch.tensor([[[-1e30, 1e30, 0.0], [1e30, -1e30, 0.0]]])
        tokens = quantizer.encode(x)
        assert torch.equal(quantizer.decode(tokens)[0, :, :2].sign(), x[0, :, :2].sign())


def test_rounding_passes_the_gradient_of_the_squashing():
    quantizer = FSQ([5, 3]).train()
    x = frames(1, 10, 2).requires_grad_()
    quantizer(x).quantized.sum().backward()
    slope = 1 - torch.tanh(x.detach().double()) ** 2
    halves = torch.tensor([4 * 1.001 / 2 / 2, 2 * 1.001 / 2 / 1]).double()[:, None]
    torch.testing.assert_close(x.grad.double(), slope * halves, atol=1e-6, rtol=1e-5)


def test_several_codebooks_are_several_quantizers():
    quantizer = FSQ([5, 4, 3, 3], num_codebooks=2)
    x = frames()
    tokens = quantizer.encode(x)
    assert torch.equal(tokens[:, 1:], FSQ([5, 4, 3, 3]).encode(x[:, 4:]))


def test_residual_stages_shrink_the_error_by_their_scale():
    x = 0.9 * torch.rand(1, 2, 500, generator=torch.Generator().manual_seed(0)) * 2 - 0.9
    quantizer = ResidualFSQ([5, 3], 4)
    limit = torch.tensor([1 + 1 / 4, 1 + 1 / 2])[:, None]
    squashed = torch.tanh(x / limit) * limit
    tokens = quantizer.encode(x)
    for depth in range(1, 5):
        error = (quantizer.decode(tokens[:, :depth]) - squashed).abs().amax((0, 2))
        steps = torch.tensor([0.5, 1.0]) / torch.tensor([5.0, 3.0]) ** (depth - 1)
        assert bool((error <= steps * 0.5 + 1e-6).all() if depth == 1 else (error <= steps).all())


def test_codebooks_of_residual_stages_add_up_to_the_decoded_vector():
    quantizer = ResidualFSQ([5, 3], 3)
    tokens = quantizer.encode(frames(1, 50, 2))
    total = sum(table[tokens[0, k]] for k, table in enumerate(quantizer.codebooks))
    torch.testing.assert_close(quantizer.decode(tokens)[0].t(), total)


def test_levels_out_of_range_are_input_errors():
    with pytest.raises(InputError, match=r"every level must be at least 3 \(2 with symmetric=True\): \[5, 2\]"):
        FSQ([5, 2])
    with pytest.raises(InputError, match="every level must be at least 2"):
        FSQ([5, 1], symmetric=True)
    with pytest.raises(InputError, match="every level must be"):
        FSQ([])
    with pytest.raises(InputError, match=r"a margin of 0.1 is too large for 50 levels"):
        FSQ([50], margin=0.1)
