"""Phases for magnitudes: the inverse transform, its pieces, and how near the spectrum comes."""

import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.flow import Pieces, Whole
from audiotok.nn.griffin_lim import GriffinLimHead, overlap_add, phases, synthesize, transform


@pytest.mark.parametrize(("fft", "hop"), [(160, 40), (160, 80), (100, 30), (64, 64)])
def test_synthesis_undoes_the_transform(fft, hop):
    wav = torch.randn(2, 20 * hop + fft, dtype=torch.float64)
    found = synthesize(transform(wav, fft, hop), fft, hop)
    inside = slice(fft, 20 * hop) if hop < fft else slice(1, 1)
    torch.testing.assert_close(found[:, inside], wav[:, inside])
    assert found.shape == wav.shape


def test_overlap_add_keeps_the_sum():
    frames = torch.randn(3, 7, 50, dtype=torch.float64)
    torch.testing.assert_close(overlap_add(frames, 20).sum(1), frames.sum((1, 2)))
    assert overlap_add(frames[:, :0], 20).shape == (3, 0)


def test_more_iterations_come_nearer_to_the_magnitudes_of_speech(speech):
    wanted = transform(speech[0], 640, 160).abs()

    def miss(iterations: int) -> float:
        unit = phases(wanted, 640, 160, iterations=iterations)
        assert unit.abs().max() < 1 + 1e-5
        assert (unit.abs() > 1 - 1e-5).float().mean() > 0.8
        found = transform(synthesize(wanted * unit, 640, 160), 640, 160).abs()
        return float((found - wanted).norm() / wanted.norm())

    misses = [miss(iterations) for iterations in (0, 4, 16, 32)]
    assert misses == sorted(misses, reverse=True)
    assert misses[0] > 0.4
    assert misses[-1] < 0.1


def test_pieces_give_the_samples_of_the_whole():
    torch.manual_seed(0)
    head = GriffinLimHead(5, fft=40, hop=10, iterations=4).requires_grad_(False)
    frames = torch.randn(2, 90, 5)
    whole = head(frames, Whole())
    assert whole.shape == (2, 900, 1)
    assert head.reach == 15
    for size in (1, 7, 40):
        flow, found = Pieces(last=False), []
        for start in range(0, 90, size):
            flow.last = start + size >= 90
            found.append(head(frames[:, start : start + size], flow))
        torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=0)


def test_gradients_pass_through_the_magnitudes():
    head = GriffinLimHead(5, fft=40, hop=10, iterations=2)
    frames = torch.randn(1, 8, 5, requires_grad=True)
    head(frames, Whole()).square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.abs().min() > 0


def test_a_stray_frame_is_cut_off_and_leaves_finite_gradients():
    head = GriffinLimHead(1, fft=40, hop=10, iterations=2)
    with torch.no_grad():
        head.out.weight.fill_(1)
    level = torch.tensor(1000.0).log()
    loud, louder = (head(torch.full((1, 8, 1), value), Whole()) for value in (level, 1e4))
    torch.testing.assert_close(loud, louder, rtol=1e-5, atol=0)
    frames = torch.tensor([1.0, 1e4, 1.0]).view(1, 3, 1).requires_grad_()
    head(frames, Whole()).square().sum().backward()
    assert frames.grad.isfinite().all()
    assert head.out.weight.grad.isfinite().all()


@pytest.mark.parametrize(("fft", "hop"), [(41, 10), (40, 9), (40, 42), (40, 0)])
def test_windows_that_leave_gaps_are_refused(fft, hop):
    with pytest.raises(InputError, match="both must be even"):
        GriffinLimHead(5, fft=fft, hop=hop)
