"""K-means over a stream: one pass, bounded memory, any order of the rows, and it can be stopped and taken up again."""

import torch
from torch import Tensor

from ..errors import FitError, InputError
from .lloyd import kmeans
from .nearest import SearchTable, nearest
from .rows import add_by_cluster

_START_ROWS = 16  # per centroid, before there are centroids
_LEAST_USED = 0.01  # of the mean number of rows; a centroid with fewer is given a row of the batch
_SWAP_ROUNDS = 6


class MiniBatchKMeans:
    """Centroids of rows that come a few at a time and are never held together.

    Every row moves its nearest centroid towards it, by one over the rows that this centroid has had (Sculley 2010,
    "Web-scale k-means clustering", in whole batches); one that has had almost none is put on a far row. That follows
    the order of the rows: what comes first is learned first, and a corpus comes sorted by speaker. So a uniform sample
    of all rows so far is kept beside (Vitter 1985, algorithm R), and `centroids` ends with Lloyd steps and swaps
    (`split_merge`) on it.

    What it gives depends on the rows, their order and the seed, and not on how they were cut into calls of `add`.

    Args:
        k: number of centroids.
        dim: D of a row.
        seed: of all draws.
        cosine: compare directions only (spherical k-means).
        batch_rows: rows of an update; default 8 per centroid, and at least 4096.
        sample_rows: rows of the sample, 4·D bytes each, at least k; default 256 per centroid.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> stream = MiniBatchKMeans(2, dim=1)
        >>> for row in (0.0, 9.0, 0.2, 9.2):
        ...     stream.add(torch.tensor([[row]]))
        >>> [round(value, 2) for value in sorted(stream.centroids()[:, 0].tolist())]
        [0.1, 9.1]
    """

    def __init__(
        self,
        k: int,
        dim: int,
        *,
        seed: int = 0,
        cosine: bool = False,
        batch_rows: int | None = None,
        sample_rows: int | None = None,
    ) -> None:
        self.batch_rows = max(8 * k, 4096) if batch_rows is None else batch_rows
        self.sample_rows = 256 * k if sample_rows is None else sample_rows
        if k < 1 or dim < 1 or self.batch_rows < 1 or self.sample_rows < k:
            raise InputError(
                "k, dim and batch_rows must be at least 1, and sample_rows at least k: "
                f"{k}, {dim}, {self.batch_rows}, {self.sample_rows}"
            )
        self.k, self.dim, self.seed, self.cosine = k, dim, seed, cosine
        self._generator = torch.Generator().manual_seed(seed)
        self._learned = 0  # rows, in whole batches
        self._waiting = torch.empty(0, dim)  # rows that do not fill a batch yet
        self._sample = torch.empty(self.sample_rows, dim)  # its first `_learned` rows, if there are not more yet
        self._means = torch.empty(0, dim, dtype=torch.float64)
        self._counts = torch.empty(0, dtype=torch.float64)

    @property
    def seen(self) -> int:
        """Rows added so far."""
        return self._learned + len(self._waiting)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Learns rows [N, D] of any float type, on any one device; N may be anything.

        Raises:
            InputError: the shape or type is another one. FitError: a value is NaN or infinite; none of these rows
                was learned.
        """
        if rows.dim() != 2 or rows.shape[1] != self.dim or not torch.is_floating_point(rows):
            raise InputError(f"wanted floating point rows [N, {self.dim}], not {list(rows.shape)} of {rows.dtype}")
        if not bool(torch.isfinite(rows).all()):
            raise FitError("the rows hold NaN or infinite values: drop those frames before fitting")
        self._to(rows.device)
        missing = self.batch_rows - len(self._waiting)
        while len(rows) >= missing:
            self._learn(self._given(torch.cat([self._waiting, rows[:missing].float()])))
            self._waiting, rows = self._waiting[:0], rows[missing:]
            missing = self.batch_rows
        self._waiting = torch.cat([self._waiting, rows.float()])

    @torch.no_grad()
    def centroids(self, iterations: int = 8) -> Tensor:
        """[k, D] float32 centroids of all rows so far; more rows can be added afterwards.

        Args:
            iterations: Lloyd steps on the sample, at least 1.

        Raises:
            FitError: fewer rows than centroids so far.
        """
        sample = self._sample
        if len(self._waiting):
            last = torch.Generator()
            last.set_state(self._generator.get_state())
            sample = sample.clone()
            self._put(sample, self._given(self._waiting), last)
        sample = sample[: self.seen]
        return kmeans(
            sample,
            self.k,
            iterations=iterations,
            init=self._means.float() if len(self._means) else "k-means++",
            seed=self.seed,
            cosine=self.cosine,
            rows_per_centroid=None,
            swap_rounds=_SWAP_ROUNDS,
        ).centroids

    def state_dict(self) -> dict[str, Tensor]:
        """All that it has learned, as plain tensors: loaded into another one with the same arguments, it goes on as
        this one would, bit for bit."""
        return {
            "learned": torch.tensor(self._learned),
            "generator": self._generator.get_state(),
            "waiting": self._waiting.clone(),
            "sample": self._sample[: self._learned].clone(),
            "means": self._means.clone(),
            "counts": self._counts.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up what `state_dict` gave.

        Raises:
            InputError: it is of other sizes.
        """
        sizes = {"waiting": self.batch_rows, "sample": self.sample_rows, "means": self.k, "counts": self.k}
        missing = {"learned", "generator", *sizes} - set(state)
        if missing:
            raise InputError(f"the state lacks {sorted(missing)}")
        for name, most in sizes.items():
            shape = list(state[name].shape)
            if shape[0] > most or shape[1:] != ([] if name == "counts" else [self.dim]):
                raise InputError(f"the state's {name} are {shape}: made with another k, dim, batch_rows or sample_rows")
        self._learned = int(state["learned"])
        self._generator.set_state(state["generator"].cpu())
        self._to(state["sample"].device)
        self._waiting = state["waiting"].clone()
        self._sample[: len(state["sample"])] = state["sample"]
        self._means, self._counts = state["means"].clone(), state["counts"].clone()

    def _given(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows, dim=1) if self.cosine else rows

    def _to(self, device: torch.device) -> None:
        self._waiting, self._sample = self._waiting.to(device), self._sample.to(device)
        self._means, self._counts = self._means.to(device), self._counts.to(device)

    def _learn(self, batch: Tensor) -> None:
        self._put(self._sample, batch, self._generator)
        self._learned += len(batch)
        if len(self._means):
            self._move(batch)
        elif self._learned >= min(_START_ROWS * self.k, self.sample_rows):
            sample = self._sample[: self._learned]
            start = kmeans(sample, self.k, iterations=1, seed=self.seed, cosine=self.cosine, rows_per_centroid=None)
            self._means, self._counts = start.centroids.double(), start.counts.double()

    def _move(self, batch: Tensor) -> None:
        found = nearest(batch, SearchTable.of(self._means))
        sums = torch.zeros_like(self._means)
        add_by_cluster(sums, batch, found)
        counts = torch.bincount(found, minlength=self.k).double()
        self._counts += counts
        self._means += (sums - counts[:, None] * self._means) / self._counts.clamp(min=1)[:, None]
        if self.cosine:
            self._means = torch.nn.functional.normalize(self._means, dim=1)
        idle = (self._counts < _LEAST_USED * self._counts.mean()).nonzero()[:, 0][: len(batch)]
        if len(idle):
            error = (batch - self._means[found].float()).square().sum(1)
            race = torch.empty(len(batch), dtype=torch.float64).exponential_(generator=self._generator).to(error)
            self._means[idle] = batch[(error / race.clamp(min=1e-30)).topk(len(idle)).indices].double()
            self._counts[idle] = 1.0

    def _put(self, sample: Tensor, rows: Tensor, generator: torch.Generator) -> None:
        """Row number t goes to a place drawn from 0..t, if the sample has such a place; the first ones in order."""
        number = torch.arange(self._learned, self._learned + len(rows))
        drawn = (torch.rand(len(rows), dtype=torch.float64, generator=generator) * (number + 1)).long()
        place = torch.where(number < len(sample), number, drawn)
        kept = (place < len(sample)).nonzero()[:, 0]
        last = torch.full((len(sample),), -1).scatter_reduce_(0, place[kept], kept, "amax")  # two may draw one place
        places = (last >= 0).nonzero()[:, 0]
        sample[places.to(sample.device)] = rows[last[places].to(rows.device)]
