"""Train a codec on one's own audio."""

import copy
import os
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from ..codec import Codec, CodecConfig
from .average import WeightAverage
from .codec_data import CodecData
from .codec_log import CodecLog
from .codec_networks import draw_networks, prepare_networks
from .codec_step import CodecStep
from .codec_training import CodecReport, CodecTraining
from .crops import Drawn
from .hooks import check_hooks
from .initial import AVERAGE, begin_with, part_of
from .pool import MEMORY_BYTES
from .run import Run
from .start import start_codebooks

#: What may change when a run is resumed.
_FREE = ("steps", "save_every", "log_every", "validate_every", "samples")
#: What a training from before there were these options had.
_DEFAULTS: dict[str, Any] = {"hooks": [], "validation": None}
_BALANCER = "balancer."


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
        memory_bytes: most that decoded audio may take; beyond it, crops are read from disk. A run that is to go on bit
            for bit keeps it: what is not decoded may prove to be bad, or of another length than it says.
        num_workers: processes that read.
        max_seconds: after which the run saves a checkpoint and ends, with the next line of the log (`log_every`), to be
            gone on with later.
        tensorboard: whether to write for it; None means where it is installed.
        progress: whether to show bars.

    Raises:
        InputError: arguments that do not fit, or a checkpoint of another training.
        FitError: no audio that can be used. MissingDependencyError: accelerate is not installed.
        AudiotokError: a loss that is not finite. CheckpointWriteError: the disk is full.
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
        state = self.run.restore()
        sizes = self.averaged.quantizer.codebook_sizes
        self.log = CodecLog(self.run, training, self.data, sizes, tensorboard=tensorboard)
        if state:
            self.averaged.load_state_dict(part_of(state, AVERAGE))
            if self.step.balancer is not None:
                for buffer, value in part_of(state, _BALANCER).items():
                    self.step.balancer.get_buffer(buffer).copy_(value)
            self.log.load(state)

    def _build(self, init: Path | None) -> None:
        training, accelerator = self.training, self.run.accelerator
        new = draw_networks(self.config, training, num_classes=self.data.num_classes, device=accelerator.device)
        if init is not None:
            begin_with(new.codec, init)
        self.averaged = copy.deepcopy(new.codec).to(accelerator.device)
        self.average = WeightAverage(self.averaged, training.ema_decay)
        self.step = CodecStep(
            accelerator,
            training,
            prepare_networks(new, training, self.run),
            sample_rate=self.config.sample_rate,
            teacher=new.teacher,
            labels=self.data.labels,
        )

    def train(self, max_seconds: float | None) -> CodecReport:
        run, training, log = self.run, self.training, self.log
        batches = self.data.crops.batches(
            range(run.step, training.steps), training.batch_size, process=run.accelerator.process_index
        )
        bar = tqdm(total=training.steps, initial=run.step, desc="training", unit="step", disable=not self.progress)
        with bar, closing(log), closing(batches):
            if not log.validations:
                log.validate(self.averaged)
            log.start()
            for drawn in batches:
                self._one_step(drawn)
                bar.update()
                stop = self._due(training.log_every) and self._out_of_time(max_seconds)
                if self._due(training.log_every):
                    bar.set_postfix_str(log.write_line())
                if self._due(training.validate_every):
                    log.validate(self.averaged)
                if stop or self._due(training.save_every):
                    self._save()
                if stop:
                    break
            throughput = log.throughput
        if run.step == run.resumed_from:  # a run may have been killed between its last checkpoint and the result
            self._write_result()
        return self._report(throughput)

    def _one_step(self, drawn: Drawn) -> None:
        run = self.run
        if run.step == self.training.quantize_from:
            self._start_codebooks()
        wav = drawn.wav.to(run.accelerator.device, non_blocking=True)
        found = self.step.run(wav, drawn.items, run.step)
        self.average.update(self.step.plain, run.step)
        self.log.add(found)
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

    def _save(self) -> None:
        run, log, balancer = self.run, self.log, self.step.balancer
        log.check_finite()  # where a loss is not, the checkpoint before is the good one
        if not all(bool(one.isfinite().all()) for one in self.averaged.parameters()):
            raise run.not_finite("the weights are")
        state = {AVERAGE + name: value for name, value in self.averaged.state_dict().items()} | log.saved()
        if balancer is not None:
            state |= {_BALANCER + name: value for name, value in balancer.named_buffers()}
        run.save({name: value.detach().cpu() for name, value in state.items()})
        self._write_result()

    def _write_result(self) -> None:
        if self.run.main:
            tokenizer = Codec.of(self.averaged, self.name)
            tokenizer.provenance = {**self.run.facts, "steps": self.run.step, "validation": self.log.validations[-1]}
            tokenizer.save(self.run.out)
        self.run.accelerator.wait_for_everyone()

    def _report(self, throughput: float) -> CodecReport:
        validations, failed = self.log.validations, self.run.gathered(self.data.failed)
        return CodecReport(
            folder=str(self.run.out),
            steps=self.run.step,
            resumed_from=self.run.resumed_from,
            items=self.data.num_items,
            items_failed=len(failed),
            items_held_out=self.data.num_held_out,
            hours=self.data.crops.seconds / 3600,
            failed=failed,
            before=validations[0],
            metrics=validations[-1],
            throughput=throughput,
            seconds=time.perf_counter() - self.started,
        )
