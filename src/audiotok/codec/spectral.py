"""The light architecture: ConvNeXt blocks on the frames of a short-time Fourier transform, and an inverse transform.

Everything runs at the rate of frames, some hundred a second, and not of samples: some hundredth of what a convolutional
codec costs. After Vocos (Siuzdak 2023, arXiv 2306.00814) and its use as the decoder of a codec (WavTokenizer, arXiv
2408.16532); the encoder is its mirror image.
"""

import torch
from torch import Tensor

from ..nn.conv import Chain, Conv, ConvTranspose, Layer, Stages
from ..nn.flow import Flow, Whole, Window
from ..nn.griffin_lim import GriffinLimHead, transform
from ..nn.vocos import IstftHead, LayerNorm, convnext_block
from .config import SpectralConfig

_FLOOR = 1e-5  # of magnitudes; some 100 dB below a full-scale tone
_LOG_GAIN, _LOG_SHIFT = 0.3, 0.5  # bring log-magnitudes near unit variance
_COMPRESSED = 0.3  # exponent of magnitudes beside their phases


class StftFeatures(Layer):
    """wav [B, T, 1] to frames [B, T / hop, channels]: of every bin the logarithm of its magnitude and, with phases, its
    real and imaginary parts, the magnitude compressed to the power 0.3.

    Args:
        fft: samples of a Hann window.
        hop: samples from one window to the next.
        causal: windows end with their hop; otherwise their middles coincide.
        phases: whether they are there.
    """

    def __init__(self, fft: int, hop: int, *, causal: bool = False, phases: bool = True) -> None:
        super().__init__()
        right = 0 if causal else (fft - hop) // 2
        self.fft, self.hop, self.phases = fft, hop, phases
        self.window = Window(fft, hop, left=fft - hop - right, right=right)

    @property
    def channels(self) -> int:
        """Features of a frame."""
        return (3 if self.phases else 1) * (self.fft // 2 + 1)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        seen = flow.window(self, self.window, x)[..., 0].float()
        if seen.shape[1] < self.fft:
            return x.new_empty(len(x), 0, self.channels)
        found = transform(seen, self.fft, self.hop)
        magnitude = found.abs().clamp(min=_FLOOR)
        logs = magnitude.log().mul(_LOG_GAIN).add(_LOG_SHIFT)
        if not self.phases:
            return logs.to(x.dtype)
        rotations = torch.view_as_real(found * magnitude.pow(_COMPRESSED - 1)).flatten(2)
        return torch.cat([logs, rotations], 2).to(x.dtype)

    def magnitudes(self, x: Tensor) -> Tensor:
        """[B, T / hop, fft / 2 + 1] of whole waves [B, T, 1]: what a head without phases is to give."""
        return transform(Whole().window(self, self.window, x)[..., 0].float(), self.fft, self.hop).abs()


def spectral_encoder(config: SpectralConfig, hop_length: int, latent: int, causal: bool) -> Chain:
    """wav [B, T, 1] to latents [B, T / hop_length, latent]; T is a multiple of hop_length."""
    first, second = config.encoder_blocks
    phases = config.phase == "predicted"
    features = StftFeatures(config.fft, hop_length // config.stride, causal=causal, phases=phases)
    return Stages(
        [
            features,
            Chain(
                [
                    Conv(features.channels, config.width, 1),
                    LayerNorm(config.width),
                    *_blocks(config, first, first + second, causal),
                    Conv(config.width, config.width, config.stride, stride=config.stride),
                    *_blocks(config, second, first + second, causal),
                    LayerNorm(config.width),
                    Conv(config.width, latent, 1),
                ]
            ),
        ]
    )


def spectral_decoder(config: SpectralConfig, hop_length: int, latent: int, causal: bool) -> Chain:
    """Latents [B, F, latent] to wav [B, F · hop_length, 1]."""
    first, second = config.decoder_blocks
    hop = hop_length // config.stride
    head: Layer
    if config.phase == "predicted":
        head = IstftHead(config.width, fft=config.fft, hop=hop, causal=causal)
    else:
        head = GriffinLimHead(config.width, fft=config.fft, hop=hop, iterations=config.iterations)
    return Stages(
        [
            Chain(
                [
                    Conv(latent, config.width, 1),
                    LayerNorm(config.width),
                    *_blocks(config, first, first + second, causal),
                    ConvTranspose(config.width, config.width, config.stride, stride=config.stride),
                    *_blocks(config, second, first + second, causal),
                    LayerNorm(config.width),
                ]
            ),
            head,
        ]
    )


def _blocks(config: SpectralConfig, count: int, depth: int, causal: bool) -> list[Layer]:
    return [convnext_block(config.width, config.hidden, scale=1 / depth, causal=causal) for _ in range(count)]
