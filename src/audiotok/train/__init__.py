"""Training with Accelerate."""

from .vocoder import VocoderReport, VocoderTraining, train_vocoder

__all__ = ["VocoderReport", "VocoderTraining", "train_vocoder"]
