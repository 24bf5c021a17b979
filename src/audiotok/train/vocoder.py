"""Train a unit vocoder on one's own tokens (arXiv 2406.10735), adversarially as HiFi-GAN (arXiv 2010.05646)."""

import itertools
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import audio
from ..errors import InputError
from ..nn.discriminators import Discriminators
from ..sources import open_source
from ..ssl.vocoder import UnitVocoder
from ..ssl.vocoder_config import VocoderConfig
from ..ssl.vocoder_files import save_vocoder
from ..tokenizer import Tokenizer
from .losses import discriminator_loss, feature_loss, generator_loss, mel_loss, mel_of
from .run import Run
from .segments import Segments
from .sizes import discriminator_shrink, vocoder_config
from .vocoder_parts import draw_layers, embed_centroids, with_weight_norm
from .vocoder_training import VocoderReport, VocoderTraining

_HELD_OUT_ROWS = 8


def train_vocoder(
    tokenizer: Tokenizer,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    training: VocoderTraining | None = None,
    config: VocoderConfig | None = None,
    layers: Sequence[int] | None = None,
    resume: bool = True,
    device: Literal["auto", "cpu"] = "auto",
    progress: bool = True,
) -> VocoderReport:
    """Trains a vocoder that decodes any subset of a tokenizer's rows of tokens.

    A run that is stopped goes on from its last checkpoint, and gives on a CPU bit for bit what it would have given
    uninterrupted: segments and layers of a step depend on the seed and the step alone. Under `accelerate launch`
    every process draws segments of its own.

    Args:
        tokenizer: any with mono audio; each codebook is a layer.
        source: audio, a folder (searched with its subfolders), a file, or a list of them.
        out: folder for config.json and model.safetensors (the result, written with every checkpoint), log.jsonl,
            tokens.safetensors and checkpoints/.
        training: how.
        config: sizes of the vocoder; default `vocoder_config` of the tokenizer and `training.size`.
        layers: the layers' own numbers; default those of `config`, the tokenizer's `layers`, or 0, 1, ...
        resume: whether to go on from a checkpoint in `out`; otherwise a folder with one is refused.
        device: "auto" leaves it to Accelerate.
        progress: whether to show bars.

    Raises:
        InputError: arguments that do not fit, or a checkpoint of another training.
        FitError: no audio that can be used. MissingDependencyError: accelerate is not installed.
        AudiotokError: a loss that is not finite.
    """
    training = training or VocoderTraining()
    config = config or vocoder_config(tokenizer.spec, training.size, layers=_layers(tokenizer, layers))
    if config.codebook_sizes != tokenizer.spec.codebook_sizes or config.speaker_dim or config.duration_dim:
        raise InputError(
            f"the vocoder must be for codebooks {tokenizer.spec.codebook_sizes}, without speaker vectors and durations"
        )
    if layers is not None and tuple(layers) != config.layers:
        raise InputError(f"layers {tuple(layers)} are not those of the configuration, {config.layers}")
    if training.min_layers > len(config.layers):
        raise InputError(f"min_layers is {training.min_layers}, but there are {len(config.layers)} layers")
    run = _Training(tokenizer, audio.find_audio(source), Path(out), training, config, resume, device, progress)
    return run.train()


def _layers(tokenizer: Tokenizer, layers: Sequence[int] | None) -> Sequence[int] | None:
    own = getattr(tokenizer, "layers", None)
    return own if layers is None and isinstance(own, list | tuple) else layers


