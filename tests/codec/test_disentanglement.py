"""Heads read a label from codebooks, or keep it out of them; the pitch that one of them wants is right."""

import math

import pytest
import torch
from torch import nn

from audiotok.codec.disentanglement import ClassHook, Hook, PitchHook, reverse_gradient
from audiotok.codec.pitch import pitch
from audiotok.errors import InputError


def test_the_gradient_is_reversed_exactly():
    x = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(3, 4)
    same = reverse_gradient(x, 0.25)
    assert torch.equal(same, x)
    (same * weights).sum().backward()
    assert torch.equal(x.grad, -0.25 * weights)


@pytest.mark.parametrize("make", [ClassHook, PitchHook])
def test_a_reversed_head_learns_alike_but_sends_back_the_opposite(make):
    arguments = (6, 3) if make is ClassHook else (6,)
    plain, keep_out = make(*arguments), make(*arguments, reverse=0.5)
    keep_out.load_state_dict(plain.state_dict())
    target = torch.tensor([2, 0]) if make is ClassHook else 100.0 + 50 * torch.rand(2, 9)
    gradients = []
    for hook in (plain, keep_out):
        vectors = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
        hook(vectors, target).backward()
        gradients.append(vectors.grad)
    torch.testing.assert_close(gradients[1], -0.5 * gradients[0])
    for one, other in zip(plain.parameters(), keep_out.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_head_that_knows_nothing_has_the_loss_of_a_guess():
    hook = ClassHook(4, 5)
    nn.init.zeros_(hook.classify.weight)
    nn.init.zeros_(hook.classify.bias)
    vectors = torch.randn(3, 4, 10)
    assert hook(vectors, torch.tensor([1, -1, 3])).item() == pytest.approx(math.log(5))
    assert hook(vectors, torch.tensor([-1, -1, -1])).item() == 0
    tracker = PitchHook(4)
    nn.init.zeros_(tracker.read.weight)
    nn.init.zeros_(tracker.read.bias)
    # Voicing of even chances, and pitches an octave around their mean (the geometric one), guessed to lie on it.
    hertz = torch.tensor([[100.0, 400.0, 0.0, 0.0, 100.0, 400.0]])
    assert tracker(torch.randn(1, 4, 6), hertz).item() == pytest.approx(math.log(2) + 1.0)
    assert tracker(torch.randn(1, 4, 6), 0 * hertz).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("hook", [ClassHook(4, 3), PitchHook(4)])
def test_frames_beyond_the_mask_count_for_nothing(hook):
    vectors = torch.randn(2, 4, 12)
    target = torch.tensor([0, 2]) if isinstance(hook, ClassHook) else 100 + 100 * torch.rand(2, 12)
    mask = (torch.arange(12) < 8).expand(2, -1)
    short = hook(vectors[:, :, :8], target if target.dim() == 1 else target[:, :8])
    vectors[:, :, 8:] = 1e4
    torch.testing.assert_close(hook(vectors, target, mask), short)


@pytest.mark.parametrize("reverse", [0.0, 1.0])
def test_supervision_brings_a_label_in_and_reversal_takes_it_out(reverse):
    """A codec that can keep one direction of two: the one that says who speaks, or the one that does not."""
    torch.manual_seed(0)
    hook, angle = ClassHook(1, 2, reverse=reverse, hidden=16), nn.Parameter(torch.tensor(math.pi / 4))
    head = torch.optim.Adam(hook.parameters(), 0.02, betas=(0.5, 0.9))
    codec = torch.optim.SGD([angle], 0.02)  # slower than the head, or the two chase each other
    for _ in range(150):
        speaker = torch.randint(0, 2, (32,))
        who, what = torch.randn(32, 1, 12) + (2 * speaker - 1)[:, None, None], torch.randn(32, 1, 12)
        loss = hook(angle.cos() * who + angle.sin() * what, speaker)
        head.zero_grad()
        codec.zero_grad()
        loss.backward()
        head.step()
        codec.step()
    if reverse:
        assert abs(angle.cos().item()) < 0.1
        assert loss.item() == pytest.approx(math.log(2), abs=0.1)  # a guess
    else:
        assert angle.cos().item() > 0.8
        assert loss.item() < 0.05


def test_a_pitch_head_reads_intonation():
    torch.manual_seed(0)
    hook = PitchHook(3, hidden=16)
    optimizer = torch.optim.Adam(hook.parameters(), 0.01)
    for _ in range(150):
        octaves = torch.randn(16, 20) * 0.5
        voiced = torch.rand(16, 20) > 0.3
        height = 1 + torch.rand(16, 1)  # of a voice; intonation is what is left without it
        hertz = torch.where(voiced, 100 * 2 ** (octaves - (octaves * voiced).sum(1, True) / voiced.sum(1, True)), 0.0)
        vectors = torch.stack([octaves * voiced, voiced.float(), torch.randn(16, 20)], 1)
        loss = hook(vectors, hertz * height)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.25  # 0.69 + 0.4 for guesses


def test_a_new_head_writes_its_loss_alone():
    class Loudness(Hook):
        def loss(self, vectors, target, mask):
            return (vectors.norm(dim=1) - target).abs().mean()

    hook = Loudness("loudness", codebooks=(2, 4), reverse=1.0)
    assert (hook.label, hook.codebooks) == ("loudness", (2, 4))
    assert hook(torch.full((1, 4, 3), 0.5), torch.zeros(1, 3)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("hertz", [70.0, 131.3, 220.0, 440.0])
def test_pitch_of_a_voice_like_tone_is_its_fundamental(hertz):
    time = torch.arange(16000) / 16000
    harmonics = sum(torch.sin(2 * torch.pi * hertz * k * time + k) / (1 + abs(k - 4)) for k in range(1, 9))
    wav = torch.stack([harmonics, 0.01 * harmonics])
    found = pitch(wav, 16000, frame_rate=40, frames=40)
    assert found.shape == (2, 40)
    assert (found[:, 2:-2] / hertz).log2().abs().max().item() < 0.01


def test_silence_noise_and_what_lies_beyond_the_audio_have_no_pitch():
    torch.manual_seed(0)
    noise = 0.1 * torch.randn(1, 16000)
    assert (pitch(noise, 16000, frame_rate=50, frames=50) > 0).float().mean().item() < 0.05
    assert pitch(torch.zeros(1, 16000), 16000, frame_rate=50, frames=50).sum().item() == 0
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)[None]
    found = pitch(tone, 16000, frame_rate=50, frames=30)
    assert (found[:, 1:23] > 0).all()
    assert found[:, 27:].sum().item() == 0


def test_real_speech_is_voiced_about_half_the_time(speech):
    for row in speech:
        frames = row.shape[1] // 320
        found = pitch(row, 16000, frame_rate=50, frames=frames)
        voiced = found[found > 0]
        assert 0.2 < len(voiced) / frames < 0.9
        assert 80 < voiced.median().item() < 300
        jumps = (found[:, 1:] / found[:, :-1]).log2().abs()
        assert jumps[jumps.isfinite()].median().item() < 0.05  # it moves slowly


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassHook(4, 1), "num_classes must be at least 2, not 1"),
        (lambda: PitchHook(4, codebooks=(2, 2)), r"codebooks must be a range from 0 on, not \(2, 2\)"),
        (lambda: PitchHook(4, reverse=-1.0), "reverse must not be negative"),
        (
            lambda: pitch(torch.zeros(1, 100), 16000, frame_rate=50, frames=1, lowest=300, highest=200),
            "pitch must be looked for within 0..4000.0 Hz, not 300..200",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
