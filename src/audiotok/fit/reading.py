"""One pass over the audio: items to frames, frames to a sample that can be saved and taken up again."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from ..sources import Failure, Item, Source, read_ahead, with_lengths
from .checkpoint import Checkpoint
from .features import Features
from .sample import FrameSample
from .stream import Streams

HELD_OUT_EVERY = 20  # items, or frames when there are few items
HELD_OUT_FRAMES = 50_000
MANY_ITEMS = 20
_BATCH_SECONDS, _BATCH_ITEMS = 60.0, 32
_FACTS = ("seconds", "positions", "failed", "failures", "spent")  # of `Collected`, beside its samples
_SAVE_SECONDS, _SAVE_SHARE = 10.0, 0.05  # between two checkpoints, and the share of time that they may take


@dataclass(frozen=True)
class Pass:
    """A source, and which of its items are held out: by number, or all (None)."""

    source: Source
    num_items: int
    held: frozenset[int] | None


@dataclass(frozen=True)
class Piece:
    """Frames [N, D] of an item from number `first` on; or of `count` frames from there those in `rows`."""

    item: int
    first: int
    frames: Tensor
    rows: npt.NDArray[np.int64] | None = None
    count: int | None = None


@dataclass(frozen=True)
class Extracted:
    """Frames of consecutive items, to take once."""

    num_items: int  # with those that failed
    seconds: float
    failures: list[Failure]
    pieces: Iterable[Piece]


def passes_of(source: Source, held_out: Source | None, seed: int) -> list[Pass]:
    """The passes over the audio. One item in twenty is held out, unless there are few or a source of them is given."""
    count = sum(1 for _ in source.items())
    held: frozenset[int] = frozenset()
    if held_out is None and count >= MANY_ITEMS:
        order = np.random.default_rng(seed).permutation(count)
        held = frozenset(order[: round(count / HELD_OUT_EVERY)].tolist())
    passes = [Pass(source, count, held)]
    if held_out is not None:
        passes.append(Pass(held_out, sum(1 for _ in held_out.items()), None))
    return passes


def extract(source: Source, first: int, extractor: Features, num_workers: int) -> Iterator[Extracted]:
    """Frames of all items from number `first` on, in this process; other processes read ahead."""
    given: deque[tuple[int, list[Item]]] = deque()  # batches on their way, in order

    def batches() -> Iterator[list[Item]]:
        number = first
        for items in batches_of(with_lengths(source, islice(source.items(), first, None))):
            given.append((number, items))
            number += len(items)
            yield items

    rate = extractor.sample_rate
    loaded = read_ahead(source, batches(), sample_rate=rate, channels=extractor.channels, num_workers=num_workers)
    for batch in loaded:
        number, items = given.popleft()
        number_of = {item.id: number + i for i, item in enumerate(items)}
        rows = [(number_of[item.id], row) for item, row in zip(batch.items, batch.rows, strict=True)]
        yield Extracted(
            num_items=len(items),
            seconds=sum(row.shape[1] for row in batch.rows) / rate,
            failures=batch.failures,
            pieces=chain.from_iterable(pieces_of(extractor, number, row) for number, row in rows),
        )


def pieces_of(extractor: Features, number: int, row: Tensor) -> Iterator[Piece]:
    first = 0
    for frames in extractor.frames(row):
        yield Piece(number, first, frames)
        first += len(frames)


def batches_of(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items that follow one another, about a minute of them."""
    batch: list[Item] = []
    seconds = 0.0
    for item in items:
        if batch and (seconds + item.seconds > _BATCH_SECONDS or len(batch) == _BATCH_ITEMS):
            yield batch
            batch, seconds = [], 0.0
        batch.append(item)
        seconds += item.seconds
    if batch:
        yield batch


