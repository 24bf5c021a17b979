"""A trained codec as a tokenizer."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from ..nn.conv import Stack
from ..nn.flow import Flow
from ..spec import Spec
from .config import CodecConfig
from .convolutional import ConvolutionalCodec
from .network import CodecNetwork
from .quantizers import is_nested, make_quantizer, row_levels


class Codec(ConvolutionalCodec):
    """A codec that `audiotok.train.train_codec` trained.

    Where a frame of tokens stands for several latents ("msrvq"), features and embeddings [B, D, F] hold these one after
    the other: D is so many times the latent width.

    Args:
        spec: what it takes and gives, see `codec_spec`.
        config: its sizes.
    """

    family = "codec"

    def __init__(self, spec: Spec, config: CodecConfig) -> None:
        super().__init__(spec)
        wanted = codec_spec(config, spec.name)
        if spec != wanted:
            raise InputError(f"this configuration makes {wanted}, not {spec}")
        self.config = config
        network = CodecNetwork(config, frozen=True)
        self.encoder, self.quantizer, self.decoder = network.encoder, network.quantizer, network.decoder
        self.stack = Stack(config.quantizer.stride)

    @classmethod
    def of(cls, network: CodecNetwork, name: str) -> "Codec":
        """The tokenizer of a trained network; it has copies of its weights."""
        codec = cls(codec_spec(network.config, name), network.config)
        trained = network.state_dict()
        codec.load_state_dict({key: trained[key].detach().clone() for key in codec.state_dict()})
        return codec

    def _config(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "Codec":
        return cls(spec, CodecConfig.from_dict(config))

    def padded_length(self, num_samples: int) -> int:
        return self.num_frames(num_samples) * self.spec.hop_length

    def push_encoder(self, wav: Tensor, flow: Flow) -> Tensor:
        stacked: Tensor = self.stack(super().push_encoder(wav, flow), flow)
        return stacked

    def push_decoder(self, features: Tensor, flow: Flow) -> Tensor:
        return super().push_decoder(self._unstacked(features), flow)

    def _quantize(self, features: Tensor) -> Tensor:
        latents = self._unstacked(features)
        if self.full_spec.num_codebooks == self.spec.num_codebooks:
            return self.quantizer.encode(latents)
        return super()._quantize(latents)

    def _embed(self, tokens: Tensor) -> Tensor:
        return rearrange(self.quantizer.decode(tokens), "b d (f s) -> b (s d) f", s=self.stack.stride)

    def _unstacked(self, features: Tensor) -> Tensor:
        return rearrange(features, "b (s d) f -> b d (f s)", s=self.stack.stride)


def codec_spec(config: CodecConfig, name: str) -> Spec:
    """What a codec of such sizes takes and gives."""
    with torch.device("meta"):
        sizes = make_quantizer(config.quantizer, config.latent, frozen=True).codebook_sizes
    levels = row_levels(config.quantizer)
    return Spec(
        name=name,
        sample_rate=config.sample_rate,
        hop_length=config.hop_length * config.quantizer.stride,
        codebook_sizes=sizes,
        streamable=config.causal and config.quantizer.stride == 1,
        nested=is_nested(config.quantizer) or len(set(levels)) > 1,
        batching="mask",
        row_levels=levels,
    )
