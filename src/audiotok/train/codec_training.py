"""How a codec is trained, and what came of it, as plain numbers that a YAML file can hold."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..codec.distillation import Likeness
from ..errors import InputError
from ..nn.codec_discriminators import DiscriminatorConfig
from .crops import Augmentation, Padding
from .hooks import HookConfig, hooks_of
from .losses import Adversarial
from .options import check_types, made

Schedule = Literal["constant", "cosine", "exponential"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; 0 leaves one out. With the balancer they are shares of the gradient in the output, without
    it factors. Adversarial and feature loss go through the same network and are one to the balancer, with the sum of
    their weights; against each other they are weighted by them either way. Commitment and distillation do not go
    through the output: for them the weight is a factor, always.

    Attributes:
        mel: multi-scale mel distance (`MultiScaleMel`).
        stft: multi-resolution STFT distance (`MultiResolutionStft`).
        time: mean absolute difference of samples.
        commitment: of the quantizer's own loss.
        adversarial: of the discriminators' verdict.
        feature: difference of their feature maps, each relative to its size.
        distillation: of the first codebook to the teacher's features.
    """

    mel: float = 2.0
    stft: float = 1.0
    time: float = 0.1
    commitment: float = 1.0
    adversarial: float = 1.0
    feature: float = 2.0
    distillation: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise InputError(f"the weight of {name} must be at least 0, not {value}")
        if not self.mel + self.stft + self.time:
            raise InputError("one of the weights of mel, stft and time must be above 0")


