"""A codebook made of frozen random vectors and one learned linear map, so that all entries move together."""

import torch
from torch import Tensor, nn

from .base import (
    Memo,
    Projection,
    Quantized,
    Quantizer,
    check_positive,
    check_tokens,
    check_vectors,
    from_rows,
    squared_error,
    to_rows,
)
from .gradient import Estimator, check_estimator, estimate
from .nearest import SearchTable, nearest


class SimVQ(Quantizer):
    """Simple vector quantizer (Zhu et al. 2024, arXiv 2411.02038).

    The entries are W c_v, where the random c_v stay fixed and W is learned: a gradient on W moves every
    entry, so none dies. Loss: |sg(x) − entry|² + commitment_weight · |x − sg(entry)|², as means over valid
    frames and values.

    Args:
        dim: D.
        codebook_size: V.
        frozen_dim: values of a c_v; default D.
        commitment_weight: see above.
        gradient: "rotation" (the default, as upstream) or "straight-through".
        seed: of the c_v and of the first W.

    Raises:
        InputError: a value is out of range.

    Example:
        >>> vq = SimVQ(4, 16).eval()
        >>> tokens = vq.encode(torch.randn(1, 4, 3))
        >>> torch.equal(vq.encode(vq.decode(tokens)), tokens)
        True
    """

    frozen: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        frozen_dim: int | None = None,
        commitment_weight: float = 0.25,
        gradient: Estimator = "rotation",
        seed: int = 0,
    ) -> None:
        super().__init__()
        width = dim if frozen_dim is None else frozen_dim
        check_positive(dim=dim, codebook_size=codebook_size, frozen_dim=width)
        check_estimator(gradient)
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.commitment_weight, self.gradient = commitment_weight, gradient
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frozen", torch.randn(codebook_size, width, generator=generator) * width**-0.5)
        self.transform = Projection(width, dim, bias=False)
        nn.init.uniform_(self.transform.weight, -(width**-0.5), width**-0.5, generator=generator)
        self._table: Memo[SearchTable] = Memo()

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.transform(self.frozen)]

    @property
    def _search_table(self) -> SearchTable:
        return self._table.get([self.frozen, self.transform.weight], lambda: SearchTable.of(self.codebooks[0]))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, 1, F] int64 of x [B, D, F]."""
        check_vectors(x, self.dim)
        return nearest(to_rows(x.float()), self._search_table).view(len(x), 1, x.shape[2])

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, 1, F].

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes)
        return from_rows(self._search_table.entries[tokens.reshape(-1)], tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        tokens = self.encode(x)
        entry = from_rows(nn.functional.embedding(tokens.reshape(-1), self.codebooks[0]), x)
        loss = squared_error(x.detach(), entry, mask)
        loss = loss + self.commitment_weight * squared_error(x, entry.detach(), mask)
        return Quantized(estimate(x, entry, self.gradient), tokens, loss)
