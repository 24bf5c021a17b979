"""Train a codec on one's own audio."""

import copy
import os
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..codec import Codec, CodecConfig
from .average import WeightAverage
from .board import Board
from .codec_data import CodecData
from .codec_networks import draw_networks, prepare_networks
from .codec_step import CodecStep
from .codec_training import CodecReport, CodecTraining
from .crops import Drawn
from .health import CodebookHealth
from .hooks import check_hooks
from .initial import AVERAGE, begin_with, part_of
from .meters import Meters
from .pool import MEMORY_BYTES
from .run import Run
from .start import start_codebooks
from .validation import write_samples

#: What may change when a run is resumed.
_FREE = ("steps", "save_every", "log_every", "validate_every", "samples")
#: What a training from before there were these options had.
_DEFAULTS: dict[str, Any] = {"hooks": []}
_METERS, _HEALTH, _BALANCER = "meters.", "health.", "balancer."


def train_codec(
    config: CodecConfig,
    source: Any,
    out: str | os.PathLike[str],
    *,
    training: CodecTraining | None = None,
    valid: Any = None,
    init: str | os.PathLike[str] | None = None,
    name: str | None = None,
    resume: bool = True,
    device: Literal["auto", "cpu"] = "auto",
    memory_bytes: int = MEMORY_BYTES,
    num_workers: int = 2,
    max_seconds: float | None = None,
    tensorboard: bool | None = None,
    progress: bool = True,
) -> CodecReport:
    """Trains a codec on audio; the folder is then one for `audiotok.load`.

    A run that is stopped, whatever stopped it, goes on from its last checkpoint, and gives on a CPU bit for bit what
    it would have given uninterrupted: crops depend on the seed and the step alone, and everything else is in the
    checkpoint. Under `accelerate launch` every process draws crops of its own, and all have the same codebooks.

    Args:
        config: of the codec.
        source: what `audiotok.sources.open_source` takes. Items that cannot be read are left out and listed.
        out: folder for the tokenizer (written with every checkpoint), log.jsonl, checkpoints/, samples/ and
            tensorboard/.
        training: how.
        valid: source of the items that are validated on; None holds some out.
        init: folder of another run, or of a tokenizer, of the same configuration, whose weights this one begins with;
            its optimizers and steps are not taken over.
        name: of the tokenizer; default that of the folder.
        resume: whether to go on from a checkpoint in `out`; otherwise a folder with one is refused.
        device: "auto" leaves it to Accelerate.
        memory_bytes: most that decoded audio may take; beyond it, crops are read from disk.
        num_workers: processes that read.
        max_seconds: after which the run saves a checkpoint and ends, to be gone on with later.
        tensorboard: whether to write for it; None means where it is installed.
        progress: whether to show bars.

    Raises:
        InputError: arguments that do not fit, or a checkpoint of another training.
        FitError: no audio that can be used. MissingDependencyError: accelerate is not installed.
        AudiotokError: a loss that is not finite.
    """
    run = _CodecRun(
        config,
        training or CodecTraining(),
        source,
        Path(out),
        valid=valid,
        init=None if init is None else Path(init),
        name=name or Path(out).resolve().name,
        resume=resume,
        device=device,
        memory_bytes=memory_bytes,
        num_workers=num_workers,
        tensorboard=tensorboard,
        progress=progress,
    )
    return run.train(max_seconds)