@dataclass(frozen=True)
class CodecTraining:
    """How a codec is trained.

    Attributes:
        steps: in all, the ones before a resumed run included.
        batch_size: crops per step and process.
        segment_seconds: of a crop; rounded to whole frames.
        optimizer: of the codec: "adamw", or "muon" for the matrices between its first and last layers and AdamW for the
            rest, which takes fewer steps.
        learning_rate, betas, weight_decay: of the optimizers; the betas of AdamW.
        discriminator_learning_rate: 0 for that of the codec.
        warmup_steps: in which the learning rate rises from 0; the discriminators' begins with their first step.
        schedule: of the learning rate after that: "constant", "cosine" down to `final_rate` at the last step, or
            "exponential", by `decay` per 1000 steps.
        final_rate: what the cosine ends at, as a share.
        decay: see `schedule`.
        clip_norm: largest norm of a network's gradient; 0 does not clip. It only matters where a batch stands out:
            the norm is in the log.
        quantize_from: first step with the quantizer. Before it the codec is an autoencoder without, so that its
            codebooks begin as k-means of latents that are worth it; a run that ends before it has codebooks as drawn.
        precision: "no" (float32), "bf16" or "fp16".
        ema_decay: of the moving average of the weights that is saved as the result; 0 saves the weights themselves.
            It counts from the start, so that the first steps are forgotten early.
        weights: of the losses.
        balancer: whether losses are balanced by their gradients (`audiotok.codec.balancer.Balancer`).
        adversarial: "hinge", or "lsgan" (least squares).
        adversarial_from: first step with discriminators; -1 for none.
        discriminator_every: steps between steps of the discriminators.
        discriminators: which.
        teacher: tokenizer whose features the first codebook learns to tell; "" for none.
        likeness: see `SemanticDistillation`.
        hooks: heads on codebooks that bring labels in, or keep them out; none of one label and range twice.
        hook_learning_rate: of the heads; 0 for that of the codec. It has the same schedule.
        domains: how much of the crops comes from items with that value in `domain_column`; None takes every second of
            audio alike.
        domain_column: of the manifest.
        augmentation: of crops.
        padding: of items shorter than a crop, "repeat" or "mirror".
        save_every, validate_every, log_every: steps between checkpoints, validations, and lines of the log.
        validation_items, validation_seconds: how many items are validated on, and how much of each at most.
        samples: how many of these are written as audio.
        seed: of weights and crops.

    Raises:
        InputError: a value out of range.
    """

    steps: int = 100_000
    batch_size: int = 16
    segment_seconds: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    discriminator_learning_rate: float = 0.0
    warmup_steps: int = 500
    schedule: Schedule = "cosine"
    final_rate: float = 0.05
    decay: float = 0.998
    clip_norm: float = 0.0
    quantize_from: int = 200
    precision: Precision = "no"
    ema_decay: float = 0.999
    weights: LossWeights = field(default_factory=LossWeights)
    balancer: bool = True
    adversarial: Adversarial = "hinge"
    adversarial_from: int = 0
    discriminator_every: int = 1
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    teacher: str = ""
    likeness: Likeness = "cosine"
    hooks: tuple[HookConfig, ...] = ()
    hook_learning_rate: float = 0.0
    domains: Mapping[str, float] | None = None
    domain_column: str = "domain"
    augmentation: Augmentation = field(default_factory=Augmentation)
    padding: Padding = "repeat"
    save_every: int = 1000
    validate_every: int = 1000
    log_every: int = 50
    validation_items: int = 32
    validation_seconds: float = 4.0
    samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # JSON and YAML have lists only
        check_types(self)
        counts = ("steps", "batch_size", "save_every", "validate_every", "log_every", "validation_items")
        for name in (*counts, "discriminator_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("segment_seconds", "learning_rate", "validation_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in (
            "weight_decay",
            "discriminator_learning_rate",
            "hook_learning_rate",
            "warmup_steps",
            "clip_norm",
            "quantize_from",
            "samples",
            "seed",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not (0 < self.decay <= 1 and 0 <= self.final_rate <= 1 and 0 <= self.ema_decay < 1):
            raise InputError("decay and final_rate must lie in 0..1, ema_decay be at least 0 and below 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are two numbers of at least 0 and below 1, not {self.betas}")
        if self.adversarial_from < -1:
            raise InputError(f"adversarial_from is a step, or -1 for none, not {self.adversarial_from}")
        if self.domains is not None and not _is_shares(self.domains):
            raise InputError(f"domains are shares by name, such as {{speech: 0.6, music: 0.4}}, not {self.domains!r}")
        object.__setattr__(self, "hooks", hooks_of(self.hooks))

    @property
    def is_adversarial(self) -> bool:
        """Whether discriminators are trained at all."""
        return self.adversarial_from >= 0 and self.weights.adversarial + self.weights.feature > 0

    def rate_at(self, step: int, *, of_discriminators: bool = False) -> float:
        """Learning rate of a step.

        Example:
            >>> training = CodecTraining(steps=100, warmup_steps=10, learning_rate=0.1, final_rate=0.0)
            >>> [round(training.rate_at(step), 4) for step in (0, 9, 55, 100)]
            [0.01, 0.1, 0.05, 0.0]
        """
        rate, began = self.learning_rate, 0
        if of_discriminators:
            rate, began = self.discriminator_learning_rate or rate, self.adversarial_from
        warm = min(1.0, (step - began + 1) / max(1, self.warmup_steps))
        beyond = max(0, step - self.warmup_steps)
        if self.schedule == "exponential":
            return rate * warm * float(self.decay ** (beyond / 1000))
        if self.schedule == "cosine":
            done = min(1.0, beyond / max(1, self.steps - self.warmup_steps))
            return rate * warm * (self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * done)) / 2)
        return rate * warm

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CodecTraining":
        """Of plain values; what is not named keeps its default.

        Raises:
            InputError: an unknown key (near ones are named), or a value out of range.
        """
        given = dict(values)
        parts = {"weights": LossWeights, "discriminators": DiscriminatorConfig, "augmentation": Augmentation}
        for name, kind in parts.items():
            if name in given:
                given[name] = made(name, kind, given[name])
        training: CodecTraining = made("training", cls, given)
        return training


def _is_shares(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(share, int | float) for share in value.values())


@dataclass(frozen=True)
class CodecReport:
    """What a training did.

    Attributes:
        folder: the result, for `audiotok.load`.
        steps: done in all; resumed_from: how many of them before this run.
        items, items_failed, items_held_out, hours: of audio.
        failed: items that could not be used, and why.
        metrics: of the last validation, by name; before: of the first, where this folder's log has it.
        throughput: seconds of audio trained on per second, all processes together.
        seconds: of this run.
    """

    folder: str
    steps: int
    resumed_from: int
    items: int
    items_failed: int
    items_held_out: int
    hours: float
    failed: list[str]
    before: dict[str, float]
    metrics: dict[str, float]
    throughput: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
