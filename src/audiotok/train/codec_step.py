"""One step of a codec's training: its losses, and what they do to codec and discriminators."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.balancer import Balancer
from ..codec.distillation import teacher_features
from ..codec.network import CodecNetwork, CodecOutput
from ..codec.stages import stage_vectors
from ..nn.discriminators import Judgement
from ..tokenizer import Tokenizer
from .codec_networks import Networks, set_rate
from .codec_training import CodecTraining
from .distances import distances_of, output_of
from .labels import Labels
from .losses import discriminator_loss, feature_loss, generator_loss
from .start import TrainedCodec

_JUDGED = "judged"  # adversarial and feature loss together


@dataclass(frozen=True)
class StepResult:
    """What a training step found.

    losses: scalars by name, the norm of the gradient and what the hooks say among them.
    weights: of the latter, how many rows they knew something of.
    tokens: [B, K, F]; no frames before there are codebooks.
    """

    losses: dict[str, Tensor]
    weights: dict[str, Tensor]
    tokens: Tensor


class CodecStep:
    """Losses of a codec, and steps of its optimizers.

    Args:
        accelerator: of Accelerate.
        training: which losses, and their weights.
        networks: prepared.
        sample_rate: in Hz.
        teacher: of the first codebook, or None.
        labels: for the hooks, or None where there are none.
    """

    def __init__(
        self,
        accelerator: Any,
        training: CodecTraining,
        networks: Networks,
        *,
        sample_rate: int,
        teacher: Tokenizer | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.accelerator, self.training, self.networks = accelerator, training, networks
        self.sample_rate, self.teacher, self.labels = sample_rate, teacher, labels
        self.distances = distances_of(training.weights, self.plain).to(accelerator.device)
        weights = training.weights
        self._shares = {name: getattr(weights, name) for name in self.distances.names}
        if training.is_adversarial:
            self._shares[_JUDGED] = weights.adversarial + weights.feature
        self.balancer = Balancer(self._shares).to(accelerator.device) if training.balancer else None

    @property
    def plain(self) -> CodecNetwork:
        """The codec without Accelerate's wrapping."""
        wrapped: TrainedCodec = self.accelerator.unwrap_model(self.networks.codec)
        return wrapped.network

    def run(self, wav: Tensor, items: Tensor, step: int) -> StepResult:
        """A training step on wav [B, 1, T] of items [B], see `Crops`."""
        training, networks = self.training, self.networks
        set_rate(networks.optimizer, training.rate_at(step))
        quantizing = step >= training.quantize_from
        output: CodecOutput = networks.codec(wav, quantize=quantizing)
        made = output_of(output).float()
        judging = training.is_adversarial and step >= training.adversarial_from
        losses: dict[str, Tensor] = {}
        if judging and step % training.discriminator_every == 0:
            losses["discriminator"] = self._train_judges(wav, made.detach(), step)
        through: dict[str, Tensor] = self.distances(made, wav)
        losses.update(through)
        if judging:
            through[_JUDGED] = self._judged(wav, made, losses)
        total = self._combined(through, made)
        beside = training.weights.commitment * output.quantized.loss
        losses["commitment"] = output.quantized.loss
        if networks.distillation is not None and quantizing:
            losses["distillation"] = self._distilled(wav, output)
            beside = beside + training.weights.distillation * losses["distillation"]
        weights: dict[str, Tensor] = {}
        if networks.hooks is not None and quantizing:
            weights = self._hooked(wav, items, output, losses)
            beside = beside + torch.stack([hook.weight * losses[hook.name] for hook in training.hooks]).sum()
        self.accelerator.backward(total + beside)
        losses["gradient"] = self._clip(networks.codec)
        networks.optimizer.step()
        networks.optimizer.zero_grad()
        losses = {name: value.detach() for name, value in losses.items()}
        return StepResult(losses, weights, output.quantized.tokens)

    def _train_judges(self, wav: Tensor, fake: Tensor, step: int) -> Tensor:
        judges, optimizer = self.networks.judges, self.networks.judges_optimizer
        assert judges is not None
        assert optimizer is not None
        set_rate(optimizer, self.training.rate_at(step, of_discriminators=True))
        # Real and made-up audio in one call: one forward per backward, as distributed training wants it.
        judged = judges(torch.cat([wav, fake]))
        real: list[Judgement] = [(score.chunk(2)[0], []) for score, _ in judged]
        made: list[Judgement] = [(score.chunk(2)[1], []) for score, _ in judged]
        loss = discriminator_loss(real, made, self.training.adversarial)
        self.accelerator.backward(loss)
        self._clip(judges)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    def _judged(self, wav: Tensor, fake: Tensor, losses: dict[str, Tensor]) -> Tensor:
        judges: nn.Module = self.accelerator.unwrap_model(self.networks.judges)
        weights, total = self.training.weights, fake.new_zeros(())
        judges.requires_grad_(False)  # this gradient is the codec's alone
        with self.accelerator.autocast():
            made: list[Judgement] = judges(fake)
            if weights.feature:
                with torch.no_grad():
                    real: list[Judgement] = judges(wav)
        judges.requires_grad_(True)
        if weights.feature:
            losses["feature"] = feature_loss(real, made, relative=True)
            total = total + weights.feature * losses["feature"]
        if weights.adversarial:
            losses["adversarial"] = generator_loss(made, self.training.adversarial)
            total = total + weights.adversarial * losses["adversarial"]
        return total

    def _combined(self, through: dict[str, Tensor], made: Tensor) -> Tensor:
        if self.balancer is not None:
            balanced: Tensor = self.balancer(through, made)
            return balanced
        factors = {**self._shares, _JUDGED: 1.0}  # whose parts are weighted already
        return torch.stack([factors[name] * loss for name, loss in through.items()]).sum()

    def _distilled(self, wav: Tensor, output: CodecOutput) -> Tensor:
        assert self.teacher is not None
        assert self.networks.distillation is not None
        config, frames = self.plain.config, output.latents.shape[2]
        target = teacher_features(
            self.teacher, wav, self.sample_rate, frame_rate=self.sample_rate / config.hop_length, frames=frames
        )
        first = stage_vectors(self.plain.quantizer, output.latents, output.quantized.tokens)
        loss: Tensor = self.networks.distillation(first, target)
        return loss

    def _hooked(self, wav: Tensor, items: Tensor, output: CodecOutput, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds what the heads say, and gives how many rows each of it is about."""
        assert self.labels is not None
        assert self.networks.hooks is not None
        hooks, frames = self.training.hooks, output.latents.shape[2]
        known = self.labels.of(wav, items, frames, [hook.label for hook in hooks])
        labels = [known[hook.label] for hook in hooks]
        of_range = {
            codebooks: stage_vectors(self.plain.quantizer, output.latents, output.quantized.tokens, codebooks)
            for codebooks in {hook.codebooks for hook in hooks}
        }
        found, figures = self.networks.hooks(
            [of_range[hook.codebooks] for hook in hooks],
            [label.target for label in labels],
            [label.known[:, None].expand(-1, frames) for label in labels],
        )
        weights: dict[str, Tensor] = {}
        for hook, label in zip(hooks, labels, strict=True):
            values = {hook.name: found[hook.name]}
            values |= {f"{hook.name}_{name}": value for name, value in figures[hook.name].items()}
            losses |= values
            weights |= dict.fromkeys(values, label.known.sum())
        return weights

    def _clip(self, network: nn.Module) -> Tensor:
        """The norm of the gradient, before it is clipped."""
        most = self.training.clip_norm or float("inf")
        norm: Tensor = self.accelerator.clip_grad_norm_(network.parameters(), most)
        if self.training.precision == "fp16":  # whose scaler finds its scale by steps that overflow, and are skipped
            norm = torch.where(norm.isfinite(), norm, 0.0)
        return norm
