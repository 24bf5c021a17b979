"""The random-projection quantizer of BEST-RQ: nothing is learned, everything follows from a seed."""

import math

import torch
from torch import Tensor, nn

from .base import (
    Memo,
    Quantized,
    Quantizer,
    check_positive,
    check_tokens,
    check_vectors,
    from_rows,
    to_rows,
    widen,
)
from .gradient import straight_through
from .nearest import SearchTable, nearest


class RandomProjection(Quantizer):
    """Random-projection quantizer (Chiu et al. 2022, "BEST-RQ", arXiv 2202.01855): targets for masked prediction.

    Each frame is normalised to mean 0 and variance 1, projected by a frozen random matrix P_k (Xavier normal), and
    coded by the random unit vector nearest in direction:

        token_k = argmax_v  ⟨P_kᵀ norm(x) + b_k, c_{k,v}⟩ / |P_kᵀ norm(x) + b_k|,   b_k = 0.

    The numbers come from a Mersenne twister through a float64 Box–Muller transform, so a seed gives the same codes on
    every machine. There is nothing to train: the loss is zero, and training and evaluation agree.

    A direction in a few dimensions does not determine the frame. `decode` gives the least-squares answer: the shortest
    vector y with P_kᵀ y = the entries found, for all k at once. It is good for looking at codes, not for synthesis.

    Args:
        dim: D.
        codebook_size: V (the paper: 8192).
        codebook_dim: values of a projection (the paper: 16).
        num_codebooks: K independent projections and codebooks.
        normalise: normalise each frame first; leave it on unless the features are normalised over the corpus.
        seed: of all numbers.

    Raises:
        InputError: a value is out of range.

    Example:
        >>> quantizer = RandomProjection(8, 16, 4, seed=1)
        >>> x = torch.arange(24.0).sin().view(1, 8, 3)
        >>> torch.equal(quantizer.encode(x), RandomProjection(8, 16, 4, seed=1).encode(3 * x + 1))
        True
    """

    projections: Tensor  # [K, D, d]
    offsets: Tensor  # [K, d]: zero, but for quantizers converted from vector-quantize-pytorch
    entries: Tensor  # [K, V, d], of unit length

    def __init__(
        self,
        dim: int,
        codebook_size: int = 8192,
        codebook_dim: int = 16,
        *,
        num_codebooks: int = 1,
        normalise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, codebook_size=codebook_size, codebook_dim=codebook_dim, num_codebooks=num_codebooks)
        self.dim, self.normalise = dim, normalise
        self.codebook_sizes = (codebook_size,) * num_codebooks
        generator = torch.Generator().manual_seed(seed)
        scale = math.sqrt(2 / (dim + codebook_dim))
        projections = scale * _normal(num_codebooks * dim * codebook_dim, generator)
        entries = _normal(num_codebooks * codebook_size * codebook_dim, generator)
        entries = nn.functional.normalize(entries.view(num_codebooks, codebook_size, codebook_dim), dim=2)
        self.register_buffer("projections", projections.view(num_codebooks, dim, codebook_dim).float())
        self.register_buffer("offsets", torch.zeros(num_codebooks, codebook_dim))
        self.register_buffer("entries", entries.float())
        self._search: Memo[list[SearchTable]] = Memo()
        self._decoded: Memo[list[Tensor]] = Memo()

    @property
    def codebooks(self) -> list[Tensor]:
        return list(self.entries)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        check_vectors(x, self.dim)
        with torch.autocast(x.device.type, enabled=False):
            rows = widen(to_rows(x))
            if self.normalise:
                rows = nn.functional.layer_norm(rows, [self.dim])
            tables = self._search.get([self.entries], lambda: [SearchTable.of(table) for table in self.entries])
            tokens = []
            for projection, offset, table in zip(self.projections, self.offsets, tables, strict=True):
                found = rows @ projection.to(rows.dtype) + offset
                tokens.append(nearest(nn.functional.normalize(found, dim=1), table))
            return from_rows(torch.stack(tokens, 1), x)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F]: the least-squares directions of the normalised frames.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes)
        tables = self._decoded.get([self.projections, self.entries], self._decode_tables)
        pairs = zip(tables, tokens.unbind(1), strict=True)
        return from_rows(torch.stack([table[row.reshape(-1)] for table, row in pairs]).sum(0), tokens)

    def _decode_tables(self) -> list[Tensor]:
        stacked = self.projections.double().cpu().permute(0, 2, 1).flatten(0, 1)  # [K · d, D]
        inverse = torch.linalg.pinv(stacked).t().unflatten(0, self.offsets.shape)  # [K, d, D]
        tables = self.entries.double().cpu() @ inverse  # [K, V, D]
        return list(tables.to(self.entries))

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        tokens = self.encode(x)
        quantized = straight_through(x, self.decode(tokens))
        return Quantized(quantized, tokens, quantized.new_zeros(()))


def _normal(count: int, generator: torch.Generator) -> Tensor:
    """[count] float64 normal numbers (Box & Muller 1958); torch's own differ between vector and scalar code."""
    uniform = torch.rand(2, count, generator=generator, dtype=torch.float64)
    return (-2 * (1 - uniform[0]).log()).sqrt() * (2 * math.pi * uniform[1]).cos()
