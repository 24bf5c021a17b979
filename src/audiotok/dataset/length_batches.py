"""Batches of rows of like length, so that little of a batch is padding."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from ..errors import InputError


class LengthBatchSampler(Sampler[list[int]]):
    """Numbers of rows in batches of like length: the `batch_sampler` of a DataLoader.

    Rows are sorted by length, those of equal length in random order, and cut into batches of at most `max_frames`
    frames, padding included; then the batches are shuffled. Every row comes once in an epoch, and every epoch has the
    same number of batches. A row longer than `max_frames` is a batch of its own.

    Args:
        lengths: F of every row, such as `CodesDataset.lengths`.
        max_frames: rows of a batch times the longest of them.
        shuffle: False gives the same batches every time, short rows first.
        seed: of the order, together with the epoch; the same in all processes.
        rank: of this process, where several train together.
        world_size: their number. Each gets as many batches; for that, up to world_size - 1 come twice.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> sampler = LengthBatchSampler([5, 1, 4, 2], max_frames=8, shuffle=False)
        >>> list(sampler), len(sampler)
        ([[1, 3], [2], [0]], 3)
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        max_frames: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if max_frames < 1 or not 0 <= rank < world_size:
            raise InputError(
                f"wanted max_frames of at least 1 and 0 <= rank < world_size, not {max_frames}, {rank} and {world_size}"
            )
        self.shuffle, self.seed, self.rank, self.world_size, self.epoch = shuffle, seed, rank, world_size, 0
        self._lengths = np.asarray(lengths)
        self._ends = _ends(np.sort(self._lengths), max_frames)

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch; the same epoch gives the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return -(-len(self._ends) // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        count = len(self._lengths)
        rows = random.permutation(count) if self.shuffle else np.arange(count)
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        order = random.permutation(len(self._ends)) if self.shuffle else np.arange(len(self._ends))
        for batch in np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]:
            start = self._ends[batch - 1] if batch else 0
            yield rows[start : self._ends[batch]].tolist()


def _ends(ordered: npt.NDArray[np.integer], max_frames: int) -> npt.NDArray[np.int64]:
    """Where each batch of rows of rising length ends."""
    ends, start = [], 0
    for i, length in enumerate(ordered.tolist()):
        if i > start and (i + 1 - start) * length > max_frames:
            ends.append(i)
            start = i
    return np.asarray([*ends, len(ordered)] if len(ordered) else [], np.int64)
