"""Losses by numbers known beforehand."""

import pytest
import torch

from audiotok.train.losses import discriminator_loss, feature_loss, generator_loss, wav_loss


def judged(*pairs):
    return [(torch.tensor([scores]), [torch.tensor(one) for one in maps]) for scores, maps in pairs]


def test_hinge_losses_stop_at_the_margin_and_rise_one_for_one_below_it():
    real, fake = judged(([3.0, 1.0], [])), judged(([-3.0, -1.0], []))
    assert discriminator_loss(real, fake, "hinge").item() == 0
    assert discriminator_loss(fake, real, "hinge").item() == pytest.approx((4 + 2) / 2 + (4 + 2) / 2)
    assert generator_loss(fake, "hinge").item() == pytest.approx(2.0)
    # A discriminator that gives 0 for everything has a loss of 2.
    nothing = judged(([0.0, 0.0], []))
    assert discriminator_loss(nothing, nothing, "hinge").item() == pytest.approx(2.0)


def test_relative_feature_matching_does_not_depend_on_the_scale_or_the_number_of_maps():
    real = judged(([0.0], [[1.0, -3.0], [100.0, 300.0]]), ([0.0], [[2.0]]))
    fake = judged(([0.0], [[2.0, -3.0], [200.0, 300.0]]), ([0.0], [[1.0]]))
    # Differences of 0.5, 50 and 1; the real maps are 2, 200 and 2 on average.
    assert feature_loss(real, fake).item() == pytest.approx(0.5 + 50 + 1)
    assert feature_loss(real, fake, relative=True).item() == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert feature_loss(real * 5, fake * 5, relative=True).item() == pytest.approx(1 / 3)


def test_relative_feature_matching_of_silence_is_finite():
    real, fake = judged(([0.0], [[0.0, 0.0]])), judged(([0.0], [[0.0, 1e-6]]))
    assert feature_loss(real, real, relative=True).item() == 0
    assert feature_loss(real, fake, relative=True).item() == pytest.approx(0.5)


@pytest.mark.parametrize("relative", [False, True])
def test_feature_matching_moves_the_fake_maps_alone(relative):
    right, wrong = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    score = torch.zeros(2, 1)
    feature_loss([(score, [right])], [(score, [wrong])], relative=relative).backward()
    assert right.grad is None
    scale = 6 * right.detach().abs().mean() if relative else 6
    torch.testing.assert_close(wrong.grad, torch.sign(wrong - right).detach() / scale)


def test_the_time_domain_loss_is_a_mean_absolute_difference_in_float32():
    wav, target = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[0.5, 1.0]]])
    assert wav_loss(wav, target).item() == pytest.approx((0.5 + 2) / 2)
    assert wav_loss(wav.bfloat16(), target).dtype == torch.float32
