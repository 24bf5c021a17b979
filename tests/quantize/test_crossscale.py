import pytest
import torch
from torch import nn

from audiotok.errors import InputError
from audiotok.quantize import FSQ, CrossScaleRVQ, ProductVQ, VectorQuantizer, VQOptions
from audiotok.quantize.base import Projection

from .everything import frames

FRESH = VQOptions(kmeans_init=False, revive_below=0)


class Step(nn.Module):
    """A decoder step of its own, not undone by anything."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.map = Projection(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(x.transpose(1, 2)).transpose(1, 2).tanh()


def learned() -> CrossScaleRVQ:
    torch.manual_seed(0)
    parts = [VectorQuantizer(4, 16, options=FRESH), ProductVQ(6, 16, 2, options=FRESH), FSQ([5, 5, 5], 8)]
    steps = [Step(4, 6), Step(6, 8)]
    return CrossScaleRVQ(parts, expand=steps, reduce=[Step(6, 4), Step(8, 6)])


def features() -> list[torch.Tensor]:
    return [frames(2, 10, dim, seed=dim) for dim in (4, 6, 8)]


def test_each_scale_codes_what_the_decoder_lacks():
    quantizer, wanted = learned().eval(), features()
    tokens = quantizer.encode_features(wanted)
    assert tokens.shape == (2, 4, 10)
    decoded = quantizer.scale(0).decode(tokens[:, :1])
    assert torch.equal(tokens[:, :1], quantizer.scale(0).encode(wanted[0]))
    for index, rows in ((1, slice(1, 3)), (2, slice(3, 4))):
        known = quantizer.expand[index - 1](decoded)
        assert torch.equal(tokens[:, rows], quantizer.scale(index).encode(wanted[index] - known))
        decoded = known + quantizer.scale(index).decode(tokens[:, rows])
        assert torch.equal(quantizer.decode_features(tokens)[index], decoded)
    assert torch.equal(quantizer.decode(tokens), decoded)
    result = quantizer.train_features(wanted)
    assert torch.equal(result.tokens, tokens)
    assert torch.equal(result.quantized, decoded)


def test_missing_scales_add_nothing():
    quantizer = learned().eval()
    tokens = quantizer.encode_features(features())
    coarse = quantizer.decode_features(tokens[:, :1])
    assert torch.equal(coarse[0], quantizer.scale(0).decode(tokens[:, :1]))
    assert torch.equal(coarse[2], quantizer.expand[1](quantizer.expand[0](coarse[0])))
    assert torch.equal(quantizer.encode_features(features(), num_codebooks=3), tokens[:, :3])


def test_training_reaches_every_feature_and_every_decoder_step():
    quantizer, given = learned().train(), [feature.requires_grad_() for feature in features()]
    mask = torch.ones(2, 10, dtype=torch.bool)
    result = quantizer.train_features(given, mask)
    (result.quantized.square().sum() + result.loss).backward()
    for feature in given:
        assert feature.grad.abs().sum() > 0
    for step in quantizer.expand:
        assert step.map.weight.grad.abs().sum() > 0


def test_alone_it_makes_its_own_coarser_features():
    parts = [VectorQuantizer(2, 16, options=FRESH), VectorQuantizer(8, 16, options=FRESH)]
    quantizer = CrossScaleRVQ(parts).eval()
    x = frames(2, 10)
    coarse, fine = quantizer.features(x)
    torch.testing.assert_close(coarse, x.view(2, 2, 4, 10).mean(2))
    assert torch.equal(fine, x)
    tokens = quantizer.encode(x)
    assert torch.equal(quantizer.decode(tokens[:, :1]), parts[0].decode(tokens[:, :1]).repeat_interleave(4, 1))


def test_parts_that_do_not_fit_are_input_errors():
    with pytest.raises(InputError, match="at least one scale"):
        CrossScaleRVQ([])
    with pytest.raises(InputError, match="6 features are not a multiple of 4: give expand and reduce modules"):
        CrossScaleRVQ([FSQ([5] * 4), FSQ([5] * 6)])
    with pytest.raises(InputError, match="3 scales have 2 steps between them, not 1 to expand and 2 to reduce"):
        CrossScaleRVQ([FSQ([5] * 2), FSQ([5] * 4), FSQ([5] * 8)], expand=[nn.Identity()])
    with pytest.raises(InputError, match="3 scales want as many features, coarsest first, not 2"):
        learned().encode_features(features()[:2])
    with pytest.raises(InputError, match="all scales must have the same batch and frames"):
        learned().encode_features([*features()[:2], frames(2, 9, 8)])
    with pytest.raises(InputError, match=r"the scales end after \[1, 3, 4\] rows of tokens; 2 rows cut one in two"):
        learned().decode(torch.zeros(1, 2, 3, dtype=torch.long))
