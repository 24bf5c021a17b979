"""Codecs: the trainable one, and what all codecs made of convolutions share."""

from .codec import Codec, codec_spec
from .config import CodecConfig, ConvolutionalConfig, QuantizerConfig, SpectralConfig, preset
from .network import CodecNetwork, CodecOutput

__all__ = [
    "Codec",
    "CodecConfig",
    "CodecNetwork",
    "CodecOutput",
    "ConvolutionalConfig",
    "QuantizerConfig",
    "SpectralConfig",
    "codec_spec",
    "preset",
]
