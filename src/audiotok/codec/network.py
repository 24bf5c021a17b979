"""The network of a codec as it is trained: encoder, quantizer, decoder."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.conv import Chain, Conv, ConvTranspose
from ..nn.flow import Whole
from ..nn.griffin_lim import GriffinLimHead
from ..nn.seanet import SeanetConfig, seanet_decoder, seanet_encoder
from ..quantize import Quantized, Quantizer
from .config import CodecConfig, SpectralConfig
from .quantizers import make_quantizer
from .spectral import StftFeatures, spectral_decoder, spectral_encoder


@dataclass(frozen=True)
class CodecOutput:
    """What a codec made of a batch.

    latents: [B, D, F], before quantization.
    quantized: what became of them, with the quantizer's loss.
    wav: [B, 1, T], as long as the input; None if it was not asked for.
    magnitudes: of a network that gives no phases, natural logarithms [B, F', bins] of the magnitudes of its spectrum,
        to be compared with those of `CodecNetwork.magnitudes` of the input; otherwise None.
    """

    latents: Tensor
    quantized: Quantized
    wav: Tensor | None
    magnitudes: Tensor | None


class CodecNetwork(nn.Module):
    """Encoder, quantizer and decoder, to be trained; `Codec` makes a tokenizer of them.

    Args:
        config: their sizes.
        frozen: for use: the quantizer holds codebooks and maps alone, not the state of a training.
        seed: of the codebooks' first entries; the other weights are drawn from torch's generator.

    Example:
        >>> network = CodecNetwork(CodecConfig.from_dict({"preset": "small"}))
        >>> network(torch.zeros(1, 1, 3200)).quantized.tokens.shape
        torch.Size([1, 8, 10])
    """

    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module

    def __init__(self, config: CodecConfig, *, frozen: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        sizes = config.network
        if isinstance(sizes, SpectralConfig):
            shape = (config.hop_length, config.latent, config.causal)
            self.encoder, self.decoder = spectral_encoder(sizes, *shape), spectral_decoder(sizes, *shape)
        else:
            seanet = SeanetConfig(
                dimension=config.latent,
                filters=sizes.filters,
                ratios=sizes.ratios,
                residual_layers=sizes.residual_layers,
                dilation_base=sizes.dilation_base,
                lstm_layers=sizes.lstm_layers,
                snake=sizes.snake,
                causal=config.causal,
                pad_mode="zeros",
            )
            self.encoder, self.decoder = seanet_encoder(seanet), seanet_decoder(seanet)
        self.quantizer = make_quantizer(config.quantizer, config.latent, frozen=frozen, seed=seed)

    def encode(self, wav: Tensor) -> Tensor:
        """Latents [B, D, F] of wav [B, 1, T], padded with zeros to whole frames of tokens."""
        latents: Tensor = self.encoder(self._padded(wav).transpose(1, 2), Whole())
        return latents.transpose(1, 2)

    def decode(self, quantized: Tensor) -> Tensor:
        """wav [B, 1, F · hop] of quantized latents [B, D, F]."""
        wav: Tensor = self.decoder(quantized.transpose(1, 2), Whole())
        return wav.transpose(1, 2)

    @property
    def gives_magnitudes(self) -> bool:
        """Whether the network gives magnitudes, for which phases are found afterwards."""
        return isinstance(self.config.network, SpectralConfig) and self.config.network.phase == "griffin-lim"

    @torch.no_grad()
    def magnitudes(self, wav: Tensor) -> Tensor:
        """[B, F', bins] of wav [B, 1, T], of a network that gives such."""
        features = cast(StftFeatures, cast(Chain, self.encoder)[0])
        return features.magnitudes(self._padded(wav).transpose(1, 2))

    def forward(self, wav: Tensor, *, synthesize: bool = True) -> CodecOutput:
        """Of wav [B, 1, T], all rows T long. Without `synthesize`, a network that gives magnitudes makes no wave of
        them, which costs more than all the rest."""
        latents = self.encode(wav).float()
        quantized = self.quantizer(latents)
        if not self.gives_magnitudes:
            made = self.decode(quantized.quantized)
            return CodecOutput(latents, quantized, made[:, :, : wav.shape[2]].float(), None)
        body, head = cast(Chain, self.decoder)[0], cast(GriffinLimHead, cast(Chain, self.decoder)[1])
        magnitudes = head.magnitudes(body(quantized.quantized.transpose(1, 2), Whole()), Whole())
        wave = head.wave(magnitudes, Whole()).transpose(1, 2)[:, :, : wav.shape[2]] if synthesize else None
        return CodecOutput(latents, quantized, wave, magnitudes)

    def inner_weights(self) -> list[nn.Parameter]:
        """Weights of the convolutions between the first and the last layers of encoder and decoder, those of single
        channels aside."""
        found = []
        for part in (self.encoder, self.decoder):
            layers = [layer for layer in part.modules() if isinstance(layer, Conv | ConvTranspose)]
            found += [layer.weight for layer in layers[1:-1] if layer.groups == 1]
        return found

    def _padded(self, wav: Tensor) -> Tensor:
        return nn.functional.pad(wav, (0, -wav.shape[2] % (self.config.hop_length * self.config.quantizer.stride)))
