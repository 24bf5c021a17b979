"""The audio that a training draws from: decoded once and kept as 16-bit samples where memory allows, else on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt
from torch import Tensor
from tqdm import tqdm

from ..errors import FitError
from ..sources import Batch, Failure, Item, Source, read_ahead, read_batch, with_lengths

Samples = npt.NDArray[np.float32]

MEMORY_BYTES = 2 << 30
_READ_TOGETHER = 16
_FEW = 64  # items that are not worth starting processes for
_FULL_SCALE = 32768


class Pool:
    """Items of a source, mono at one rate.

    Args:
        source: of the items.
        items: to draw from. Those that cannot be read are left out and listed in `failed`.
        sample_rate: in Hz.
        memory_bytes: most that decoded audio may take, two bytes a sample, clipped at ±1. Where all of it fits it is
            decoded once, now; otherwise it stays on disk, and what is asked for is read when it is.
        num_workers: processes that read.
        progress: whether to show a bar.

    Attributes:
        items: that can be used, with their lengths.
        lengths: of them, in samples.
        in_memory: whether all are.

    Raises:
        FitError: none can be used.
    """

    def __init__(
        self,
        source: Source,
        items: Sequence[Item],
        *,
        sample_rate: int,
        memory_bytes: int = MEMORY_BYTES,
        num_workers: int = 0,
        progress: bool = False,
    ) -> None:
        self.source, self.sample_rate, self.num_workers = source, sample_rate, num_workers
        self._failures: dict[str, str] = {}
        known = list(with_lengths(source, items))
        self.in_memory = sum(item.seconds for item in known) * sample_rate * 2 <= memory_bytes
        rows: dict[str, npt.NDArray[np.int16]] = {}
        lengths = {item.id: round(item.seconds * sample_rate) for item in known}
        # What stays on disk is only read where its header does not say how long it is.
        unread = known if self.in_memory else [item for item in known if not item.seconds]
        held = 0
        for batch in self._read(unread, progress):
            for item, row in zip(batch.items, batch.rows, strict=True):
                lengths[item.id] = row.shape[1]
                held += 2 * row.shape[1]
                if self.in_memory and held <= memory_bytes:
                    rows[item.id] = _packed(row)
                else:
                    self.in_memory = False
                    rows.clear()
            self._note(batch.failures)
        self._note([Failure(item, "InputError", "shorter than a sample") for item in known if not lengths[item.id]])
        self.items = [item for item in known if item.id not in self._failures]
        self.lengths = np.array([lengths[item.id] for item in self.items], dtype=np.int64)
        self._rows = [rows[item.id] for item in self.items] if self.in_memory else []
        if not self.items:
            reasons = "; ".join(self.failed[:3]) + ("; ..." if len(self.failed) > 3 else "")
            raise FitError(f"none of {len(items)} items of {source.label} can be used: {reasons}")

    @property
    def failed(self) -> list[str]:
        """Items that could not be used, and why, so far."""
        return [f"{name}: {reason}" for name, reason in self._failures.items()]

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return float(self.lengths.sum()) / self.sample_rate

    def piece(self, number: int, start: int, count: int) -> Item:
        """`count` samples of an item from `start`, as an item to be read."""
        item = self.items[number]
        if start == 0 and count == self.lengths[number]:
            return item
        first = (item.start or 0.0) + start / self.sample_rate
        return replace(item, start=first, end=first + count / self.sample_rate, stated=None)

    def read(self, number: int, start: int, count: int) -> Samples | None:
        """[count] samples of an item from `start`; None where they cannot be read, which `failed` then says."""
        if self.in_memory:
            return _unpacked(self._rows[number][start : start + count])
        batch = read_batch(self.source, [self.piece(number, start, count)], self.sample_rate, 1)
        self._note(batch.failures)
        return batch.rows[0][0].numpy() if batch.rows else None

    def read_many(self, wanted: Iterator[list[tuple[int, int, int]]]) -> Iterator[list[Samples | None]]:
        """`read` of each list of (number, start, count), in their order, by worker processes that read ahead."""
        asked: list[list[Item]] = []

        def batches() -> Iterator[list[Item]]:
            for one in wanted:
                asked.append([self.piece(*place) for place in one])
                yield asked[-1]

        for batch in read_ahead(
            self.source, batches(), sample_rate=self.sample_rate, channels=1, num_workers=self.num_workers
        ):
            self._note(batch.failures)
            bad = {(failure.item.id, failure.item.start) for failure in batch.failures}
            rows = iter(batch.rows)
            yield [None if (item.id, item.start) in bad else next(rows)[0].numpy() for item in asked.pop(0)]

    def _read(self, items: list[Item], progress: bool) -> Iterator[Batch]:
        batches = [items[first : first + _READ_TOGETHER] for first in range(0, len(items), _READ_TOGETHER)]
        workers = self.num_workers if len(items) > _FEW else 0
        bar = tqdm(total=len(items), desc="reading", unit="item", disable=not (progress and items))
        with bar:
            for batch in read_ahead(
                self.source, batches, sample_rate=self.sample_rate, channels=1, num_workers=workers
            ):
                bar.update(len(batch.items) + len(batch.failures))
                yield batch

    def _note(self, failures: list[Failure]) -> None:
        for failure in failures:
            self._failures.setdefault(failure.item.id, failure.reason)


def _packed(row: Tensor) -> npt.NDArray[np.int16]:
    """16-bit samples of row [1, T]."""
    scaled: Samples = np.rint(row[0].numpy() * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16, copy=False)


def _unpacked(row: npt.NDArray[np.int16]) -> Samples:
    return row.astype(np.float32) / np.float32(_FULL_SCALE)


def hold_out(items: Sequence[Item], seed: int, *, share: float = 0.02, most: int = 32) -> list[Item]:
    """A few of the items, drawn by the seed, not to be trained on; none of fewer than five."""
    count = 0 if len(items) < 5 else min(most, max(1, round(share * len(items))))
    order = np.random.default_rng([seed, 0]).permutation(len(items)).tolist()
    return [items[i] for i in order[:count]]


def spread(items: Sequence[Item], count: int, seed: int, *, column: str) -> list[Item]:
    """`count` of the items, drawn by the seed, as many of each value of a column as there are."""
    order = np.random.default_rng([seed, 2]).permutation(len(items)).tolist()
    groups: dict[object, list[Item]] = {}
    for i in order:
        groups.setdefault(items[i].columns.get(column), []).append(items[i])
    kinds = [groups[name] for name in sorted(groups, key=str)]
    turns = chain.from_iterable(
        (group[turn] for group in kinds if turn < len(group)) for turn in range(max(map(len, kinds), default=0))
    )
    return [item for item, _ in zip(turns, range(count), strict=False)]
