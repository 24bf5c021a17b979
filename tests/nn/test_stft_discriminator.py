"""The STFT discriminators see what they should, row by row, and a configuration chooses among all kinds."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.codec_discriminators import CodecDiscriminators, DiscriminatorConfig, levelled
from audiotok.nn.stft_discriminator import StftDiscriminator

LIGHT = DiscriminatorConfig(periods=(2, 5), scales=2, shrink=64, windows=(256, 64), channels=4)


def test_the_spectrum_is_the_complex_stft_of_the_reflected_signal():
    wav = torch.randn(2, 1, 1000, generator=torch.Generator().manual_seed(0))
    found = StftDiscriminator(64, channels=2).spectrum(wav)
    padded = np.pad(wav[:, 0].double().numpy(), ((0, 0), (32, 32)), mode="reflect")
    hann = np.hanning(65)[:64]
    frames = np.stack([padded[:, start : start + 64] for start in range(0, 1001, 16)], axis=1)
    expected = np.fft.rfft(frames * hann / np.linalg.norm(hann))  # [B, frames, bins]
    assert found.shape == (2, 2, 63, 33)
    np.testing.assert_allclose(found[:, 0], expected.real, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected.imag, atol=1e-5)


@pytest.mark.parametrize("window", [64, 512])
def test_white_noise_has_its_own_power_in_every_bin_whatever_the_window(window):
    noise = 0.1 * torch.randn(1, 1, 64000, generator=torch.Generator().manual_seed(1))
    power = StftDiscriminator(window, channels=2).spectrum(noise).square().sum(1)[..., 1:-1].mean()
    assert float(power) == pytest.approx(0.01, rel=0.02)


def test_the_published_sizes_have_the_published_numbers_of_weights():
    """DAC: five bands of convolutions of 32 channels; EnCodec: one, and no others."""

    def count(model):
        return sum(value.numel() for name, value in model.named_parameters() if not name.endswith("original0"))

    def stack(dilated):
        return (2 * 27 + 1) * 32 + dilated * (32 * 27 + 1) * 32 + (32 * 9 + 1) * 32

    last = 32 * 9 + 1
    dac = StftDiscriminator(2048)
    assert count(dac) == 5 * stack(3) + last
    assert dac.bands == [(0, 102), (102, 256), (256, 512), (512, 768), (768, 1025)]
    encodec = StftDiscriminator(512, edges=(0, 1), dilations=(1, 2, 4))
    assert count(encodec) == stack(3) + last
    assert [conv.dilation for conv in encodec.stacks[0]] == [(1, 1), (1, 1), (2, 1), (4, 1), (1, 1)]


def test_maps_keep_the_frames_and_halve_the_bins():
    scores, maps = StftDiscriminator(256, channels=3, edges=(0, 0.5, 1)).eval()(torch.randn(2, 1, 2000))
    shapes = [tuple(one.shape[1:3]) for one in maps]
    frames = 1 + 2000 // 64
    low = [(frames, bins) for bins in (64, 32, 16, 8, 8)]
    high = [(frames, bins) for bins in (65, 33, 17, 9, 9)]
    assert shapes == [*low, *high, (frames, 17)]
    assert scores.shape == (2, frames * 17)
    assert torch.equal(maps[-1].flatten(1), scores)


def test_a_band_sees_its_own_frequencies_alone():
    torch.manual_seed(0)
    judge = StftDiscriminator(256, channels=4, edges=(0, 0.25, 0.5, 1)).eval()
    # Bins 90 and around (of 129): in the highest band; Hann windows leak into the nearest bins only.
    tone = torch.cos(2 * torch.pi * 90 / 256 * torch.arange(4096.0).double()).float().expand(1, 1, -1)
    silent, heard = (judge(wav)[1] for wav in (torch.zeros(1, 1, 4096), tone))
    inner = slice(4, -6)  # frames that the ends do not reach
    changes = [(a - b).abs()[:, inner].amax().item() for a, b in zip(heard, silent, strict=True)]
    assert max(changes[:10]) < 1e-4 < 1e-3 < min(changes[10:15])


@pytest.mark.parametrize("level", [True, False])
def test_every_row_is_judged_alone(level):
    torch.manual_seed(0)
    config = DiscriminatorConfig(**{**asdict(LIGHT), "level": level})
    model = CodecDiscriminators(config).eval()
    wav = torch.randn(3, 1, 2003) * torch.tensor([1.0, 0.01, 0.3])[:, None, None]
    together = model(wav)
    assert len(together) == 2 + 2 + 2
    for row in range(3):
        for (score, maps), (alone, own_maps) in zip(together, model(wav[row : row + 1]), strict=True):
            torch.testing.assert_close(score[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            for one, other in zip(maps, own_maps, strict=True):
                torch.testing.assert_close(one[row : row + 1], other, rtol=1e-4, atol=1e-5)


def test_level_makes_loud_and_quiet_alike_but_leaves_silence_quiet():
    wav = torch.randn(1, 1, 2000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(levelled(0.01 * wav + 0.1), levelled(wav), rtol=0, atol=1e-4)
    assert levelled(wav).abs().max().item() == pytest.approx(0.8)
    assert levelled(wav).mean().item() == pytest.approx(0, abs=1e-6)
    whisper = wav / wav.abs().max() * 1e-5
    assert levelled(whisper).abs().max().item() == pytest.approx(800 * 1e-5, rel=0.05)
    assert torch.equal(levelled(torch.zeros(1, 1, 100)), torch.zeros(1, 1, 100))


def test_autocast_keeps_the_spectrum_and_nearly_the_scores():
    torch.manual_seed(0)
    judge = StftDiscriminator(128, channels=16).eval()
    wav = torch.randn(2, 1, 2000)
    exact, spectrum = judge(wav)[0], judge.spectrum(wav)
    with torch.autocast("cpu", torch.bfloat16):
        near, again = judge(wav)[0], judge.spectrum(wav)
    assert torch.equal(spectrum, again)
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).norm() < 0.05 * exact.norm()


def test_pictures_maps_and_their_gradients_lie_channels_last_in_memory():
    judge = StftDiscriminator(128, channels=16)
    picture = judge.spectrum(torch.randn(2, 1, 2000)).permute(0, 2, 3, 1)
    maps = judge(torch.randn(2, 1, 2000))[1]
    gradients = torch.autograd.grad(sum(one.abs().mean() for one in maps), maps)
    assert maps[0].shape[3] == 16
    for tensor in (picture, *maps, *gradients):
        assert tensor.is_contiguous()


def test_they_learn_to_tell_a_tone_from_noise():
    """With the hinge loss, which is about 2 where a discriminator knows nothing."""
    torch.manual_seed(0)
    judge = StftDiscriminator(128, channels=8, edges=(0, 0.5, 1))
    optimizer = torch.optim.AdamW(judge.parameters(), 3e-3)
    tone = torch.sin(0.3 * torch.arange(800)).expand(4, 1, -1)
    for _ in range(30):
        scores = judge(torch.cat([tone, torch.randn(4, 1, 800)]))[0]
        loss = torch.relu(1 - scores[:4]).mean() + torch.relu(1 + scores[4:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_a_configuration_goes_through_json():
    assert DiscriminatorConfig(**json.loads(json.dumps(asdict(LIGHT)))) == LIGHT
    assert DiscriminatorConfig(windows=256).windows == (256,)
    encodec = DiscriminatorConfig(periods=(), windows=(256, 128), edges=(0, 1), dilations=(1, 2, 4), channels=4)
    assert [len(maps) for _, maps in CodecDiscriminators(encodec)(torch.randn(1, 1, 400))] == [6, 6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StftDiscriminator(30), "window must be a multiple of 4 samples, not 30"),
        (lambda: StftDiscriminator(64, channels=0), "channels and dilations must be at least 1"),
        (lambda: StftDiscriminator(64, edges=(0, 0.5)), r"edges must ascend from 0 to 1, not \[0, 0.5\]"),
        (lambda: StftDiscriminator(64, edges=(0, 0.5, 0.5, 1)), "edges must ascend"),
        (lambda: StftDiscriminator(8), "a window of 8 has 5 bins: too few for bands"),
        (
            lambda: StftDiscriminator(64)(torch.zeros(1, 1, 32)),
            "a window of 64 wants more than 32 samples, not 32",
        ),
        (lambda: DiscriminatorConfig(periods=(), windows=()), "at least one of periods, scales and windows"),
        (lambda: DiscriminatorConfig(scales=9), r"scales must lie in 0..8 and periods be at least 1, not 9"),
        (lambda: DiscriminatorConfig(windows="a"), "windows takes whole numbers, not 'a'"),
        (lambda: DiscriminatorConfig(scales=None), "scales takes whole numbers, not None"),
        (lambda: CodecDiscriminators(DiscriminatorConfig(shrink=0)), "shrink must lie in 1..128, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
