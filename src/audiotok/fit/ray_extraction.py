"""Frames extracted on a Ray cluster. Only those that the sample may keep travel back."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..cluster import on_cluster
from ..sources import Batch, Item, Source, with_lengths
from .features import Features
from .reading import Collected, Extracted, Piece, batches_of, pieces_of
from .sample import rows_to_offer

_WINDOW = 32  # batches for each actor that know no better than the sample did at their beginning


def extract_on_ray(source: Source, first: int, extractor: Features, seed: int, state: Collected) -> Iterator[Extracted]:
    """Frames of all items from number `first` on, in order. Errors as `cluster.on_cluster`."""
    elsewhere = copy.deepcopy(extractor)
    elsewhere.to("cpu")

    def tasks() -> Iterator[tuple[list[Item], Any]]:
        number = first
        for items in batches_of(with_lengths(source, _from(source, first))):
            limit = max(one.limit for one in (state.sample, state.held_out) if one is not None)
            yield items, ({item.id: number + i for i, item in enumerate(items)}, limit)
            number += len(items)

    yield from on_cluster(
        _Extraction(elsewhere, seed),
        source,
        tasks(),
        sample_rate=extractor.sample_rate,
        channels=extractor.channels,
        in_order=True,
        window=_WINDOW,
    )


def _from(source: Source, first: int) -> Iterator[Item]:
    return (item for number, item in enumerate(source.items()) if number >= first)


class _Extraction:
    def __init__(self, extractor: Features, seed: int) -> None:
        self.extractor, self.seed = extractor, seed

    def start(self, device: str) -> None:
        self.extractor.to(device)

    def __call__(self, batch: Batch, note: tuple[dict[str, int], float]) -> Extracted:
        numbers, limit = note
        pieces = []
        for item, row in zip(batch.items, batch.rows, strict=True):
            for piece in pieces_of(self.extractor, numbers[item.id], row):
                count = len(piece.frames)
                rows = rows_to_offer(self.seed, piece.item, piece.first, count, limit)
                frames = piece.frames.cpu()[rows]
                pieces.append(Piece(piece.item, piece.first, frames, rows.astype(np.int64), count))
        seconds = sum(row.shape[1] for row in batch.rows) / self.extractor.sample_rate
        return Extracted(len(numbers), seconds, batch.failures, pieces)
