"""The discriminators of one training: which kinds, and how wide, as plain numbers."""

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import InputError
from .discriminators import PERIODS, Discriminators, Judgement
from .stft_discriminator import BAND_EDGES, WINDOWS, StftDiscriminator

_PEAK = 0.8
_QUIETEST = 1e-3  # rows that peak below it are not raised all the way: neither is their noise, nor its gradient


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators judge a codec. The defaults are DAC's (arXiv 2306.06546); EnCodec's (arXiv 2210.13438) are
    `periods=(), windows=(2048, 1024, 512, 256, 128), edges=(0, 1), dilations=(1, 2, 4), level=False`.

    Attributes:
        periods: of the multi-period ones, in samples; none for ().
        scales: number of multi-scale ones, 0 to 8.
        shrink: what the published widths of both are divided by, 1 to 128.
        windows: of the STFT ones, in samples; none for ().
        channels: of each convolution of those.
        edges: of their bands, from 0 to 1, as shares of half the sample rate.
        dilations: of their convolutions, in frames.
        level: whether rows are judged at one level, each without its mean and scaled to a peak of 0.8, so that what a
            discriminator has learned of loud audio holds for quiet audio.

    Raises:
        InputError: no discriminator at all, or a value that none of them takes.

    Example:
        >>> light = DiscriminatorConfig(periods=(2, 5), shrink=16, windows=(1024, 256), channels=16)
        >>> sum(value.numel() for value in CodecDiscriminators(light).parameters())
        306180
    """

    periods: tuple[int, ...] = PERIODS
    scales: int = 0
    shrink: int = 1
    windows: tuple[int, ...] = WINDOWS
    channels: int = 32
    edges: tuple[float, ...] = BAND_EDGES
    dilations: tuple[int, ...] = (1, 1, 1)
    level: bool = True

    def __post_init__(self) -> None:
        for name in ("periods", "windows", "edges", "dilations"):
            value = getattr(self, name)  # JSON and YAML have lists only
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else (value,))
        for name in ("scales", "shrink", "channels", "periods", "windows", "dilations"):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int):
                    raise InputError(f"{name} takes whole numbers, not {number!r}")
        if not (self.periods or self.scales or self.windows):
            raise InputError("at least one of periods, scales and windows must ask for a discriminator")
        if not 0 <= self.scales <= 8 or any(period < 1 for period in self.periods):
            raise InputError(f"scales must lie in 0..8 and periods be at least 1, not {self.scales} and {self.periods}")


class CodecDiscriminators(nn.Module):
    """All discriminators of a configuration, as one module: the multi-period ones, the multi-scale ones, then the STFT
    ones. A row of a batch is judged by itself.

    Args:
        config: which, and how wide.

    Raises:
        InputError: a value that a discriminator does not take.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.of_samples = Discriminators(config.periods, scales=config.scales, shrink=config.shrink)
        self.of_spectra = nn.ModuleList(
            StftDiscriminator(window, channels=config.channels, edges=config.edges, dilations=config.dilations)
            for window in config.windows
        )

    def forward(self, wav: Tensor) -> list[Judgement]:
        """One judgement for each discriminator, of wav [B, 1, T]; the gradient in wav includes the levelling."""
        if self.config.level:
            wav = levelled(wav)
        return [*self.of_samples(wav), *(one(wav) for one in self.of_spectra)]


def levelled(wav: Tensor) -> Tensor:
    """Rows of wav [B, 1, T] without their mean, at a peak of 0.8; rows that peak below 0.001 are raised 800 times."""
    wav = wav - wav.mean(dim=2, keepdim=True)
    return wav * (_PEAK / wav.abs().amax(dim=2, keepdim=True).clamp(min=_QUIETEST))
