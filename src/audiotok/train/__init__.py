"""Training with Accelerate."""

from .codec import train_codec
from .codec_training import CodecReport, CodecTraining, LossWeights
from .config_file import parse_config, read_config
from .crops import Augmentation
from .hooks import HookConfig
from .vocoder import train_vocoder
from .vocoder_training import VocoderReport, VocoderTraining

__all__ = [
    "Augmentation",
    "CodecReport",
    "CodecTraining",
    "HookConfig",
    "LossWeights",
    "VocoderReport",
    "VocoderTraining",
    "parse_config",
    "read_config",
    "train_codec",
    "train_vocoder",
]