class Collected:
    """What the passes have gathered, and where they are.

    Args:
        sample: of the frames to fit on.
        held_out: of those to measure on; None where they are taken from the sample later.
        streams: k-means that learn every frame to fit on, as it comes; none where the sample is fitted on.
        by_frame: whether every twentieth frame is held out, and not items.
    """

    def __init__(
        self,
        sample: FrameSample,
        held_out: FrameSample | None,
        streams: Streams | None = None,
        *,
        by_frame: bool = False,
    ) -> None:
        self.sample, self.held_out, self.streams, self.by_frame = sample, held_out, streams, by_frame
        self.seconds = [0.0, 0.0]  # of audio, of each pass
        self.positions = [0, 0]  # items done
        self.failed = [0, 0]  # of them, that could not be read
        self.failures: list[dict[str, str]] = []
        self.spent = 0.0  # seconds of work

    def take(self, number: int, found: Extracted, which: Pass) -> None:
        """Adds what was extracted of pass `number`."""
        for piece in found.pieces:
            item, first, frames = piece.item, piece.first, piece.frames
            if piece.rows is not None:
                apart = which.held is None or item in which.held
                target = self.held_out if apart and self.held_out is not None else self.sample
                target.add(frames, file=item, first_frame=first, rows=piece.rows, count=piece.count)
            elif which.held is None or item in which.held:
                self._hold_out(frames, item, first)
            elif self.by_frame:
                held = torch.arange(first, first + len(frames)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
                held = held.to(frames.device)
                self._hold_out(frames[held], item, first // HELD_OUT_EVERY)
                self._offer(frames[~held], item, first - first // HELD_OUT_EVERY)
            else:
                self._offer(frames, item, first)
        self.seconds[number] += found.seconds
        self.positions[number] += found.num_items
        self.failed[number] += len(found.failures)
        self.failures += [{"id": one.item.id, "kind": one.kind, "reason": one.reason} for one in found.failures]

    def _hold_out(self, frames: Tensor, item: int, first: int) -> None:
        assert self.held_out is not None
        self.held_out.add(frames, file=item, first_frame=first)

    def _offer(self, frames: Tensor, item: int, first: int) -> None:
        self.sample.add(frames, file=item, first_frame=first)
        if self.streams is not None:
            self.streams.add(frames)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes it all down."""
        tensors = {f"sample.{name}": value for name, value in self.sample.state_dict().items()}
        if self.held_out is not None:
            tensors |= {f"held_out.{name}": value for name, value in self.held_out.state_dict().items()}
        if self.streams is not None:
            tensors |= {f"streams.{name}": value for name, value in self.streams.state_dict().items()}
        checkpoint.save_reading(tensors, {name: getattr(self, name) for name in _FACTS})

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes up what `save` wrote."""
        for part, target in (("sample.", self.sample), ("held_out.", self.held_out), ("streams.", self.streams)):
            if target is not None:
                target.load_state_dict(
                    {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
                )
        for name in _FACTS:
            setattr(self, name, facts[name])

    @property
    def frames_seen(self) -> int:
        """Frames that were offered, held-out ones included."""
        return self.sample.seen + (self.held_out.seen if self.held_out is not None else 0)


#: Gives the frames of all items of a source from a number on, in order, for what has been gathered so far.
Extract = Callable[[Source, int, Collected], Iterator[Extracted]]


def collect(
    passes: list[Pass],
    state: Collected,
    *,
    extract: Extract,
    checkpoint: Checkpoint | None,
    progress: bool,
) -> None:
    """Reads what is left of the passes into `state`, and saves it now and then and at the end."""
    saved = began = time.perf_counter()
    pause, before = _SAVE_SECONDS, state.spent
    total, done = sum(one.num_items for one in passes), sum(state.positions)
    if done == total:
        return
    with tqdm(total=total, initial=done, desc="reading", unit="item", disable=not progress) as bar:
        for number, one in enumerate(passes):
            for found in extract(one.source, state.positions[number], state):
                state.take(number, found, one)
                state.spent = before + time.perf_counter() - began
                bar.update(found.num_items)
                bar.set_postfix_str(f"{sum(state.seconds) / 3600:.3g} h")
                if checkpoint is not None and time.perf_counter() - saved >= pause:
                    start = time.perf_counter()
                    state.save(checkpoint)
                    saved = time.perf_counter()
                    pause = max(_SAVE_SECONDS, (saved - start) / _SAVE_SHARE)
    if checkpoint is not None:
        state.save(checkpoint)
