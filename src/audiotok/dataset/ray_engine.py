"""The engine beyond one machine."""

import copy
import time
from collections.abc import Generator, Iterator

from ..cluster import on_cluster
from ..sources import Batch, Item, Source
from ..tokenizer import Tokenizer
from .encoding import Encoded, encode_batch


def encode_on_ray(tokenizer: Tokenizer, source: Source, batches: Iterator[list[Item]]) -> Generator[Encoded]:
    """Encodes batches on a Ray cluster, in whatever order it finishes them. Errors as `cluster.on_cluster`."""
    spec = tokenizer.spec
    work = _Encoding(copy.deepcopy(tokenizer).to("cpu"))
    tasks = ((items, None) for items in batches)
    return on_cluster(work, source, tasks, sample_rate=spec.sample_rate, channels=spec.channels)


class _Encoding:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.ended = tokenizer, 0.0

    def start(self, device: str) -> None:
        self.tokenizer.to(device)
        self.ended = time.perf_counter()

    def __call__(self, batch: Batch, note: None) -> Encoded:
        started = time.perf_counter()
        encoded = encode_batch(self.tokenizer, batch)
        encoded.waiting, self.ended = started - self.ended, time.perf_counter()
        encoded.computing = self.ended - started
        return encoded
