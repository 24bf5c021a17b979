"""Grouped residual vector quantization: the features are cut into groups, each with residual stages of its own."""

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import Quantized, Quantizer, check_depth, check_positive, check_tokens, check_vectors
from .options import VQOptions
from .rvq import ResidualVQ


class GroupedResidualVQ(Quantizer):
    """Grouped residual quantizer (Yang et al. 2023, "HiFi-Codec", arXiv 2305.02765).

    The D values are cut into G equal parts in order, each quantized by a `ResidualVQ`. The K = stages × G
    rows of tokens are ordered stage by stage: stage 0 of groups 0..G−1, then stage 1 of groups 0..G−1, and so
    on; row i belongs to stage i // G, group i % G. So the first n·G rows decode alone, as with a
    `ResidualVQ`.

    Args:
        dim: D.
        codebook_size: V of every codebook.
        num_stages: residual stages of each group.
        groups: G.
        codebook_dim: width of the factorised search space of each codebook; default D / G, without maps.
        shared: one codebook for all stages of a group.
        dropout: probability that an item of a training batch is cut short; see `ResidualVQ`. All groups of an
            item keep the same number of stages.
        options: lookup, update, estimator and the rest.
        seed: of the first entries; everything random follows from it.

    Raises:
        InputError: D is not a multiple of G, or a value is out of range.

    Example:
        >>> gvq = GroupedResidualVQ(8, 16, num_stages=2, groups=2).eval()
        >>> tokens = gvq.encode(torch.randn(1, 8, 5))
        >>> tokens.shape, gvq.decode(tokens[:, :2]).shape
        (torch.Size([1, 4, 5]), torch.Size([1, 8, 5]))
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        num_stages: int,
        groups: int,
        codebook_dim: int | None = None,
        shared: bool = False,
        dropout: float = 0.0,
        options: VQOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, codebook_size=codebook_size, num_stages=num_stages, groups=groups)
        if dim % groups:
            raise InputError(f"{dim} dimensions cannot be cut into {groups} equal groups")
        self.dim, self.num_stages, self.num_groups = dim, num_stages, groups
        self.codebook_sizes = (codebook_size,) * (num_stages * groups)
        self.groups = nn.ModuleList(
            ResidualVQ(
                dim // groups,
                codebook_size,
                num_stages,
                codebook_dim=codebook_dim,
                shared=shared,
                dropout=dropout,
                options=options,
                seed=seed + 1000 * group,
            )
            for group in range(groups)
        )
        self.gradient = self.group(0).gradient

    def group(self, index: int) -> ResidualVQ:
        """The residual quantizer of a group."""
        return cast(ResidualVQ, self.groups[index])

    @property
    def codebooks(self) -> list[Tensor]:
        stages = zip(*(self.group(g).codebooks for g in range(self.num_groups)), strict=True)
        return [table for stage in stages for table in stage]

    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks`, a multiple of G, that many first rows.

        Raises:
            InputError: x is of another shape, or num_codebooks not a multiple of G.
        """
        check_vectors(x, self.dim)
        depth = self._stages(check_depth(num_codebooks, self.num_codebooks))
        parts = x.chunk(self.num_groups, 1)
        return self._interleave([self.group(g).encode(part, depth) for g, part in enumerate(parts)])

    def decode(self, tokens: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first n·G rows alone.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        tokens = tokens[:, : check_depth(num_codebooks, tokens.shape[1])]
        self._stages(tokens.shape[1])
        parts = [self.group(g).decode(tokens[:, g :: self.num_groups]) for g in range(self.num_groups)]
        return torch.cat(parts, 1)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        parts = x.chunk(self.num_groups, 1)
        depths = self.group(0).draw_depths(len(x))
        results = [self.group(g).train_forward(part, mask, depths) for g, part in enumerate(parts)]
        loss = torch.stack([result.loss for result in results]).mean()
        tokens = self._interleave([result.tokens for result in results])
        return Quantized(torch.cat([result.quantized for result in results], 1), tokens, loss)

    def _interleave(self, tokens: list[Tensor]) -> Tensor:
        return torch.stack(tokens, 2).flatten(1, 2)  # [B, stage, G, F] -> [B, stage · G, F]

    def _stages(self, rows: int) -> int:
        if rows % self.num_groups:
            raise InputError(
                f"{self.num_groups} groups take a multiple of {self.num_groups} rows of tokens, not {rows}"
            )
        return rows // self.num_groups
