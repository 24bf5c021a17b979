"""Finite scalar quantization: each of a few numbers is rounded to one of a few levels; no codebook is kept."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import (
    Projection,
    Quantized,
    Quantizer,
    check_depth,
    check_positive,
    check_tokens,
    check_vectors,
    from_rows,
    to_rows,
    widen,
)
from .gradient import Estimator, straight_through


class Levels(nn.Module):
    """Grids of L_1 × L_2 × ... points in [−1, 1]^d, and the index of a point in them.

    The first number is the least significant digit: index = i_1 + L_1 (i_2 + L_2 (i_3 + ...)).
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int], symmetric: bool) -> None:
        super().__init__()
        if not levels or min(levels) < (2 if symmetric else 3):
            least = "2" if symmetric else "3 (2 with symmetric=True)"
            raise InputError(f"every level must be at least {least}: {list(levels)}")
        self.size, self.symmetric = math.prod(levels), symmetric
        counts = torch.tensor(levels)
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("basis", torch.cumprod(torch.cat([counts.new_ones(1), counts[:-1]]), 0), persistent=False)

    def squash(self, z: Tensor, margin: float, hard: bool = False) -> Tensor:
        """z [..., d] to real positions on the grid, which `torch.round` turns into 0 … L − 1."""
        top = (self.levels - 1).to(z.dtype)
        if self.symmetric:
            return (z.clamp(-1, 1) if hard else z.tanh()).add(1).mul(top / 2)
        half = top * (1 + margin) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        return (z + (offset / half).atanh()).tanh() * half - offset + self.levels // 2

    def round(self, position: Tensor) -> Tensor:
        """Digits [..., d] int64 of positions."""
        # Half-way goes up in the symmetric form (floor(p + ½)) and to even in the other one, as upstream.
        nearest = (
            (position + 0.5).floor() if self.symmetric else position.sub(self.levels // 2).round().add(self.levels // 2)
        )
        return torch.minimum(nearest.clamp(min=0), self.levels - 1).long()

    def points(self, digits: Tensor) -> Tensor:
        """Points [..., d] of digits, or of positions."""
        if self.symmetric:
            return digits * (2 / (self.levels - 1)) - 1
        half_width = self.levels // 2
        return (digits - half_width) / half_width

    def index(self, digits: Tensor) -> Tensor:
        return (digits * self.basis).sum(-1)

    def digits(self, index: Tensor) -> Tensor:
        return index[..., None] // self.basis % self.levels

    def table(self) -> Tensor:
        """[V, d] all points."""
        return self.points(self.digits(torch.arange(self.size, device=self.levels.device)))


class FSQ(Quantizer):
    """Finite scalar quantizer (Mentzer et al. 2023, arXiv 2309.15505).

    Number z_i is squashed and rounded to one of L_i levels; for even L the shift atanh(½/h) makes zero fall
    between two levels:

        q_i = round(h tanh(z_i + atanh(o/h)) − o) / ⌊L_i/2⌋,   h = (L_i − 1)(1 + margin)/2,   o = ½ if L_i is
        even else 0.

    `symmetric` has instead the form of Parker et al. 2024 (arXiv 2411.19842, section 3.2), whose levels lie
    symmetrically about zero: q_i = 2/(L_i − 1) ⌊(L_i − 1)(tanh z_i + 1)/2 + ½⌋ − 1. The rounding passes
    gradients straight through; there is no loss, and nothing is learned but the maps. The paper's own code
    has a margin of −0.001; vector-quantize-pytorch, whose codes these are, +0.001.

    Args:
        levels: L_1, L_2, ...; V is their product.
        dim: D; linear maps lead to the numbers and back when it differs from their count. Default: that
            count.
        num_codebooks: K groups of numbers, each rounded to the same levels and a row of tokens.
        symmetric: the symmetric form; allows levels of 2.
        margin: stretch of the squashing function.

    Raises:
        InputError: a level is too small, or a value out of range.

    Example:
        >>> fsq = FSQ([5, 3]).eval()
        >>> tokens = fsq.encode(torch.tensor([[[0.0, 9.0], [0.0, -9.0]]]))
        >>> tokens, fsq.decode(tokens)[0].tolist()
        (tensor([[[7, 4]]]), [[0.0, 1.0], [0.0, -1.0]])
    """

    def __init__(
        self,
        levels: Sequence[int],
        dim: int | None = None,
        *,
        num_codebooks: int = 1,
        symmetric: bool = False,
        margin: float = 1e-3,
    ) -> None:
        super().__init__()
        check_positive(num_codebooks=num_codebooks, dim=1 if dim is None else dim)
        self.grid = Levels(levels, symmetric)
        if not symmetric and not -0.5 < margin * (max(levels) - 1) < 1 - 1e-6:
            raise InputError(f"a margin of {margin} is too large for {max(levels)} levels")
        inner = len(levels) * num_codebooks
        self.dim, self.margin = inner if dim is None else dim, margin
        self.codebook_sizes = (self.grid.size,) * num_codebooks
        mapped = self.dim != inner
        self.project_in = Projection(self.dim, inner) if mapped else nn.Identity()
        self.project_out = Projection(inner, self.dim) if mapped else nn.Identity()

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.grid.table()] * self.num_codebooks

    def _positions(self, rows: Tensor) -> Tensor:
        """Rows [N, D] to positions [N, K, d], in float64: no rounding of ours decides a level."""
        z = self.project_in.wide(rows) if isinstance(self.project_in, Projection) else widen(rows)
        return self.grid.squash(z.view(len(rows), self.num_codebooks, len(self.grid.levels)), self.margin)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        check_vectors(x, self.dim)
        return from_rows(self.grid.index(self.grid.round(self._positions(to_rows(x)))), x)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F].

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes)
        points = self.grid.points(self.grid.digits(to_rows(tokens))).flatten(1)  # [N, K · d]
        return from_rows(self.project_out(points.float()), tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        positions = self._positions(to_rows(x))
        digits = self.grid.round(positions)
        points = straight_through(self.grid.points(positions).float(), self.grid.points(digits).float())
        quantized = from_rows(self.project_out(points.flatten(1)), x)
        return Quantized(quantized, from_rows(self.grid.index(digits), x), quantized.new_zeros(()))


class ResidualFSQ(Quantizer):
    """Residual finite scalar quantizer: stage i rounds what is left on a grid L^i times finer.

    The symmetric grid of `FSQ` with a hard clamp instead of tanh. The input is first squashed softly to
    c·tanh(x/c), c = 1 + 1/(L − 1). (As vector-quantize-pytorch 1.32 has it; the idea is in arXiv 2411.19842.)

    Args:
        levels: L_1, L_2, ... of every stage.
        num_codebooks: K, the number of stages.
        dim: D; linear maps lead to the numbers and back when it differs from their count. Default: that
            count.

    Raises:
        InputError: a level is too small, or a value out of range.

    Example:
        >>> fsq = ResidualFSQ([5, 3], 2).eval()
        >>> tokens = fsq.encode(torch.tensor([[[0.3], [-0.6]]]))
        >>> [round(value, 4) for value in fsq.decode(tokens)[0, :, 0].tolist()]
        [0.3, -0.6667]
    """

    gradient: Estimator = "straight-through"
    scales: Tensor
    limit: Tensor

    def __init__(self, levels: Sequence[int], num_codebooks: int, dim: int | None = None) -> None:
        super().__init__()
        check_positive(num_codebooks=num_codebooks, dim=1 if dim is None else dim)
        self.grid = Levels(levels, symmetric=True)
        self.dim = len(levels) if dim is None else dim
        self.codebook_sizes = (self.grid.size,) * num_codebooks
        mapped = self.dim != len(levels)
        self.project_in = Projection(self.dim, len(levels)) if mapped else nn.Identity()
        self.project_out = Projection(len(levels), self.dim) if mapped else nn.Identity()
        counts = torch.tensor(levels, dtype=torch.float64)
        steps = torch.arange(num_codebooks, dtype=torch.float64)[:, None]
        self.register_buffer("scales", (counts**-steps).float(), persistent=False)  # [K, d]
        self.register_buffer("limit", (1 + 1 / (counts - 1)).float(), persistent=False)

    @property
    def codebooks(self) -> list[Tensor]:
        """Each stage's points times its scale: what it adds to the sum."""
        table = self.grid.table()
        return [table * scale for scale in self.scales]

    def _stages(self, rows: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [N, D] to the squashed numbers [N, d], their quantized values [N, d] and tokens [N, depth]."""
        z = self.project_in.wide(rows) if isinstance(self.project_in, Projection) else widen(rows)
        limit = self.limit.to(z.dtype)
        z = (z / limit).tanh() * limit
        residual, total = z.detach(), torch.zeros_like(z, requires_grad=False)
        tokens = []
        for scale in self.scales[:depth].to(z.dtype):
            digits = self.grid.round(self.grid.squash(residual / scale, 0.0, hard=True))
            point = self.grid.points(digits).to(z.dtype) * scale
            residual, total = residual - point, total + point
            tokens.append(self.grid.index(digits))
        return z, total, torch.stack(tokens, 1)

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks` only that many first rows."""
        check_vectors(x, self.dim)
        depth = check_depth(num_codebooks, self.num_codebooks)
        return from_rows(self._stages(to_rows(x.float()), depth)[2], x)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first rows alone.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        points = self.grid.points(self.grid.digits(to_rows(tokens)))  # [N, K, d]
        total = points.new_zeros(len(points), points.shape[2], dtype=widen(self.scales).dtype)
        for stage, scale in enumerate(self.scales[: points.shape[1]].to(total.dtype)):
            total = total + points[:, stage].to(total.dtype) * scale
        return from_rows(self.project_out(total.float()), tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        z, total, tokens = self._stages(to_rows(x), self.num_codebooks)
        quantized = self.project_out(straight_through(z, total).float())
        return Quantized(from_rows(quantized, x), from_rows(tokens, x), quantized.new_zeros(()))
