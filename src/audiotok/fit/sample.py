"""A uniform sample of a stream of frames, in bounded memory, that does not depend on the order of the stream."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError


class FrameSample:
    """Keeps `size` frames drawn uniformly without replacement from all frames seen.

    Each frame gets a random key from the seed, its file's number and its place in the file, and the frames with
    the smallest keys stay ("bottom-k sampling", Cohen and Kaplan 2007). Unlike Vitter's reservoir, the sample is
    the same in whatever order the files come.

    Args:
        size: frames to keep, at least 1.
        dim: D of a frame.
        seed: of the keys.

    Attributes:
        seen: frames offered.
        limit: frames with a key above it are not kept any more; it falls as frames are seen.

    Example:
        >>> sample = FrameSample(2, dim=1, seed=0)
        >>> sample.add(torch.arange(5.0)[:, None], file=0)
        >>> sample.seen, len(sample.frames())
        (5, 2)
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        if size < 1:
            raise InputError(f"a sample of {size} frames holds nothing: raise max_frames or max_bytes")
        self.size, self.seed, self.seen = size, seed, 0
        self._capacity = size + max(4096, size // 4)
        self._frames = np.empty((0, dim), np.float32)
        self._keys = np.empty(0)
        self._held = 0
        self.limit = 1.0  # no key above it can be among the smallest any more

    def add(
        self,
        frames: Tensor,
        *,
        file: int,
        first_frame: int = 0,
        rows: npt.NDArray[np.int64] | None = None,
        count: int | None = None,
    ) -> None:
        """Offers frames [N, D]: those from number `first_frame` on of file number `file`; or, of `count` frames from
        there, those that `rows_to_offer` named."""
        total = len(frames) if count is None else count
        keys = _keys(self.seed, file, first_frame, total)
        keys = keys if rows is None else keys[rows]
        self.seen += total
        chosen = np.flatnonzero(keys <= self.limit)
        found = frames.detach().float().cpu().numpy()
        for part in np.array_split(chosen, -(-len(chosen) // 4096) or 1):
            self._append(found[part], keys[part])

    def frames(self) -> Tensor:
        """[min(size, seen), D] float32, in the order of their keys."""
        self._cut()
        order = np.argsort(self._keys[: self._held], kind="stable")
        return torch.from_numpy(self._frames[: self._held][order])

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` of another sample of the same size, width and seed goes on from. It shares memory."""
        return {
            "frames": torch.from_numpy(self._frames[: self._held]),
            "keys": torch.from_numpy(self._keys[: self._held]),
            "seen": torch.tensor(self.seen),
            "limit": torch.tensor(self.limit, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up where the sample that gave `state` was."""
        self._frames, self._keys = state["frames"].numpy().copy(), state["keys"].numpy().copy()
        self._held, self.seen, self.limit = len(self._keys), int(state["seen"]), float(state["limit"])

    def _append(self, rows: npt.NDArray[np.float32], keys: npt.NDArray[np.float64]) -> None:
        if self._held + len(rows) > self._capacity:
            self._cut()
        needed = self._held + len(rows)
        if needed > len(self._keys):  # grows by doubling, up to the capacity
            length = min(self._capacity, max(needed, 2 * len(self._keys)))
            self._frames = np.resize(self._frames, (length, self._frames.shape[1]))
            self._keys = np.resize(self._keys, length)
        self._frames[self._held : needed], self._keys[self._held : needed] = rows, keys
        self._held = needed

    def _cut(self) -> None:
        """Keeps the `size` smallest keys."""
        if self._held <= self.size:
            return
        keep = np.argpartition(self._keys[: self._held], self.size - 1)[: self.size]
        self._frames[: self.size], self._keys[: self.size] = self._frames[keep], self._keys[keep]
        self._held, self.limit = self.size, float(self._keys[: self.size].max())


def rows_to_offer(seed: int, file: int, first_frame: int, count: int, limit: float) -> npt.NDArray[np.int64]:
    """Which of `count` frames of a file a sample may keep that has this seed and limit, or by now a lower one. Known
    elsewhere, so that only these need to travel."""
    return np.flatnonzero(_keys(seed, file, first_frame, count) <= limit)


def _keys(seed: int, file: int, first_frame: int, count: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng([seed, file]).random(first_frame + count)[first_frame:]
