"""Everything that a codec's training trains, and the optimizers that do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..codec.config import CodecConfig
from ..codec.distillation import SemanticDistillation, feature_size
from ..codec.network import CodecNetwork
from ..errors import InputError
from ..hub import load
from ..nn.codec_discriminators import CodecDiscriminators
from ..tokenizer import Tokenizer
from .codec_training import CodecTraining
from .hooks import HookHeads
from .muon import Muon
from .run import Run
from .start import TrainedCodec

_RATE_SCALE = "rate_scale"  # of a group of parameters: what its learning rate is multiplied by


@dataclass
class NewNetworks:
    """The networks as they begin, and the teacher, which is not trained."""

    codec: CodecNetwork
    judges: CodecDiscriminators | None
    distillation: SemanticDistillation | None
    hooks: HookHeads | None
    teacher: Tokenizer | None


@dataclass
class Networks:
    """All that is trained, and what trains it, once Accelerate has prepared it."""

    codec: nn.Module
    judges: nn.Module | None
    distillation: nn.Module | None
    hooks: nn.Module | None
    optimizer: torch.optim.Optimizer
    judges_optimizer: torch.optim.Optimizer | None


def draw_networks(
    config: CodecConfig, training: CodecTraining, *, num_classes: Mapping[str, int], device: Any
) -> NewNetworks:
    """Networks whose weights follow from the training's seed.

    Args:
        config: of the codec.
        training: which others there are.
        num_classes: of each label of the hooks that has classes.
        device: of the teacher.

    Raises:
        InputError: discriminators for a network that makes no wave.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        codec = CodecNetwork(config, seed=training.seed)
        judges = CodecDiscriminators(training.discriminators) if training.is_adversarial else None
        teacher = load(training.teacher, device=str(device), mode="encode") if training.teacher else None
        distillation = None
        if teacher is not None:
            distillation = SemanticDistillation(config.latent, feature_size(teacher), likeness=training.likeness)
        hooks = HookHeads(training.hooks, config.latent, num_classes) if training.hooks else None
    if codec.gives_magnitudes and judges is not None:
        raise InputError("a network that gives magnitudes has no wave to judge: adversarial_from must be -1")
    return NewNetworks(codec, judges, distillation, hooks, teacher)


def prepare_networks(new: NewNetworks, training: CodecTraining, run: Run) -> Networks:
    """The networks as Accelerate wants them, with their optimizers. The order is that of the files of checkpoints."""
    matrices = new.codec.inner_weights() if training.optimizer == "muon" else []
    chosen = {id(one) for one in matrices}
    others = [one for one in new.codec.parameters() if id(one) not in chosen]
    others += [] if new.distillation is None else list(new.distillation.parameters())
    codec = run.prepare(TrainedCodec(new.codec))
    judges = None if new.judges is None else run.prepare(new.judges)
    distillation = None if new.distillation is None else run.prepare(new.distillation)
    hooks = None if new.hooks is None else run.prepare(new.hooks)
    optimizer = _optimizer(training, others, matrices)
    if new.hooks is not None:
        scale = training.hook_learning_rate / training.learning_rate if training.hook_learning_rate else 1.0
        group: dict[str, Any] = {"params": list(new.hooks.parameters()), "matrices": False, _RATE_SCALE: scale}
        optimizer.add_param_group(group)
    return Networks(
        codec=codec,
        judges=judges,
        distillation=distillation,
        hooks=hooks,
        optimizer=run.prepare(optimizer),
        judges_optimizer=None if new.judges is None else run.prepare(_optimizer(training, new.judges.parameters())),
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives all parameters of an optimizer a learning rate, those of heads with one of their own theirs."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_RATE_SCALE, 1.0)


def _optimizer(
    training: CodecTraining, parameters: Iterable[nn.Parameter], matrices: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    rate, betas, decay = training.learning_rate, training.betas, training.weight_decay
    if matrices:
        return Muon(matrices, parameters, rate, betas, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True)
