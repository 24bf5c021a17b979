"""The network of a codec as it is trained: encoder, quantizer, decoder."""

from dataclasses import dataclass

from torch import Tensor, nn

from ..nn.flow import Whole
from ..nn.seanet import SeanetConfig, seanet_decoder, seanet_encoder
from ..quantize import Quantized, Quantizer
from .config import CodecConfig, SpectralConfig
from .quantizers import make_quantizer
from .spectral import spectral_decoder, spectral_encoder


@dataclass(frozen=True)
class CodecOutput:
    """What a codec made of a batch.

    wav: [B, 1, T], as long as the input.
    latents: [B, D, F], before quantization.
    quantized: what became of them, with the quantizer's loss.
    """

    wav: Tensor
    latents: Tensor
    quantized: Quantized


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
            made = {"hop_length": config.hop_length, "latent": config.latent, "causal": config.causal}
            self.encoder = spectral_encoder(sizes, **made)  # type: ignore[arg-type]
            self.decoder = spectral_decoder(sizes, **made)  # type: ignore[arg-type]
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
        frame = self.config.hop_length * self.config.quantizer.stride
        padded = nn.functional.pad(wav, (0, -wav.shape[2] % frame))
        latents: Tensor = self.encoder(padded.transpose(1, 2), Whole())
        return latents.transpose(1, 2)

    def decode(self, quantized: Tensor) -> Tensor:
        """wav [B, 1, F · hop] of quantized latents [B, D, F]."""
        wav: Tensor = self.decoder(quantized.transpose(1, 2), Whole())
        return wav.transpose(1, 2)

    def forward(self, wav: Tensor) -> CodecOutput:
        """Of wav [B, 1, T], all rows T long."""
        latents = self.encode(wav).float()
        quantized = self.quantizer(latents)
        return CodecOutput(self.decode(quantized.quantized)[:, :, : wav.shape[2]].float(), latents, quantized)
