"""What every training shares: Accelerate, checkpoints that are whole and rotated, and a log that goes with them."""

import atexit
import importlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..checkpoint import CheckpointWriteError, read_json, read_safetensors, write_json, write_safetensors
from ..errors import AudiotokError, InputError, MissingDependencyError
from ..files import atomic_write, remove_unfinished

KEPT_CHECKPOINTS = 2
LOG = "log.jsonl"
STATE = "state.safetensors"
_FACTS = "training.json"


class Run:
    """Where a training stands: the step it has reached, what it was asked for, its log and its checkpoints.

    A checkpoint is written under a temporary name and renamed when it is whole; the last two are kept. What a run that
    was killed has left of others is removed by the next. Beside what Accelerate saves (networks, optimizers, random
    states) a checkpoint may hold tensors of the training's own.

    Args:
        out: folder of the run.
        facts: what was asked for, by part: plain JSON values. A checkpoint is only resumed with the same ones.
        device: "auto" leaves it to Accelerate, "cpu" does not.
        precision: "no" (float32), "bf16" or "fp16".
        resume: whether to go on from a checkpoint in `out`; otherwise a folder with one is refused.
        free: names within a part that may change on the way.
        defaults: by name, what a checkpoint that does not know a name had; one that is not here counts as unchanged.
        broadcast_buffers: whether the first process sends its buffers to the others before each forward.

    Attributes:
        accelerator: of Accelerate.
        main: whether this is the process that writes.
        step: training steps done; resumed_from: how many of them before this run.
        lines: of the log.

    Raises:
        InputError: Accelerate refuses, or the folder holds another training.
        MissingDependencyError: accelerate is not installed.
    """

    def __init__(
        self,
        out: Path,
        facts: Mapping[str, Mapping[str, Any]],
        *,
        device: str,
        precision: str,
        resume: bool,
        free: Collection[str] = (),
        defaults: Mapping[str, Any] | None = None,
        broadcast_buffers: bool = True,
    ) -> None:
        accelerate = _accelerate()
        grouped = _is_grouped()
        kwargs = accelerate.DistributedDataParallelKwargs(broadcast_buffers=broadcast_buffers)
        try:
            self.accelerator = accelerate.Accelerator(
                cpu=device == "cpu", mixed_precision=precision, kwargs_handlers=[kwargs]
            )
        except ValueError as error:  # it keeps one choice of device and precision per process
            raise InputError(f"accelerate refuses device {device!r} with precision {precision!r}: {error}") from error
        if _is_grouped() and not grouped:
            atexit.register(_leave_group)
        self.main: bool = self.accelerator.is_main_process
        self.out = out
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))
        self.step = self.resumed_from = 0
        self.lines: list[dict[str, Any]] = []
        self._checkpoint = latest_checkpoint(out)
        if self._checkpoint is not None:
            self._check_resumable(self._checkpoint, resume, free, defaults or {})
        out.mkdir(parents=True, exist_ok=True)

    def prepare(self, one: Any) -> Any:
        """A network or an optimizer, as Accelerate wants it."""
        with warnings.catch_warnings():  # of an argument's old name, which is the one that Accelerate knows
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare(one)

    def restore(self) -> dict[str, Tensor]:
        """Loads the last checkpoint, if there is one, into what has been prepared, and the log up to it. Gives the
        tensors of the training's own; to be called once, by all processes."""
        state: dict[str, Tensor] = {}
        if self._checkpoint is not None:
            self.accelerator.load_state(str(self._checkpoint))
            self.step = self.resumed_from = int(self._checkpoint.name[5:])
            self.lines = self._old_lines()
            if (self._checkpoint / STATE).exists():
                state = read_safetensors(self._checkpoint / STATE)
        self.accelerator.wait_for_everyone()
        if self.main:
            self._write_log()  # lines beyond the checkpoint are dropped: they will come again
            self._remove_unfinished()
        return state

    def add_line(self, values: Mapping[str, Any]) -> None:
        """A line of the log: plain values; in the file at once."""
        self.lines.append(dict(values))
        if self.main:
            with (self.out / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def save(self, state: Mapping[str, Tensor] | None = None) -> None:
        """A checkpoint; to be called by all processes. `state` is the first process's.

        Raises:
            CheckpointWriteError: it cannot be written, for example because the disk is full; nothing of it is left.
        """
        folder = self.out / "checkpoints" / f"step-{self.step:09d}"
        unfinished = folder.with_name(folder.name + ".tmp")
        self.accelerator.wait_for_everyone()
        try:
            self._write_checkpoint(unfinished, state or {})
            if self.main:
                shutil.rmtree(folder, ignore_errors=True)
                unfinished.replace(folder)
                for old in checkpoints(self.out)[:-KEPT_CHECKPOINTS]:
                    shutil.rmtree(old)
        finally:
            if self.main:  # whatever stopped it: half a checkpoint would only fill the disk
                shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        try:
            self.accelerator.save_state(str(folder))
        except (RuntimeError, SafetensorError) as error:  # which is what torch and safetensors make of a full disk
            raise CheckpointWriteError(
                f"{folder} cannot be written: {error}. If the disk is full, make room and run again: it goes on from "
                "the checkpoint before"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.main:
            if state:
                write_safetensors(folder / STATE, {name: one.contiguous() for name, one in state.items()})
            self._write_log()
            write_json(folder / _FACTS, self.facts)

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over processes of scalars that must be finite.

        Raises:
            AudiotokError: one is not.
        """
        names = list(values)
        found = self.accelerator.reduce(torch.stack([values[name].float() for name in names]), "mean").tolist()
        wrong = [name for name, value in zip(names, found, strict=True) if not math.isfinite(value)]
        if wrong:
            raise self.not_finite(f"the {wrong[0]} loss is")
        return dict(zip(names, found, strict=True))

    def gathered(self, texts: Sequence[str]) -> list[str]:
        """Texts of all processes, each once; to be called by all of them."""
        found: list[str] = _accelerate().utils.gather_object(list(texts))
        return list(dict.fromkeys(found))

    def not_finite(self, what: str) -> AudiotokError:
        """The error of a training that has blown up."""
        return AudiotokError(
            f'step {self.step}: {what} not finite: lower learning_rate, or use precision "no"; the last checkpoint is '
            "from before"
        )

    def _write_log(self) -> None:
        with atomic_write(self.out / LOG) as file:
            file.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def _remove_unfinished(self) -> None:
        """Removes what is left of files and checkpoints that a run was killed over, as it wrote or deleted them."""
        for folder in (self.out, *(path for path in self.out.iterdir() if path.is_dir())):
            remove_unfinished(folder)
        whole = checkpoints(self.out)
        for path in (self.out / "checkpoints").glob("step-*"):
            if re.fullmatch(r"step-\d+(\.tmp)?", path.name) and path not in whole:
                shutil.rmtree(path)

    def _old_lines(self) -> list[dict[str, Any]]:
        """The log up to the step that is resumed from; what a killed run left half-written ends it."""
        path = self.out / LOG
        lines: list[dict[str, Any]] = []
        for text in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                break
            if line.get("step", 0) <= self.step:
                lines.append(line)
        return lines

    def _check_resumable(
        self, checkpoint: Path, resume: bool, free: Collection[str], defaults: Mapping[str, Any]
    ) -> None:
        if not resume:
            raise InputError(f"{checkpoint.parent} holds a training: name another folder, or resume it")
        old = read_json(checkpoint / _FACTS)
        for part, now in self.facts.items():
            before = {**defaults, **old.get(part, {})}
            for name in now:
                # What an older version did not know yet is what its default does.
                if name in before and before[name] != now[name] and name not in free:
                    raise InputError(
                        f"{checkpoint} is of a training with another {name} ({str(before[name])[:100]}, now "
                        f"{str(now[name])[:100]}): name another folder"
                    )


def _is_grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _leave_group() -> None:
    """Ends the group that Accelerate began, before the interpreter ends: a process that is left with its connections
    while the others go may be aborted on its way out, after all is done."""
    if _is_grouped():
        torch.distributed.destroy_process_group()


def checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = (out / "checkpoints").glob("step-*") if (out / "checkpoints").is_dir() else iter(())
    return sorted(path for path in found if path.name[5:].isdecimal() and (path / _FACTS).exists())


def latest_checkpoint(out: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    return next(reversed(checkpoints(out)), None)


def _accelerate() -> Any:
    try:
        return importlib.import_module("accelerate")
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("training needs accelerate: pip install 'audiotok[train]'") from error
