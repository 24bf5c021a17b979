"""Which items share a batch, and in which order batches come."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, islice

from ..errors import InputError
from ..sources import Item
from ..spec import Spec

_UNKNOWN_SECONDS = 30.0  # what an item whose length nobody knows counts for in a batch


class Budget:
    """How many seconds of audio a batch may hold, padding included. It only ever shrinks.

    Args:
        seconds: in a batch.
        rows: in a batch, at most.
    """

    def __init__(self, seconds: float, rows: int = 256) -> None:
        if not (seconds > 0 and math.isfinite(seconds)):
            raise InputError(f"batch_seconds must be above 0, not {seconds}")
        self.seconds, self.rows = seconds, rows

    def halve(self, used: float) -> None:
        """After a batch of `used` seconds did not fit in memory."""
        self.seconds = min(self.seconds, used / 2)


def split(items: Iterable[Item], max_seconds: float | None, spec: Spec) -> Iterator[Item]:
    """Items, long ones cut into pieces of at most `max_seconds`, each a whole number of token frames but the last.

    Piece i of an item ID is called ID#i. An item whose length is not known stays whole.

    Raises:
        InputError: `max_seconds` holds no frame.
    """
    if max_seconds is None:
        yield from items
        return
    frames = math.floor(max_seconds * spec.frame_rate * (1 + 1e-12))
    if frames < 1:
        raise InputError(f"max_seconds must hold a frame of {spec.name}, {1 / spec.frame_rate:g} s, not {max_seconds}")
    step = frames * spec.hop_length / spec.sample_rate
    for item in items:
        count = math.ceil(item.seconds / step - 1e-6)
        if item.seconds <= max_seconds or count < 2:
            yield item
            continue
        first = item.start or 0.0
        for i in range(count):
            end = item.end if i == count - 1 else first + (i + 1) * step
            yield replace(
                item,
                id=f"{item.id}#{i:0{len(str(count - 1))}d}",
                start=first + i * step,
                end=end,
                seconds=min(step, item.seconds - i * step),
                stated=None,
            )


def batched(rows: Iterable[tuple[int, float, int | None]], budget: Budget) -> Iterator[tuple[int | None, list[int]]]:
    """(block, numbers) of batches within the budget, from (number, seconds, block) in their order."""
    batch: list[int] = []
    longest, current = 0.0, None
    for number, seconds, block in rows:
        cost = seconds or _UNKNOWN_SECONDS
        full = (len(batch) + 1) * max(longest, cost) > budget.seconds or len(batch) == budget.rows
        if batch and (full or block != current):
            yield current, batch
            batch, longest = [], 0.0
        batch.append(number)
        longest, current = max(longest, cost), block
    if batch:
        yield current, batch


def side_by_side(batches: Iterator[tuple[int | None, list[int]]], lanes: int) -> Iterator[list[int]]:
    """Batches such that `lanes` workers which take one each in turn read a block each."""
    waiting = _blocks(batches)
    open_blocks = deque(islice(waiting, max(1, lanes)))
    while open_blocks:
        block = open_blocks.popleft()
        yield block.popleft()
        block = block or next(waiting, block)
        if block:
            open_blocks.append(block)


def _blocks(batches: Iterator[tuple[int | None, list[int]]]) -> Iterator[deque[list[int]]]:
    """The batches of each block; one that lies anywhere is a block of its own."""
    for block, some in groupby(batches, key=lambda pair: pair[0]):
        if block is not None:
            yield deque(numbers for _, numbers in some)
        else:
            yield from (deque([numbers]) for _, numbers in some)
