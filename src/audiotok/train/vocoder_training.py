"""How a vocoder is trained, and what came of it, as plain numbers."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import InputError
from .losses import Adversarial
from .sizes import Size


@dataclass(frozen=True)
class VocoderTraining:
    """How a vocoder is trained. The defaults are HiFi-GAN's, with the layer dropout of arXiv 2406.10735.

    Attributes:
        steps: in all, the ones before a resumed run included.
        batch_size: segments per step and process.
        segment_seconds: of a segment.
        size: of the networks, see `vocoder_config`; where a configuration is given, of the discriminators only.
        embedding: where the vectors of the tokens begin: "random", or "centroids" of the tokenizer, which a small
            corpus learns much faster from.
        min_layers: fewest layers drawn for a step.
        learning_rate, betas: of AdamW, for both sides.
        decay: factor of the learning rate per 1000 steps.
        mel_weight, feature_weight: of these losses beside the adversarial one.
        adversarial: "lsgan" (least squares) or "hinge".
        adversarial_from: first step with discriminators; before it only the mel loss is minimised.
        precision: "no" (float32), "bf16" or "fp16".
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
        seed: of weights, segments and layers.
    """

    steps: int = 500_000
    batch_size: int = 16
    segment_seconds: float = 0.56
    size: Size = "published"
    embedding: Literal["random", "centroids"] = "random"
    min_layers: int = 1
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.99)
    decay: float = 0.999
    mel_weight: float = 45.0
    feature_weight: float = 2.0
    adversarial: Adversarial = "lsgan"
    adversarial_from: int = 0
    precision: Literal["no", "bf16", "fp16"] = "no"
    save_every: int = 5000
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "min_layers", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("segment_seconds", "learning_rate", "mel_weight", "feature_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.decay <= 1 or self.adversarial_from < 0 or self.seed < 0:
            raise InputError("decay must lie in 0..1, adversarial_from and seed must be at least 0")
        for name, known in (
            ("adversarial", ("lsgan", "hinge")),
            ("precision", ("no", "bf16", "fp16")),
            ("embedding", ("random", "centroids")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {known}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class VocoderReport:
    """What a training did.

    Attributes:
        folder: the result, for `load_vocoder`.
        steps: done in all; resumed_from: how many of them before this run.
        files, files_failed, files_held_out, hours: of audio.
        mel_before, mel_after: mean absolute log-mel difference on held-out segments, all layers given.
        mel_by_layers: the same afterwards for the first layer alone, the first two, and so on.
        seconds: of this run.
    """

    folder: str
    steps: int
    resumed_from: int
    files: int
    files_failed: int
    files_held_out: int
    hours: float
    mel_before: float
    mel_after: float
    mel_by_layers: dict[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
