"""The discriminators of HiFi-GAN (Kong, Kim and Bae 2020, arXiv 2010.05646): multi-period and multi-scale."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from ..errors import InputError

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
SCALES = 3
_PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
#: channels, kernel, stride, groups of each convolution.
_SCALE_LAYERS = (
    (128, 15, 1, 1),
    (128, 41, 2, 4),
    (256, 41, 2, 16),
    (512, 41, 4, 16),
    (1024, 41, 4, 16),
    (1024, 41, 1, 16),
    (1024, 5, 1, 1),
)

Judgement = tuple[Tensor, list[Tensor]]  # scores [B, ...], and the feature maps of every layer


class PeriodDiscriminator(nn.Module):
    """Looks at samples that are `period` apart, as columns of a picture.

    Args:
        period: in samples.
        shrink: what the paper's channels are divided by.
    """

    def __init__(self, period: int, *, shrink: int = 1) -> None:
        super().__init__()
        self.period = period
        channels = [1, *(max(1, count // shrink) for count in _PERIOD_CHANNELS)]
        self.convs = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv2d(one, other, (5, 1), stride=(3 if i < 4 else 1, 1), padding=(2, 0)))
            for i, (one, other) in enumerate(pairwise(channels))
        )
        self.last = parametrizations.weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> Judgement:
        """Of wav [B, 1, T]."""
        missing = -wav.shape[2] % self.period
        if missing:
            wav = functional.pad(wav, (0, missing), mode="reflect")
        x = wav.reshape(len(wav), 1, -1, self.period)  # [B, 1, T / period, period]
        return _judge(x, self.convs, self.last)


class ScaleDiscriminator(nn.Module):
    """Looks at the waveform itself through long, grouped convolutions.

    Args:
        shrink: what the paper's channels are divided by.
        spectral: spectral norm, as the paper has it at full rate, instead of weight norm.
    """

    def __init__(self, *, shrink: int = 1, spectral: bool = False) -> None:
        super().__init__()
        norm = parametrizations.spectral_norm if spectral else parametrizations.weight_norm
        self.convs = nn.ModuleList()
        previous = 1
        for full, kernel, stride, groups in _SCALE_LAYERS:
            count = max(1, full // shrink)
            shared = math.gcd(groups, previous, count)
            conv = nn.Conv1d(previous, count, kernel, stride=stride, padding=kernel // 2, groups=shared)
            self.convs.append(norm(conv))
            previous = count
        self.last = norm(nn.Conv1d(previous, 1, 3, padding=1))

    def forward(self, wav: Tensor) -> Judgement:
        """Of wav [B, 1, T]."""
        return _judge(wav, self.convs, self.last)


class Discriminators(nn.Module):
    """One discriminator for each period, and one for each scale: the waveform, and its half and quarter rates by
    average pooling.

    Args:
        periods: in samples.
        scales: how many, each of half the rate of the one before.
        shrink: what the paper's channels are divided by, 1 to 128.

    Example:
        >>> import torch
        >>> judgements = Discriminators(shrink=64)(torch.zeros(2, 1, 800))
        >>> len(judgements), judgements[0][0].shape[0]
        (8, 2)
    """

    def __init__(self, periods: Sequence[int] = PERIODS, *, scales: int = SCALES, shrink: int = 1) -> None:
        super().__init__()
        if not 1 <= shrink <= 128:
            raise InputError(f"shrink must lie in 1..128, not {shrink}")
        self.by_period = nn.ModuleList(PeriodDiscriminator(period, shrink=shrink) for period in periods)
        self.by_scale = nn.ModuleList(ScaleDiscriminator(shrink=shrink, spectral=i == 0) for i in range(scales))

    def forward(self, wav: Tensor) -> list[Judgement]:
        """Of wav [B, 1, T]."""
        judged: list[Judgement] = [one(wav) for one in self.by_period]
        for i, one in enumerate(self.by_scale):
            if i:
                wav = functional.avg_pool1d(wav, 4, stride=2, padding=2)
            judged.append(one(wav))
        return judged


def _judge(x: Tensor, convs: nn.ModuleList, last: nn.Module) -> Judgement:
    features = []
    for conv in convs:
        x = functional.leaky_relu(conv(x), SLOPE)
        features.append(x)
    x = last(x)
    return x.flatten(1), [*features, x]
