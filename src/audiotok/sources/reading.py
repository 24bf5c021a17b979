"""Reading ahead: worker processes decode and resample batches of items while the caller works on the batch before."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import AudiotokError, InputError
from ..workers import live_with
from .base import Item, Source

_AHEAD = 2  # batches for each worker


@dataclass(frozen=True)
class Failure:
    """An item that could not be used, and why."""

    item: Item
    kind: str  # of error
    reason: str


@dataclass(frozen=True)
class Batch:
    """Items that were read, each row [C, T_i] with its item, and those that failed."""

    items: list[Item]
    rows: list[Tensor]
    failures: list[Failure]


def read_ahead(
    source: Source,
    batches: Iterable[Sequence[Item]],
    *,
    sample_rate: int,
    channels: int,
    num_workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """Reads batches in their order.

    Args:
        source: of the items.
        batches: taken as they are needed, two for each worker ahead.
        sample_rate: of the rows, in Hz.
        channels: of the rows.
        num_workers: processes that read; 0 reads in this one.
        pin: rows in page-locked memory, for a CUDA device.

    Raises:
        AudiotokError: a worker was killed.
    """
    if num_workers == 0:
        for items in batches:
            yield read_batch(source, items, sample_rate, channels)
        return
    loader: DataLoader[Any] = DataLoader(
        _Reader(source, sample_rate, channels),
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
    )
    try:
        for items, lengths, samples, failures in loader:
            wav = torch.from_numpy(samples)
            yield Batch(items, list(torch.split(wav.pin_memory() if pin else wav, lengths, 1)), failures)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise AudiotokError(
            f"a process that reads audio was killed, for lack of memory or by hand ({error}): run again to go on"
        ) from error


def read_batch(source: Source, items: Sequence[Item], sample_rate: int, channels: int) -> Batch:
    """Reads items in this process. One that cannot be read becomes a `Failure`."""
    batch = Batch([], [], [])
    for item in items:
        try:
            row = source.read(item, sample_rate, channels)
            if row.shape[1] == 0:
                raise InputError(f"{item.id} holds no samples")
        except (AudiotokError, OSError, MemoryError) as error:
            batch.failures.append(Failure(item, type(error).__name__, str(error)))
            continue
        batch.items.append(item)
        batch.rows.append(row)
    return batch


class _Reader(Dataset[Any]):
    """Rows of a batch of items, joined in one array. Arrays go through a pipe as fast as tensors through shared memory,
    of which containers have little: a worker that finds none left is never heard of again."""

    def __init__(self, source: Source, sample_rate: int, channels: int) -> None:
        self.source, self.sample_rate, self.channels = source, sample_rate, channels

    def __getitem__(
        self, items: Sequence[Item]
    ) -> tuple[list[Item], list[int], npt.NDArray[np.float32], list[Failure]]:
        batch = read_batch(self.source, items, self.sample_rate, self.channels)
        joined = torch.cat(batch.rows, 1) if batch.rows else torch.empty(self.channels, 0)
        return batch.items, [row.shape[1] for row in batch.rows], joined.numpy(), batch.failures


def _as_it_is(value: Any) -> Any:
    return value  # not as tensors, see _Reader


def _start_worker(_: int) -> None:
    live_with(os.getppid())
