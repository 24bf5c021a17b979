"""Training with Accelerate."""

from .vocoder import train_vocoder
from .vocoder_training import VocoderReport, VocoderTraining

__all__ = ["VocoderReport", "VocoderTraining", "train_vocoder"]
