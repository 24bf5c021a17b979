"""What a codec's training tells of itself: lines of the log, TensorBoard, validations and their samples."""

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..codec import CodecNetwork
from .board import Board
from .codec_data import CodecData
from .codec_step import StepResult
from .codec_training import CodecTraining
from .health import CodebookHealth
from .initial import part_of
from .meters import Meters
from .run import Run
from .validation import write_samples

_METERS, _HEALTH = "meters.", "health."
_SHOWN = ("mel", "stft", "time", "judged")  # on the bar


class CodecLog:
    """Gathers what steps find, and writes it down.

    Args:
        run: which the lines are of; restored.
        training: that is logged.
        data: that is validated on.
        codebook_sizes: V of each row of tokens.
        tensorboard: whether to write for it; None means where it is installed.

    Raises:
        MissingDependencyError: `tensorboard` is True, and it is not installed.
    """

    def __init__(
        self,
        run: Run,
        training: CodecTraining,
        data: CodecData,
        codebook_sizes: Sequence[int],
        *,
        tensorboard: bool | None,
    ) -> None:
        self.run, self.training, self.data = run, training, data
        self.meters = Meters()
        self.health = CodebookHealth(codebook_sizes, run.accelerator.device)
        self._board = Board(run.out / "tensorboard", step=run.step, wanted=tensorboard if run.main else False)
        self._sample_rate = data.crops.pool.sample_rate
        audio = training.batch_size * data.crops.samples / self._sample_rate
        self._seconds_per_step: float = audio * run.accelerator.num_processes
        self.start()

    def start(self) -> None:
        """Lets the clock of the throughput begin with the next step."""
        self._began = self._lap = time.perf_counter()
        self._lap_step = self.run.step

    def add(self, found: StepResult) -> None:
        """What a step found."""
        self.meters.add(found.losses, found.weights)
        if found.tokens.shape[2]:
            self.health.add(found.tokens)

    def write_line(self) -> str:
        """Writes what was found since the line before, and gives a text for the bar; to be called by all processes.

        Raises:
            AudiotokError: a loss is not finite.
        """
        run = self.run
        losses, health = run.means(self.meters.means(run.accelerator)), self.health.figures()
        self.meters.clear()
        throughput = self._throughput(self._lap, run.step - self._lap_step)
        self._lap, self._lap_step = time.perf_counter(), run.step
        rate = self.training.rate_at(run.step - 1)
        line = {"step": run.step, **losses, "learning_rate": rate, "speed": throughput}
        run.add_line({**line, "codebooks": health} if health else line)
        self._board.scalars("train", {**losses, "learning_rate": rate, "speed": throughput}, run.step)
        self._board.scalars("codebooks", health, run.step)
        shown = " ".join(f"{name}={losses[name]:.3f}" for name in _SHOWN if name in losses)
        if health:
            used = sum(health["usage"]) / len(health["usage"])
            shown += f" used={used:.0%} dead={sum(health['dead'])} revived={sum(health['revived'])}"
        return f"{shown} {throughput:.1f} x"

    def validate(self, network: CodecNetwork) -> None:
        """Validates a network, and writes how it did and a few samples; to be called by all processes."""
        run, validation, count = self.run, self.data.validation, self.training.samples
        found, made = validation.measure(network, run.accelerator.device)
        run.add_line({"step": run.step, "validation": found})
        self._board.scalars("validation", found, run.step)
        if run.main and count:
            clips = [wav for _, wav in validation.clips[:: run.accelerator.num_processes]]
            write_samples(run.out / "samples", run.step, clips[:count], made[:count], self._sample_rate)
            self._board.audio(made[:count], run.step, self._sample_rate)

    @property
    def validations(self) -> list[dict[str, float]]:
        """What they found, the first one first."""
        return [line["validation"] for line in self.run.lines if "validation" in line]

    @property
    def throughput(self) -> float:
        """Seconds of audio per second since the start, of all processes."""
        return self._throughput(self._began, self.run.step - self.run.resumed_from)

    def check_finite(self) -> None:
        """Raises AudiotokError where a loss since the last line is not; to be called by all processes."""
        if self.meters.count:
            self.run.means(self.meters.means())

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; to be called by all processes."""
        parts = {_METERS: self.meters.saved(self.run.accelerator), _HEALTH: self.health.saved()}
        return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `saved`; names of others are passed over."""
        self.health.load(part_of(state, _HEALTH), main=self.run.main)
        self.meters.load(part_of(state, _METERS), self.run.accelerator.device)

    def close(self) -> None:
        """Writes what TensorBoard has not yet."""
        self._board.close()

    def _throughput(self, since: float, steps: int) -> float:
        return round(steps * self._seconds_per_step / max(1e-9, time.perf_counter() - since), 2)