class _Training:
    """One training: the networks, their optimizers, the data, and where it stands."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        files: list[Path],
        out: Path,
        training: VocoderTraining,
        config: VocoderConfig,
        resume: bool,
        device: str,
        progress: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.training = training
        facts = {
            "training": asdict(training),
            "vocoder": config.to_dict(),
            "tokenizer": {"name": tokenizer.spec.name, "fingerprint": tokenizer.fingerprint},
            "data": {"audio": open_source(files).identity()},
        }
        self.run = Run(
            out,
            facts,
            device=device,
            precision=training.precision,
            resume=resume,
            free=("steps", "save_every", "log_every"),
        )
        self.accelerator = self.run.accelerator
        self.progress = progress and self.run.main

        hop, rate = math.prod(config.upsample_factors), tokenizer.spec.sample_rate
        if hop != tokenizer.spec.hop_length or config.sample_rate != rate:
            raise InputError(
                f"the vocoder makes {hop} samples per frame at {config.sample_rate} Hz, {tokenizer.spec.name} wants "
                f"{tokenizer.spec.hop_length} at {rate} Hz"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            vocoder = with_weight_norm(UnitVocoder(config))
            if training.embedding == "centroids":
                embed_centroids(vocoder, tokenizer.codebooks)
            judges = Discriminators(shrink=discriminator_shrink(training.size))
        frames = max(round(training.segment_seconds * rate / hop), vocoder.generator.min_frames)
        cache = out / "tokens.safetensors"
        with self.accelerator.main_process_first():  # it tokenizes, the others read what it kept
            self.data = Segments(
                tokenizer, files, frames=frames, seed=training.seed, cache=cache, progress=self.progress
            )
        self.num_files = len(files)
        self.mel = mel_of(rate)
        self.vocoder, self.judges, self.optimizer, self.judges_optimizer = self.accelerator.prepare(
            vocoder,
            judges,
            torch.optim.AdamW(vocoder.parameters(), training.learning_rate, training.betas),
            torch.optim.AdamW(judges.parameters(), training.learning_rate, training.betas),
        )
        self.run.restore()

    def train(self) -> VocoderReport:
        training, run = self.training, self.run
        if not run.lines:
            run.add_line({"mel_before": self._mel(len(self._plain.layers))})
        bar = tqdm(total=training.steps, initial=run.step, desc="training", unit="step", disable=not self.progress)
        ahead = ThreadPoolExecutor(1)
        with bar, ahead:
            batch = ahead.submit(self._batch, run.step)
            while run.step < training.steps:
                current = batch.result()
                batch = ahead.submit(self._batch, min(run.step + 1, training.steps - 1))
                losses = self._one_step(*current)
                run.step += 1
                bar.update()
                last = run.step == training.steps
                if last or run.step % training.log_every == 0:
                    line = {"step": run.step, **run.means(losses)}
                    run.add_line({**line, "learning_rate": self.optimizer.param_groups[0]["lr"]})
                    bar.set_postfix(mel=f"{line['mel']:.3f}")
                if last or run.step % training.save_every == 0:
                    run.save()
                    self._write_result({})
        by_layers = {
            ",".join(map(str, self._plain.layers[:count])): self._mel(count)
            for count in range(1, len(self._plain.layers) + 1)
        }
        report = VocoderReport(
            folder=str(run.out),
            steps=run.step,
            resumed_from=run.resumed_from,
            files=self.num_files,
            files_failed=len(self.data.failed),
            files_held_out=self.data.num_held_out,
            hours=self.data.seconds / 3600,
            mel_before=run.lines[0]["mel_before"],
            mel_after=list(by_layers.values())[-1],
            mel_by_layers=by_layers,
            seconds=time.perf_counter() - self.started,
        )
        self._write_result({"train": report.to_dict()})
        self.accelerator.wait_for_everyone()
        return report

    @property
    def _plain(self) -> UnitVocoder:
        plain: UnitVocoder = self.accelerator.unwrap_model(self.vocoder)
        return plain

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.data.draw(step, self.training.batch_size, process=self.accelerator.process_index)

    def _one_step(self, tokens: Tensor, wav: Tensor) -> dict[str, Tensor]:
        training = self.training
        rate = training.learning_rate * training.decay ** (self.run.step / 1000)
        for group in itertools.chain(self.optimizer.param_groups, self.judges_optimizer.param_groups):
            group["lr"] = rate
        config = self._plain.config
        places = draw_layers(len(config.layers), seed=training.seed, step=self.run.step, fewest=training.min_layers)
        tokens, wav = tokens.to(self.accelerator.device), wav.to(self.accelerator.device)
        fake = self.vocoder(tokens[:, places], layers=[config.layers[place] for place in places])
        losses = {}
        judging = self.run.step >= training.adversarial_from
        if judging:
            # Real and made-up audio in one call: one forward per backward, as distributed training wants it.
            real_view, fake_view = _halves(self.judges(torch.cat([wav, fake.detach()])))
            losses["discriminator"] = discriminator_loss(real_view, fake_view, training.adversarial)
            self.accelerator.backward(losses["discriminator"])
            self.judges_optimizer.step()
            self.judges_optimizer.zero_grad()
        losses["mel"] = mel_loss(fake, wav, self.mel)
        total = training.mel_weight * losses["mel"]
        if judging:
            judges: nn.Module = self.accelerator.unwrap_model(self.judges)
            judges.requires_grad_(False)  # this backward is the vocoder's alone
            with self.accelerator.autocast():
                real_view, fake_view = _halves(judges(torch.cat([wav, fake])))
            judges.requires_grad_(True)
            losses["feature"] = feature_loss(real_view, fake_view)
            losses["adversarial"] = generator_loss(fake_view, training.adversarial)
            total = total + training.feature_weight * losses["feature"] + losses["adversarial"]
        self.accelerator.backward(total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        losses["total"] = total
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _mel(self, num_layers: int) -> float:
        """On held-out segments, the first layers given."""
        tokens, wav = (one.to(self.accelerator.device) for one in self.data.held_out(_HELD_OUT_ROWS))
        plain = self._plain
        fake = plain(tokens[:, :num_layers], layers=plain.layers[:num_layers])
        return float(mel_loss(fake, wav, self.mel))

    def _write_result(self, facts: dict[str, Any]) -> None:
        if self.run.main:
            save_vocoder(self._plain, self.run.out, provenance={**self.run.facts, "steps": self.run.step, **facts})


def _halves(judged: list[tuple[Tensor, list[Tensor]]]) -> tuple[Any, Any]:
    """What was said of the first and of the second half of a batch."""
    first = [(score.chunk(2)[0], [one.chunk(2)[0] for one in maps]) for score, maps in judged]
    second = [(score.chunk(2)[1], [one.chunk(2)[1] for one in maps]) for score, maps in judged]
    return first, second
