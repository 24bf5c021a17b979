"""Rows as k-means sees them, made chunk by chunk, so that no second copy of all rows is ever held."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import FitError

_CPU_BYTES = 16 << 20
_GPU_BYTES = 512 << 20
_FAR = 1.2  # squared length of the mean over the variance, from which rows are centred


class Rows:
    """Rows [N, D] of any float type, given out as float32 in pieces: centred where that pays, or of unit length.

    Distances do not change when the same vector is taken from rows and centroids, but rounding errors shrink with the
    norms: far from the origin the mean of many rows, and the distance to it, would drown in them, and the search
    would have to look twice at more rows. So rows are centred where their mean is longer than they are spread.

    Args:
        x: [N, D]; it is not copied and not changed.
        cosine: give rows of unit length, and do not centre them.
        centre: whether to centre rows where that pays.

    Attributes:
        centred: whether they are.
        shift: [D], what is taken from each row; zero where they are not centred.
        energy: sum of squares of the rows as given out, float64.

    Raises:
        FitError: a value is NaN or infinite.

    Example:
        >>> rows = Rows(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> rows.shift.tolist(), float(rows.energy), [piece.tolist() for piece in rows.pieces()]
        ([2.0, 5.0], 2.0, [[[-1.0, 0.0], [1.0, 0.0]]])
    """

    def __init__(self, x: Tensor, cosine: bool = False, centre: bool = True) -> None:
        self.x, self.cosine = x, cosine
        width = x.shape[1]
        budget = _CPU_BYTES if x.device.type == "cpu" else _GPU_BYTES
        self.chunk = max(1, budget // (4 * max(1, width)))
        self.centred, self.shift = False, torch.zeros(width, device=x.device)
        total = torch.zeros(width, dtype=torch.float64, device=x.device)
        self.energy = torch.zeros((), dtype=torch.float64, device=x.device)
        finite = torch.ones((), dtype=torch.bool, device=x.device)
        for raw, piece in zip(torch.split(x, self.chunk), self.pieces(), strict=True):
            finite &= torch.isfinite(raw).all()
            total += piece.sum(0, dtype=torch.float64)
            self.energy += piece.square().sum(dtype=torch.float64)
        if not bool(finite):
            raise FitError("the rows hold NaN or infinite values: drop those frames before fitting")
        mean = total / max(1, len(x))
        far = len(x) * float(mean.square().sum())
        if centre and not cosine and far > _FAR * (float(self.energy) - far):
            self.centred, self.shift = True, mean.float()
            self.energy = sum((piece.square().sum(dtype=torch.float64) for piece in self.pieces()), 0 * self.energy)

    def __len__(self) -> int:
        return len(self.x)

    def pieces(self) -> Iterator[Tensor]:
        """All rows in order, [n, D] float32 at a time."""
        return map(self._given, torch.split(self.x, self.chunk))

    def take(self, index: Tensor) -> Tensor:
        """The rows of these numbers, [n, D] float32."""
        return self._given(self.x[index])

    def _given(self, x: Tensor) -> Tensor:
        if self.cosine:
            return torch.nn.functional.normalize(x.float(), dim=1)
        return x.float() - self.shift if self.centred else x.float()


def add_by_cluster(total: Tensor, piece: Tensor, index: Tensor) -> None:
    """Adds the rows of piece [n, D] to the rows `index` [n] of total [k, D] float64, in the same order every time.

    Float32 sums are kept short, and float64 takes them up. On CUDA `index_add_` would add in whatever order its
    threads come; there the rows are sorted by cluster, and each is summed by one thread per column.
    """
    size = len(total)
    if piece.device.type == "cuda":
        total += sorted_sums(piece, index, size)
        return
    part = torch.empty(size, piece.shape[1], device=piece.device)
    rows = max(4096, 4 * size)  # short enough for float32, long enough that the [k, D] additions cost little
    for some, where in zip(torch.split(piece, rows), torch.split(index, rows), strict=True):
        total += part.zero_().index_add_(0, where, some)


def sorted_sums(piece: Tensor, index: Tensor, size: int) -> Tensor:
    """[k, D] sums of the rows of piece [n, D] by `index` [n], by way of sorting."""
    order = torch.sort(index, stable=True).indices
    lengths = count_of(index, size)
    return torch.segment_reduce(piece[order], "sum", lengths=lengths, axis=0, unsafe=True, initial=0)


def count_of(index: Tensor, size: int) -> Tensor:
    """[size] int64, how often each number occurs: `torch.bincount`, which on CUDA would wait for the device."""
    return torch.zeros(size, dtype=torch.int64, device=index.device).scatter_add_(0, index, torch.ones_like(index))
