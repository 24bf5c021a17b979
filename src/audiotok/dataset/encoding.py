"""Batches of items to codes: what an engine runs wherever the tokenizer is."""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import AudiotokError
from ..sources import Batch, Failure, Item, Source, read_ahead
from ..tokenizer import Tokenizer


@dataclass
class Encoded:
    """What became of a batch.

    Attributes:
        done: items with their codes, one row each, on the CPU.
        failures: items that could not be used.
        waiting: seconds spent waiting for the batch.
        computing: seconds spent on it.
        too_much: seconds of audio, padding included, that did not fit in memory together; 0 when all did.
    """

    done: list[tuple[Item, Codes]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    waiting: float = 0.0
    computing: float = 0.0
    too_much: float = 0.0


def encode_batches(
    tokenizer: Tokenizer, source: Source, batches: Iterable[Sequence[Item]], *, num_workers: int
) -> Generator[Encoded]:
    """Reads batches ahead and encodes them, in their order."""
    spec = tokenizer.spec
    read = read_ahead(
        source,
        batches,
        sample_rate=spec.sample_rate,
        channels=spec.channels,
        num_workers=num_workers,
        pin=tokenizer.device.type == "cuda" and num_workers > 0,
    )
    while True:
        started = time.perf_counter()
        batch = next(read, None)
        arrived = time.perf_counter()
        if batch is None:
            return
        encoded = encode_batch(tokenizer, batch)
        encoded.waiting, encoded.computing = arrived - started, time.perf_counter() - arrived
        yield encoded


def encode_batch(tokenizer: Tokenizer, batch: Batch) -> Encoded:
    """Codes of every item that can be encoded: when memory is short in halves, when a row is bad one by one."""
    encoded = Encoded(failures=list(batch.failures))
    left = [(batch.items, batch.rows)] if batch.rows else []
    while left:
        items, rows = left.pop()
        try:
            codes = [one.to("cpu") for one in tokenizer.encode_rows(rows)]
        except (AudiotokError, RuntimeError, MemoryError) as error:
            if "CUDA error" in str(error):
                raise  # nothing works on this device any more: the process must end
            short = _is_out_of_memory(error)
            if short:
                seconds = len(rows) * max(row.shape[1] for row in rows) / tokenizer.spec.sample_rate
                encoded.too_much = min(encoded.too_much or seconds, seconds)
            if len(rows) == 1:
                encoded.failures.append(_failure(items[0], rows[0], error, short, tokenizer))
            else:
                step = -(-len(rows) // 2) if short else 1
                left += [(items[i : i + step], rows[i : i + step]) for i in range(0, len(rows), step)]
            continue
        encoded.done += zip(items, codes, strict=True)
    return encoded


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in text


def _failure(item: Item, row: Tensor, error: Exception, short: bool, tokenizer: Tokenizer) -> Failure:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if short:
        seconds = row.shape[1] / tokenizer.spec.sample_rate
        reason = f"{seconds:.1f} s alone do not fit in memory: cut long recordings with max_seconds ({reason})"
    return Failure(item, type(error).__name__, reason)
