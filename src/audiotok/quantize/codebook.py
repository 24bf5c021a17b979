"""A table of entries that learns: by moving averages, by gradient, or not at all."""

from typing import Any

import torch
from torch import Tensor, nn

from .base import Memo, check_positive, widen
from .distributed import from_first_rank, pool_rows, rank, sum_over_ranks
from .lloyd import kmeans
from .nearest import SearchTable, nearest
from .options import VQOptions

_POOL_PER_ENTRY, _LEAST_POOL = 32, 4096  # rows for the k-means start


class Codebook(nn.Module):
    """V entries of D values: looked up, and kept up to date while training.

    update="ema" moves each entry to the moving average of the vectors that chose it (van den Oord et al.
    2017, arXiv 1711.00937, appendix A.1; SoundStream, arXiv 2107.03312):

        n ← γ n + (1 − γ) Σ 1,   s ← γ s + (1 − γ) Σ x,   entry = s / n′,   n′ = (n + ε) / (Σ n + V ε) · Σ n.

    "gradient" makes the entries a parameter for the optimizer; "frozen" leaves them alone. lookup="cosine"
    compares directions only: with "ema" vectors and entries have unit length (Yu et al. 2021, "Improved
    VQGAN", arXiv 2110.04627), otherwise the entries keep their length and only the search is normalised (DAC,
    arXiv 2306.06546).

    An entry chosen less often than `revive_below` times the mean is replaced, every `revive_every` steps, by
    a random vector of the batch (Dhariwal et al. 2020, Jukebox, arXiv 2005.00341; there the bound is
    absolute, here it does not depend on the batch size).

    Under `torch.distributed` statistics are summed over the ranks and new entries drawn from the vectors of
    all of them, so all ranks hold the same table. The collective calls of a step depend on the arguments and
    on the number of steps done, never on the data.

    Args:
        size: V.
        dim: D.
        options: how it looks up and learns.
        seed: of the first entries and of every draw.

    Raises:
        InputError: size or dim is not above zero.

    Example:
        >>> book = Codebook(2, 1, VQOptions(update="frozen"))
        >>> _ = book.entries.copy_(torch.tensor([[0.0], [1.0]]))
        >>> book.search(torch.tensor([[0.2], [0.9]]))
        tensor([0, 1])
    """

    entries: Tensor
    uses: Tensor  # [V] moving average of the number of vectors per step that chose each entry
    sums: Tensor  # [V, D] moving average of their sums; empty but for "ema"
    started: Tensor  # bool: k-means has been done, or was not asked for
    steps: Tensor  # int64: training steps seen

    def __init__(self, size: int, dim: int, options: VQOptions | None = None, *, seed: int = 0) -> None:
        super().__init__()
        check_positive(size=size, dim=dim)
        self.options = options = options or VQOptions()
        self.seed = seed
        entries = torch.empty(size, dim)
        if not entries.is_meta:  # drawing there would import all of torch.compile, and `load` builds there first
            entries.normal_(std=dim**-0.5, generator=torch.Generator().manual_seed(seed))
        if options.lookup == "cosine":
            entries = nn.functional.normalize(entries, dim=1)
        if options.update == "gradient":
            self.entries = nn.Parameter(entries)
        else:
            self.register_buffer("entries", entries)
        learns = options.update != "frozen"  # only then is there a state of training to save
        sums = entries.clone() if options.update == "ema" else torch.zeros(0, dim)
        self.register_buffer("uses", torch.ones(size), persistent=learns)
        self.register_buffer("sums", sums, persistent=learns)
        self.register_buffer("started", torch.tensor(not options.kmeans_init or not learns), persistent=learns)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=learns)
        self._step: int | None = None  # `steps` and `started`, without asking the device each time
        self._waiting: bool | None = None
        self._table: Memo[SearchTable] = Memo()

    @property
    def table(self) -> SearchTable:
        """The entries made ready for `nearest`; made again only when they have changed."""
        return self._table.get([self.entries], self._make_table)

    def _make_table(self) -> SearchTable:
        with torch.no_grad():
            entries = widen(self.entries)
            return SearchTable.of(
                nn.functional.normalize(entries, dim=1) if self.options.lookup == "cosine" else entries
            )

    def prepare(self, rows: Tensor) -> Tensor:
        """Rows [N, D] in the space of the entries: of unit length if these are, else as they are."""
        return nn.functional.normalize(widen(rows), dim=1).float() if self.options.spherical else rows

    def search(self, rows: Tensor) -> Tensor:
        """Index [N] int64 of the entry nearest to each of the rows [N, D]; the lowest on a tie."""
        with torch.no_grad():
            if self.options.lookup == "cosine":
                rows = nn.functional.normalize(widen(rows), dim=1)
            return nearest(rows, self.table)

    def start(self, rows: Tensor, valid: Tensor | None = None) -> None:
        """Takes the entries from k-means of the valid rows, once; call it before each training search.

        Nothing happens (and the next batch is tried) while no rank has a valid row. With fewer rows than
        entries the rows are repeated; revival then replaces the repeats.
        """
        if self._waiting is None:
            self._waiting = not bool(self.started)
        if not self._waiting:
            return
        with torch.no_grad():
            size = len(self.entries)
            generator = torch.Generator().manual_seed(self.seed)
            valid = rows.new_ones(len(rows), dtype=torch.bool) if valid is None else valid
            pool, count = pool_rows(rows.detach().float(), valid, max(_LEAST_POOL, size * _POOL_PER_ENTRY), generator)
            pool = self.prepare(pool[: int(count)])
            if not len(pool):
                return
            if len(pool) < size:
                extra = torch.randint(len(pool), (size - len(pool),), generator=generator)
                centroids = torch.cat([pool, pool[extra.to(pool.device)]])
                counts = torch.full((size,), len(pool) / size, device=pool.device)
            else:
                fit = kmeans(
                    pool,
                    size,
                    iterations=self.options.kmeans_iterations,
                    seed=self.seed,
                    cosine=self.options.spherical,
                )
                centroids, counts = fit.centroids, fit.counts
            self.entries.copy_(from_first_rank(centroids))
            self.uses.copy_(from_first_rank(counts.float()))
            if self.options.update == "ema":
                self.sums.copy_(self.entries * self.uses[:, None])
            self.started.fill_(True)
            self._waiting = False

    def observe(self, rows: Tensor, tokens: Tensor, valid: Tensor | None = None) -> None:
        """One training step: rows [N, D], from `prepare`, chose tokens [N]; rows not valid [N] do not count."""
        if self.options.update == "frozen" or (self.options.update == "gradient" and not self.options.revive_below):
            return
        with torch.no_grad():
            size, dim = self.entries.shape
            step = int(self.steps) if self._step is None else self._step
            valid = rows.new_ones(len(rows), dtype=torch.bool) if valid is None else valid
            rows = torch.where(valid[:, None], rows.detach().float(), 0.0)
            width = dim + 1 if self.options.update == "ema" else 1
            stats = rows.new_zeros(size, width)
            stats[:, -1].index_add_(0, tokens, valid.float())
            if self.options.update == "ema":
                stats[:, :-1] = rows.new_zeros(size, dim).index_add_(0, tokens, rows)
            stats = sum_over_ranks(stats)
            # A step in which no rank had a valid row changes nothing.
            new = torch.where(stats[:, -1].sum() > 0, 1 - self.options.decay, 0.0)
            self.uses.lerp_(stats[:, -1].to(self.uses), new.to(self.uses))
            if self.options.update == "ema":
                self.sums.lerp_(stats[:, :-1].to(self.sums), new.to(self.sums))
                self._average()
            self._step = step + 1
            self.steps.add_(1)
            if self.options.revive_below and self._step % self.options.revive_every == 0:
                self._revive(rows, valid)

    def _average(self) -> None:
        total = self.uses.sum()
        smooth = (self.uses + self.options.epsilon) / (total + len(self.uses) * self.options.epsilon) * total
        entries = self.sums / smooth[:, None]
        self.entries.copy_(nn.functional.normalize(entries, dim=1) if self.options.spherical else entries)

    def _revive(self, rows: Tensor, valid: Tensor) -> None:
        size = len(self.entries)
        # The same draw on every rank would do; another one per rank makes the sample more varied.
        seed = (self.seed * 1_000_003 + (self._step or 0)) * 1009 + rank()
        generator = torch.Generator().manual_seed(seed % 2**63)
        pool, count = pool_rows(rows, valid, size, generator)
        mean = self.uses.mean()
        dead = (self.uses < self.options.revive_below * mean) & (count > 0)
        turn = dead.long().cumsum(0).sub(1).remainder(count.clamp(min=1)).clamp(min=0)
        fresh = pool[turn].to(self.entries)
        self.entries.copy_(torch.where(dead[:, None], fresh, self.entries))
        self.uses.copy_(torch.where(dead, mean, self.uses))  # time to prove itself
        if self.options.update == "ema":
            self.sums.copy_(torch.where(dead[:, None], fresh * mean, self.sums))

    def _load_from_state_dict(self, *args: Any) -> None:
        self._step = self._waiting = None
        super()._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        size, dim = self.entries.shape
        return f"{size}, {dim}, {self.options}"
