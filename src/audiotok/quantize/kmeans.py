"""K-means as a quantizer: centroids that were fitted once and do not change; residual for several codebooks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import FitError, InputError
from .base import check_vectors, to_rows
from .lloyd import KMeansFit, kmeans
from .nearest import SearchTable, nearest
from .options import VQOptions
from .rvq import ResidualVQ


class KMeansQuantizer(ResidualVQ):
    """Frozen centroids: one codebook, or several of which each quantizes the residual of those before it.

    Args:
        centroids: [V, D], or a list of [V_i, D], one per stage.
        lookup: "euclidean" or "cosine".

    Raises:
        InputError: the centroids are not such tables.

    Example:
        >>> quantizer = KMeansQuantizer(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).eval()
        >>> quantizer.encode(torch.tensor([[[0.1, 0.9], [0.2, 0.8]]]))
        tensor([[[0, 1]]])
    """

    def __init__(self, centroids: Tensor | Sequence[Tensor], *, lookup: str = "euclidean") -> None:
        tables = [centroids] if isinstance(centroids, Tensor) else list(centroids)
        if not tables or any(t.dim() != 2 or t.shape[1] != tables[0].shape[1] or not len(t) for t in tables):
            shapes = [list(table.shape) for table in tables]
            raise InputError(f"centroids must be [V, D] tables of one width D, not {shapes}")
        if lookup not in ("euclidean", "cosine"):
            raise InputError(f'lookup must be "euclidean" or "cosine", not {lookup!r}')
        options = VQOptions(lookup="cosine" if lookup == "cosine" else "euclidean", update="frozen")
        sizes = [len(table) for table in tables]
        super().__init__(tables[0].shape[1], sizes, len(tables), options=options)
        with torch.no_grad():
            for entries, table in zip(self.codebooks, tables, strict=True):
                entries.copy_(table)

    @torch.no_grad()
    def near_ties(self, x: Tensor, unit_roundoff: float) -> Tensor:
        """Frames whose code of the first codebook hangs on the precision of x.

        With the two nearest centroids c and c', x is a near tie when |x − c'|² − |x − c|² <= 2 u |x| |c − c'|: an
        error of one unit roundoff u in x, relative to its length, could then change the code.

        Args:
            x: [B, D, F].
            unit_roundoff: of the arithmetic that made x: 2^-24 for float32, 2^-11 for float16, 2^-8 for bfloat16.

        Returns:
            [B, F] bool.
        """
        check_vectors(x, self.dim)
        table = self.codebooks[0].float()
        if len(table) < 2:
            return torch.zeros(len(x), x.shape[2], dtype=torch.bool, device=x.device)
        half_norms = table.square().sum(1) / 2
        found = []
        for rows in torch.split(to_rows(x.float()), 4096):
            best, index = torch.addmm(half_norms, rows, table.t(), beta=-1).topk(2, dim=1)
            apart = (table[index[:, 0]] - table[index[:, 1]]).norm(dim=1)
            found.append(best[:, 0] - best[:, 1] <= unit_roundoff * rows.norm(dim=1) * apart)
        return torch.cat(found).view(len(x), x.shape[2])

    @classmethod
    def fit(
        cls,
        x: Tensor,
        k: int,
        num_codebooks: int = 1,
        *,
        iterations: int = 5,
        init: str = "k-means++",
        seed: int = 0,
        cosine: bool = False,
        rows_per_centroid: int = 256,
        max_bytes: int | None = None,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> "KMeansQuantizer":
        """Fits the centroids to rows: residual k-means, one codebook after the other.

        Args:
            x: [N, D] rows of any float type, on any device.
            k: V, centroids of each codebook.
            num_codebooks: K.
            iterations: Lloyd steps per codebook.
            init: "k-means++" or "random".
            seed: of all draws.
            cosine: compare directions only, for one codebook (a residual has no direction to compare).
            rows_per_centroid: at most this many rows per centroid are used, the same ones for all codebooks.
            max_bytes: largest score matrix to hold.
            progress: called after each step with the codebook, the steps done and the distortion.

        Returns:
            The quantizer, on the device of x.

        Raises:
            FitError: there are fewer rows than centroids, or a value is NaN or infinite.
            InputError: an argument is out of range.

        Example:
            >>> rows = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
            >>> quantizer = KMeansQuantizer.fit(rows, 2, num_codebooks=2)
            >>> round(float((quantizer.decode(quantizer.encode(rows.T[None]))[0].T - rows).abs().max()), 6)
            0.0
        """
        if num_codebooks < 1 or rows_per_centroid < 1:
            raise InputError(
                f"num_codebooks and rows_per_centroid must be at least 1: {num_codebooks}, {rows_per_centroid}"
            )
        if cosine and num_codebooks > 1:
            raise InputError("cosine k-means has one codebook: its centroids keep no length to take a residual from")
        residual = _sample_rows(x, k * rows_per_centroid, seed).float()
        tables: list[Tensor] = []
        for stage in range(num_codebooks):
            fit = kmeans(
                residual,
                k,
                iterations=iterations,
                init=init,
                seed=seed + stage,
                cosine=cosine,
                rows_per_centroid=None,
                max_bytes=max_bytes,
                progress=None if progress is None else _for_stage(progress, stage),
            )
            _check_finite(fit)
            tables.append(fit.centroids)
            if stage + 1 < num_codebooks:
                found = nearest(residual, SearchTable.of(fit.centroids), max_bytes=max_bytes)
                residual = residual - fit.centroids[found]
        return cls(tables, lookup="cosine" if cosine else "euclidean").to(x.device)


def _for_stage(progress: Callable[[int, int, float], None], stage: int) -> Callable[[int, float], None]:
    return lambda step, distortion: progress(stage, step, distortion)


def _check_finite(fit: KMeansFit) -> None:
    if not bool(torch.isfinite(fit.centroids).all()):
        raise FitError("the centroids overflowed float32: scale the features down")


def _sample_rows(x: Tensor, count: int, seed: int) -> Tensor:
    if x.dim() != 2 or len(x) <= count:
        return x
    picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return x[picked.to(x.device)]
