"""How far what a codec made is from what it was given: the losses of reconstruction, by name."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..codec.network import CodecNetwork, CodecOutput
from ..errors import InputError
from ..nn.mel import mel_bands
from ..nn.spectra import MultiResolutionStft, MultiScaleMel
from .codec_training import LossWeights
from .losses import wav_loss

_BANDS = 80
_FLOOR = 1e-3  # of magnitudes of a window of some hundred samples, some 100 dB below a full-scale tone
_LOG_FLOOR = math.log(_FLOOR)


class WaveDistances(nn.Module):
    """Of waves: multi-scale mel, multi-resolution STFT and samples, as far as they have a weight.

    Args:
        weights: of the losses.
        sample_rate: in Hz.
    """

    def __init__(self, weights: LossWeights, sample_rate: int) -> None:
        super().__init__()
        self.weights = weights
        self.mel, self.stft = MultiScaleMel(sample_rate), MultiResolutionStft()

    @property
    def names(self) -> list[str]:
        """Of the losses that it gives."""
        return [name for name in ("mel", "stft", "time") if getattr(self.weights, name)]

    def forward(self, made: Tensor, wav: Tensor) -> dict[str, Tensor]:
        """Scalars of made and wav [B, 1, T]."""
        losses = {}
        if self.weights.mel:
            losses["mel"] = self.mel(made[:, 0], wav[:, 0])
        if self.weights.stft:
            losses["stft"] = self.stft(made[:, 0], wav[:, 0])
        if self.weights.time:
            losses["time"] = wav_loss(made, wav)
        return losses


class MagnitudeDistances(nn.Module):
    """The same of the spectra of a network that gives magnitudes, at its one resolution: mel is the mean absolute
    difference of the decimal logarithms of 80 bands; stft spectral convergence and the mean absolute difference of
    natural logarithms.

    Args:
        weights: of the losses.
        network: that gives the magnitudes.
    """

    bands: Tensor

    def __init__(self, weights: LossWeights, network: CodecNetwork) -> None:
        super().__init__()
        self.weights, self.network = weights, [network]  # in a list: it is no part of this module
        bins = network.magnitudes(torch.zeros(1, 1, 1, device=next(network.parameters()).device)).shape[2]
        bands = mel_bands(network.config.sample_rate, 2 * (bins - 1), _BANDS, scale="htk")
        self.register_buffer("bands", bands[bands.sum(1) > 0].float().T.contiguous(), persistent=False)

    @property
    def names(self) -> list[str]:
        """Of the losses that it gives."""
        return [name for name in ("mel", "stft") if getattr(self.weights, name)]

    def forward(self, logs: Tensor, wav: Tensor) -> dict[str, Tensor]:
        """Scalars of what the network gave for wav [B, 1, T], logarithms of magnitudes [B, F, bins]."""
        losses = {}
        wanted = self.network[0].magnitudes(wav).clamp(min=_FLOOR)
        given = functional.softplus(logs - _LOG_FLOOR) + _LOG_FLOOR  # a floor through which gradients pass
        magnitudes = given.exp()
        if self.weights.mel:
            losses["mel"] = functional.l1_loss((magnitudes @ self.bands).log10(), (wanted @ self.bands).log10())
        if self.weights.stft:
            convergence = torch.linalg.vector_norm(wanted - magnitudes) / torch.linalg.vector_norm(wanted)
            losses["stft"] = convergence + functional.l1_loss(given, wanted.log())
        return losses


def output_of(output: CodecOutput) -> Tensor:
    """What the losses look at: the wave [B, 1, T], or the logarithms of magnitudes [B, F, bins] where there is none."""
    if output.wav is not None:
        return output.wav
    assert output.magnitudes is not None
    return output.magnitudes


def distances_of(weights: LossWeights, network: CodecNetwork) -> WaveDistances | MagnitudeDistances:
    """The distances that suit a network.

    Raises:
        InputError: none of them has a weight.
    """
    made: WaveDistances | MagnitudeDistances
    if network.gives_magnitudes:
        made = MagnitudeDistances(weights, network)
    else:
        made = WaveDistances(weights, network.config.sample_rate)
    if not made.names:
        raise InputError("a network that gives magnitudes needs a weight of mel or stft above 0")
    return made
