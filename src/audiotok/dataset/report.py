"""What a run says of itself, while it goes and at its end."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from .encoding import Encoded


@dataclass(frozen=True)
class TokenizeReport:
    """Figures of a run of `tokenize_dataset`, and of the folder it wrote to.

    Attributes:
        items, failed: of the source: all of them, and those that could not be tokenized (see errors.jsonl).
        done_before: items that earlier runs had done.
        hours: of audio tokenized by this run.
        seconds: that this run took.
        hours_per_hour: of audio tokenized, per hour that went by (how many times real time).
        share_waiting: of the time that the tokenizer waited for audio; the rest it computed.
        rows, frames, shards: in the folder.
        finished: whether nothing is left to do.
    """

    items: int
    failed: int
    done_before: int
    hours: float
    seconds: float
    hours_per_hour: float
    share_waiting: float
    rows: int
    frames: int
    shards: int
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Meter:
    """Counts what was done, and shows it as a bar of hours.

    Args:
        seconds_todo: of audio, as far as it is known.
        show: whether to show the bar.
    """

    def __init__(self, seconds_todo: float, show: bool) -> None:
        self.started = time.perf_counter()
        self.audio_seconds = self.waiting = self.computing = 0.0
        self.failed = 0
        form = "{l_bar}{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}{postfix}]"
        self._hours = seconds_todo / 3600  # from headers and manifests: what is read may be a little longer
        self._bar = tqdm(total=self._hours, desc="tokenizing", bar_format=form, disable=not show)

    def add(self, encoded: Encoded) -> None:
        """Counts a batch."""
        seconds = sum(int(codes.num_samples[0]) / codes.spec.sample_rate for _, codes in encoded.done)
        self.audio_seconds += seconds
        self.waiting += encoded.waiting
        self.computing += encoded.computing
        self.failed += len(encoded.failures)
        self._bar.set_postfix_str(
            f"{self.hours_per_hour:.0f} h/h, waiting {self.share_waiting:.0%}, {self.failed} failed", refresh=False
        )
        self._bar.update(min(seconds / 3600, max(0.0, self._hours - self._bar.n)))

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self.started

    @property
    def hours_per_hour(self) -> float:
        """Audio per time."""
        return self.audio_seconds / self.seconds

    @property
    def share_waiting(self) -> float:
        """Of the tokenizer's time."""
        return self.waiting / ((self.waiting + self.computing) or 1.0)
