"""Losses of adversarial training of a waveform (HiFi-GAN, arXiv 2010.05646, section 2.3; EnCodec, arXiv 2210.13438,
section 3.4)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..nn.discriminators import Judgement
from ..ssl.logmel import LogMel

Adversarial = Literal["lsgan", "hinge"]
_SMALLEST_MAP = 1e-6


def discriminator_loss(real: list[Judgement], fake: list[Judgement], kind: Adversarial) -> Tensor:
    """Real scores towards 1, fake ones towards 0 (least squares) or -1 (hinge), summed over discriminators."""
    losses = []
    for (right, _), (wrong, _) in zip(real, fake, strict=True):
        if kind == "hinge":
            losses.append(functional.relu(1 - right).mean() + functional.relu(1 + wrong).mean())
        else:
            losses.append((right - 1).square().mean() + wrong.square().mean())
    return torch.stack(losses).sum()


def generator_loss(fake: list[Judgement], kind: Adversarial) -> Tensor:
    """Fake scores towards 1 (least squares) or upwards (hinge), summed over discriminators."""
    losses = [-score.mean() if kind == "hinge" else (score - 1).square().mean() for score, _ in fake]
    return torch.stack(losses).sum()


def feature_loss(real: list[Judgement], fake: list[Judgement], *, relative: bool = False) -> Tensor:
    """Mean absolute difference of every feature map, summed (the real ones are targets).

    With `relative`, each is divided by the mean absolute value of the real map and they are averaged, as in EnCodec:
    then no layer counts for more because its values are large, and the loss does not grow with the number of layers.
    """
    losses = []
    for (_, right_maps), (_, wrong_maps) in zip(real, fake, strict=True):
        for right, wrong in zip(right_maps, wrong_maps, strict=True):
            right = right.detach()
            loss = (wrong - right).abs().mean()
            losses.append(loss / right.abs().mean().clamp(min=_SMALLEST_MAP) if relative else loss)
    stacked = torch.stack(losses)
    return stacked.mean() if relative else stacked.sum()


def wav_loss(wav: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of [B, C, T] waveforms, in float32."""
    return (wav.float() - target.float()).abs().mean()


def mel_of(sample_rate: int) -> LogMel:
    """The log-mel frames that are compared: windows of about 64 ms, four to a window, 80 bands."""
    n_fft = 2 ** round(math.log2(0.064 * sample_rate))
    return LogMel(sample_rate=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=80, floor=1e-5)


def mel_loss(wav: Tensor, target: Tensor, mel: LogMel) -> Tensor:
    """Mean absolute difference of log-mel frames of [B, 1, T] waveforms."""
    return (mel(wav[:, 0].float()) - mel(target[:, 0].float())).abs().mean()
