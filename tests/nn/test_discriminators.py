"""The discriminators have the paper's sizes and hear what they should."""

import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.discriminators import Discriminators


def test_the_published_discriminators_have_the_papers_number_of_weights():
    """Weights and biases without the lengths of weight norm: 41.1 M and 29.6 M in HiFi-GAN's released models."""
    model = Discriminators()

    def count(part):
        lengths = "weight.original0"
        return sum(value.numel() for name, value in part.named_parameters() if not name.endswith(lengths))

    assert count(model.by_period) == pytest.approx(41.1e6, rel=0.01)
    assert count(model.by_scale) == pytest.approx(29.6e6, rel=0.01)


@pytest.mark.parametrize("samples", [2000, 2003])
def test_every_discriminator_gives_scores_and_maps_of_each_row_alone(samples):
    torch.manual_seed(0)
    model = Discriminators(shrink=32).eval()
    wav = torch.randn(2, 1, samples)
    judged = model(wav)
    assert len(judged) == 8
    for (score, maps), (alone, _) in zip(judged, model(wav[1:]), strict=True):
        torch.testing.assert_close(score[1:], alone, rtol=1e-4, atol=1e-5)
        assert score.shape[0] == 2
        assert len(maps) in (6, 8)


def test_a_period_discriminator_compares_samples_that_are_a_period_apart():
    model = Discriminators(shrink=32).by_period[3].eval()
    assert model.period == 7
    wav = torch.zeros(1, 1, 700)
    silent = model(wav)[1][0]
    wav[0, 0, 350 + 3] = 1.0
    changed = (model(wav)[1][0] != silent).any(dim=(0, 1)).any(dim=0).nonzero().flatten()
    assert changed.tolist() == [3]  # one column of the picture


def test_shrink_is_bounded():
    with pytest.raises(InputError, match="shrink must lie in 1..128, not 0"):
        Discriminators(shrink=0)
