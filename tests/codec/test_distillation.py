"""Distillation: what the first codebook stands for, the teacher at the codec's frames, and the likeness of the two."""

import math

import pytest
import torch

import audiotok
from audiotok.codec.distillation import SemanticDistillation, at_rate, feature_size, teacher_features
from audiotok.codec.stages import stage_vectors
from audiotok.errors import InputError
from audiotok.quantize import FSQ, GroupedResidualVQ, ResidualVQ, VQOptions
from audiotok.quantize.gradient import estimate

NO_START = VQOptions(kmeans_init=False)


def identity(likeness, dim=6):
    distillation = SemanticDistillation(dim, dim, likeness=likeness)
    with torch.no_grad():
        distillation.project.weight.copy_(torch.eye(dim)[:, :, None])
        distillation.project.bias.zero_()
    return distillation


def test_the_loss_is_that_of_the_papers():
    vectors = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    cosine, sigmoid = identity("cosine"), identity("log-sigmoid")
    assert cosine(vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    assert cosine(vectors, -3 * vectors).item() == pytest.approx(2)
    assert sigmoid(vectors, 5 * vectors).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert sigmoid(vectors, -vectors).item() == pytest.approx(math.log(1 + math.e))
    # One compares the vectors of a frame, the other the course of a feature: scaling one of them changes little
    # for the other.
    loud = vectors.clone()
    loud[:, :, 4] *= 100
    assert cosine(vectors, loud).item() == pytest.approx(0, abs=1e-6)
    assert sigmoid(vectors, loud).item() > sigmoid(vectors, vectors).item() + 0.01
    louder = vectors.clone()
    louder[:, 2] *= 100
    assert sigmoid(vectors, louder).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert cosine(vectors, louder).item() > 0.1


@pytest.mark.parametrize("likeness", ["cosine", "log-sigmoid"])
def test_frames_beyond_the_mask_count_for_nothing(likeness):
    torch.manual_seed(0)
    distillation = SemanticDistillation(4, 7, likeness=likeness)
    vectors, target = torch.randn(1, 4, 9), torch.randn(1, 7, 9)
    mask = torch.arange(9)[None] < 6
    expected = distillation(vectors[:, :, :6], target[:, :, :6])
    vectors[:, :, 6:] = 1000.0
    torch.testing.assert_close(distillation(vectors, target, mask), expected)


def test_it_learns_a_map_and_the_vectors_move():
    torch.manual_seed(0)
    distillation, turn = SemanticDistillation(6, 6), torch.linalg.qr(torch.randn(6, 6))[0]
    optimizer = torch.optim.Adam(distillation.parameters(), 0.03)
    for _ in range(150):
        vectors = torch.randn(4, 6, 20, requires_grad=True)
        loss = distillation(vectors, turn @ vectors.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert vectors.grad.abs().sum() > 0


def test_other_frame_rates_are_taken_at_the_middles_of_frames():
    line = torch.arange(40.0)[None, None]
    up = at_rate(line, 50, 75, 60)[0, 0]
    torch.testing.assert_close(up[1:-1], ((torch.arange(60.0) + 0.5) / 1.5 - 0.5)[1:-1])
    down = at_rate(line, 50, 12.5, 10)[0, 0]
    torch.testing.assert_close(down[1:-1], ((torch.arange(10.0) + 0.5) * 4 - 0.5)[1:-1])
    assert torch.equal(at_rate(line, 50, 50, 40), line)
    torch.testing.assert_close(at_rate(torch.ones(1, 2, 7), 49, 31, 9), torch.ones(1, 2, 9))


def test_a_teacher_with_a_frame_too_few_repeats_its_last():
    assert at_rate(torch.tensor([[[1.0, 2.0]]]), 50, 50, 4)[0, 0].tolist() == [1, 2, 2, 2]


def test_a_lower_rate_keeps_nothing_that_would_alias():
    for period in ([1.0, -1.0], [1.0, 0.0, -1.0, 0.0]):
        fast = torch.tensor(period).repeat(40 // len(period))[None, None]
        assert at_rate(fast, 50, 12.5, 10)[0, 0, 1:-1].abs().max().item() < 1e-6


def test_a_teacher_is_any_tokenizer_with_features(speech):
    teacher = audiotok.load("logmel-16khz")
    wav = torch.stack([row[:, :16000] for row in speech])
    assert feature_size(teacher) == 80
    same = teacher_features(teacher, wav, 16000, frame_rate=50, frames=50)
    torch.testing.assert_close(same, teacher.features(wav)[0])
    # A frame of 12.5 Hz lies in the middle of four of 50 Hz.
    slow = teacher_features(teacher, wav, 16000, frame_rate=12.5, frames=13)
    assert slow.shape == (3, 80, 13)
    torch.testing.assert_close(slow[:, :, 5], at_rate(same, 50, 12.5, 13)[:, :, 5])
    middle = same[:, :, 18:26] @ torch.tensor([1.0, 3, 5, 7, 7, 5, 3, 1]) / 32
    torch.testing.assert_close(slow[:, :, 5], middle)
    # Audio at another rate sounds alike.
    resampled = audiotok.audio.resample(wav, 16000, 24000)
    again = teacher_features(teacher, resampled, 24000, frame_rate=50, frames=50)
    assert torch.corrcoef(torch.stack([again[:, :40].flatten(), same[:, :40].flatten()]))[0, 1] > 0.99


def test_first_codebooks_come_with_the_gradient_of_the_estimator():
    rvq = ResidualVQ(4, 8, 3, options=NO_START).train()
    latents = torch.randn(2, 4, 5, requires_grad=True)
    tokens = rvq(latents).tokens
    for codebooks in ((0, 1), (1, 3), (0, 3)):
        found = stage_vectors(rvq, latents, tokens, codebooks)
        before = rvq.decode(tokens[:, : codebooks[0]]) if codebooks[0] else 0.0
        torch.testing.assert_close(found, rvq.decode(tokens[:, : codebooks[1]]) - before)
        weights = torch.randn_like(found)
        (gradient,) = torch.autograd.grad((found * weights).sum(), latents)
        assert torch.equal(gradient, weights)


def test_the_gradient_of_later_codebooks_is_estimated_from_what_was_left_over():
    torch.manual_seed(0)
    rvq = ResidualVQ(4, 8, 3, options=VQOptions(kmeans_init=False, gradient="rotation"))
    latents = torch.randn(2, 4, 5, requires_grad=True)
    tokens = rvq.encode(latents)
    weights = torch.randn(2, 4, 5)
    (found,) = torch.autograd.grad((stage_vectors(rvq, latents, tokens, (1, 3)) * weights).sum(), latents)
    first = rvq.decode(tokens[:, :1])
    wanted = estimate(latents - first, rvq.decode(tokens) - first, "rotation")
    (expected,) = torch.autograd.grad((wanted * weights).sum(), latents)
    torch.testing.assert_close(found, expected)
    assert (found - weights).abs().max() > 0.1  # not the straight-through one


def test_maps_of_a_factorised_quantizer_learn_from_distillation():
    torch.manual_seed(0)
    rvq = ResidualVQ(6, 8, 3, codebook_dim=2, options=NO_START)
    latents = torch.randn(2, 6, 5, requires_grad=True)
    tokens = rvq.encode(latents)
    found = stage_vectors(rvq, latents, tokens)
    torch.testing.assert_close(found, rvq.decode(tokens[:, :1]))
    found.square().sum().backward()
    layer = rvq.layer(0)
    assert all(one.weight.grad.abs().sum() > 0 for one in (layer.project_in, layer.project_out))
    assert rvq.layer(1).project_in.weight.grad is None
    assert latents.grad.abs().sum() > 0
    later = stage_vectors(rvq, latents.detach(), tokens, (1, 3))
    torch.testing.assert_close(later, rvq.decode(tokens) - rvq.decode(tokens[:, :1]))


def test_what_makes_no_sense_is_refused():
    latents = torch.zeros(1, 8, 3)
    gvq, fsq = GroupedResidualVQ(8, 16, num_stages=2, groups=2), FSQ((3, 3, 3, 3), dim=8)
    with pytest.raises(InputError, match="2 groups take a multiple of 2 rows of tokens, not 1"):
        stage_vectors(gvq, latents, gvq.encode(latents))
    with pytest.raises(InputError, match=r"codebooks must be a range within 0..1, not 0..2"):
        stage_vectors(fsq, latents, fsq.encode(latents), (0, 2))
    assert stage_vectors(fsq, latents, fsq.encode(latents)).shape == (1, 8, 3)
    with pytest.raises(InputError, match="likeness must be one of"):
        SemanticDistillation(4, 4, likeness="l2")
    with pytest.raises(InputError, match="5 frames of vectors, 4 of the teacher: align them with teacher_features"):
        SemanticDistillation(4, 4)(torch.zeros(1, 4, 5), torch.zeros(1, 4, 4))