class _CodecRun:
    """One training: the networks, what steps them, the data, and where it stands."""

    def __init__(
        self,
        config: CodecConfig,
        training: CodecTraining,
        source: Any,
        out: Path,
        *,
        valid: Any,
        init: Path | None,
        name: str,
        resume: bool,
        device: str,
        memory_bytes: int,
        num_workers: int,
        tensorboard: bool | None,
        progress: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.config, self.training, self.name = config, training, name
        check_hooks(training.hooks, config)
        self.data = CodecData(source, valid)
        self.run = Run(
            out,
            {"training": asdict(training), "codec": config.to_dict(), "data": self.data.identity},
            device=device,
            precision=training.precision,
            resume=resume,
            free=_FREE,
            defaults=_DEFAULTS,
            broadcast_buffers=False,  # codebooks are the same everywhere already: see audiotok.quantize.Codebook
        )
        self.progress = progress and self.run.main

        self.data.read(config, training, memory_bytes=memory_bytes, num_workers=num_workers, progress=self.progress)
        self._build(init)
        self._restore()
        self.board = Board(out / "tensorboard", step=self.run.step, wanted=tensorboard if self.run.main else False)

    def _build(self, init: Path | None) -> None:
        training, accelerator = self.training, self.run.accelerator
        new = draw_networks(self.config, training, num_classes=self.data.num_classes, device=accelerator.device)
        if init is not None:
            begin_with(new.codec, init)
        self.averaged = copy.deepcopy(new.codec).to(accelerator.device)
        self.average = WeightAverage(self.averaged, training.ema_decay)
        self.health = CodebookHealth(new.codec.quantizer.codebook_sizes, accelerator.device)
        self.meters = Meters()
        self.step = CodecStep(
            accelerator,
            training,
            prepare_networks(new, training, self.run),
            sample_rate=self.config.sample_rate,
            teacher=new.teacher,
            labels=self.data.labels,
        )

    def _restore(self) -> None:
        state = self.run.restore()
        if state:
            self.averaged.load_state_dict(part_of(state, AVERAGE))
            if self.step.balancer is not None:
                for name, value in part_of(state, _BALANCER).items():
                    self.step.balancer.get_buffer(name).copy_(value)
            self.health.load(part_of(state, _HEALTH), main=self.run.main)
            self.meters.load(part_of(state, _METERS), self.run.accelerator.device)

    def train(self, max_seconds: float | None) -> CodecReport:
        run, training = self.run, self.training
        if not self._validations():
            self._validate()
        batches = self.data.crops.batches(
            range(run.step, training.steps), training.batch_size, process=run.accelerator.process_index
        )
        bar = tqdm(total=training.steps, initial=run.step, desc="training", unit="step", disable=not self.progress)
        self._began = self._lap = time.perf_counter()
        self._lap_step = run.step
        with bar, closing(self.board), closing(batches):
            for drawn in batches:
                self._one_step(drawn)
                bar.update()
                stop = self._due(training.log_every) and self._out_of_time(max_seconds)
                if self._due(training.log_every):
                    bar.set_postfix_str(self._log())
                if self._due(training.validate_every):
                    self._validate()
                if stop or self._due(training.save_every):
                    self._save()
                if stop:
                    break
        throughput = self._throughput(self._began, run.step - run.resumed_from)
        return self._report(throughput)

    def _one_step(self, drawn: Drawn) -> None:
        run = self.run
        if run.step == self.training.quantize_from:
            self._start_codebooks()
        wav = drawn.wav.to(run.accelerator.device, non_blocking=True)
        found = self.step.run(wav, drawn.items, run.step)
        self.average.update(self.step.plain, run.step)
        self.meters.add(found.losses, found.weights)
        if found.tokens.shape[2]:
            self.health.add(found.tokens)
        run.step += 1

    def _start_codebooks(self) -> None:
        run, network = self.run, self.step.plain
        started = start_codebooks(
            network,
            self.data.crops,
            step=run.step,
            rows=self.training.batch_size,
            process=run.accelerator.process_index,
            processes=run.accelerator.num_processes,
        )
        if started:  # there is nothing to average with what was there before
            self.averaged.quantizer.load_state_dict(network.quantizer.state_dict())

    def _due(self, every: int) -> bool:
        return self.run.step % every == 0 or self.run.step == self.training.steps

    def _out_of_time(self, max_seconds: float | None) -> bool:
        """Whether the first process finds so: all must stop at the same step."""
        if max_seconds is None:
            return False
        late = torch.tensor(float(self.run.main and time.perf_counter() - self.started > max_seconds))
        return bool(self.run.accelerator.reduce(late.to(self.run.accelerator.device), "sum") > 0)

    def _log(self) -> str:
        run = self.run
        losses, health = run.means(self.meters.means(run.accelerator)), self.health.figures()
        self.meters.clear()
        throughput = self._throughput(self._lap, run.step - self._lap_step)
        self._lap, self._lap_step = time.perf_counter(), run.step
        rate = self.training.rate_at(run.step - 1)
        line = {"step": run.step, **losses, "learning_rate": rate, "speed": throughput}
        run.add_line({**line, "codebooks": health} if health else line)
        self.board.scalars("train", {**losses, "learning_rate": rate, "speed": throughput}, run.step)
        self.board.scalars("codebooks", health, run.step)
        shown = " ".join(f"{name}={losses[name]:.3f}" for name in ("mel", "stft", "time", "judged") if name in losses)
        if health:
            used = sum(health["usage"]) / len(health["usage"])
            shown += f" used={used:.0%} dead={sum(health['dead'])} revived={sum(health['revived'])}"
        return f"{shown} {throughput:.1f} x"

    def _throughput(self, since: float, steps: int) -> float:
        """Seconds of audio per second, of all processes."""
        audio = steps * self.training.batch_size * self.data.crops.samples / self.config.sample_rate
        processes: int = self.run.accelerator.num_processes
        return round(audio * processes / max(1e-9, time.perf_counter() - since), 2)

    def _validate(self) -> None:
        run, rate = self.run, self.config.sample_rate
        found, made = self.data.validation.measure(self.averaged, run.accelerator.device)
        run.add_line({"step": run.step, "validation": found})
        self.board.scalars("validation", found, run.step)
        if run.main and self.training.samples:
            world = run.accelerator.num_processes
            clips = [wav for _, wav in self.data.validation.clips[::world]][: self.training.samples]
            made = made[: self.training.samples]
            write_samples(run.out / "samples", run.step, clips, made, rate)
            self.board.audio(made, run.step, rate)

    def _save(self) -> None:
        run = self.run
        if self.meters.count:
            run.means(self.meters.means())  # raises where a loss is not finite: the checkpoint before is the good one
        if not all(bool(one.isfinite().all()) for one in self.averaged.parameters()):
            raise run.not_finite("the weights are")
        parts: list[tuple[str, dict[str, Tensor]]] = [
            (AVERAGE, self.averaged.state_dict()),
            (_METERS, self.meters.saved(run.accelerator)),
            (_HEALTH, self.health.saved()),
        ]
        if self.step.balancer is not None:
            parts.append((_BALANCER, dict(self.step.balancer.named_buffers())))
        run.save({prefix + name: value.detach().cpu() for prefix, part in parts for name, value in part.items()})
        self._write_result()

    def _write_result(self) -> None:
        if self.run.main:
            tokenizer = Codec.of(self.averaged, self.name)
            tokenizer.provenance = {**self.run.facts, "steps": self.run.step, "validation": self._validations()[-1]}
            tokenizer.save(self.run.out)
        self.run.accelerator.wait_for_everyone()

    def _validations(self) -> list[dict[str, float]]:
        return [line["validation"] for line in self.run.lines if "validation" in line]

    def _report(self, throughput: float) -> CodecReport:
        validations = self._validations()
        return CodecReport(
            folder=str(self.run.out),
            steps=self.run.step,
            resumed_from=self.run.resumed_from,
            items=self.data.num_items,
            items_failed=len(self.data.failed),
            items_held_out=self.data.num_held_out,
            hours=self.data.crops.seconds / 3600,
            failed=self.data.failed,
            before=validations[0],
            metrics=validations[-1],
            throughput=throughput,
            seconds=time.perf_counter() - self.started,
        )
