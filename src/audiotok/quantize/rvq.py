"""Residual vector quantization: each codebook quantizes what the ones before it left over."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import (
    Quantized,
    Quantizer,
    check_depth,
    check_positive,
    check_tokens,
    check_vectors,
    from_rows,
    to_rows,
)
from .distributed import rank
from .gradient import estimate
from .options import VQOptions
from .vq import Seen, VectorQuantizer

_CHUNK_BYTES = 8 << 20  # of scores: what is looked up stays near the cache through all stages


class ResidualVQ(Quantizer):
    """Residual vector quantizer (Zeghidour et al. 2021, "SoundStream", arXiv 2107.03312, algorithm 1).

    Stage i quantizes r_i, where r_0 = x and r_{i+1} = r_i − q_i; the result is Σ q_i, so the first n rows of
    tokens decode alone to a coarser vector. The loss is the mean of the stages' losses.

    Gradients. Without `codebook_dim` the sum as a whole gets the estimator's gradient (with straight-through
    exactly the identity; giving each stage its own would count it K times). With it, each stage's maps are
    trained through that stage as in DAC (arXiv 2306.06546).

    Quantizer dropout. In training each item of the batch, with probability `dropout`, keeps only its first n
    codebooks, n uniform from 1 to K. `quantized` is then the sum of those, and the dropped stages get no loss
    and no statistics from the item. Its tokens are whole all the same, [B, K, F] of real entries and no
    filler: they index an embedding without care, and `decode(tokens)` is the full-rate vector. The draws follow from
    the seed and start anew after loading.

    Args:
        dim: D.
        codebook_size: V, or one per stage.
        num_codebooks: K, the number of stages.
        codebook_dim: width of the factorised search space of each stage; default D, without maps.
        shared: one codebook (and pair of maps) for all stages; it sees all stages as one step.
        dropout: probability from 0 to 1 that an item of a training batch is cut short.
        options: lookup, update, estimator and the rest; see `VQOptions`.
        seed: of the first entries; everything random follows from it.

    Raises:
        InputError: sizes do not fit one another, or a value is out of range.

    Example:
        >>> rvq = ResidualVQ(8, 16, 4).eval()
        >>> tokens = rvq.encode(torch.randn(2, 8, 5))
        >>> tokens.shape, torch.equal(rvq.encode(rvq.decode(tokens[:, :1]), num_codebooks=1), tokens[:, :1])
        (torch.Size([2, 4, 5]), True)
    """

    draws: Tensor  # int64: training steps that drew, with `dropout`

    def __init__(
        self,
        dim: int,
        codebook_size: int | Sequence[int],
        num_codebooks: int,
        *,
        codebook_dim: int | None = None,
        shared: bool = False,
        dropout: float = 0.0,
        options: VQOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_codebooks=num_codebooks)
        sizes = (codebook_size,) * num_codebooks if isinstance(codebook_size, int) else tuple(codebook_size)
        if len(sizes) != num_codebooks:
            raise InputError(f"{num_codebooks} codebooks need as many sizes, not {len(sizes)}: {sizes}")
        if shared and len(set(sizes)) > 1:
            raise InputError(f"a shared codebook has one size, not {sizes}")
        if not 0 <= dropout <= 1:
            raise InputError(f"dropout is a probability from 0 to 1, not {dropout}")
        self.dim, self.codebook_sizes, self.shared, self.dropout, self.seed = (
            dim,
            sizes,
            shared,
            dropout,
            seed,
        )
        self.options = options or VQOptions()
        self.gradient = self.options.gradient
        self.layers = nn.ModuleList(
            VectorQuantizer(dim, size, codebook_dim=codebook_dim, options=self.options, seed=seed + stage)
            for stage, size in enumerate(sizes[:1] if shared else sizes)
        )
        self._drawn: int | None = None  # `draws`, without asking the device each time
        if dropout:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def _load_from_state_dict(self, *args: Any) -> None:
        self._drawn = None
        super()._load_from_state_dict(*args)

    def layer(self, stage: int) -> VectorQuantizer:
        """The quantizer of a stage."""
        return cast(VectorQuantizer, self.layers[0 if self.shared else stage])

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.layer(stage).codebooks[0] for stage in range(self.num_codebooks)]

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks` only that many first rows."""
        check_vectors(x, self.dim)
        depth = check_depth(num_codebooks, self.num_codebooks)
        tokens = self.encode_rows(to_rows(x.float()), depth)
        return tokens.view(depth, len(x), x.shape[2]).transpose(0, 1).contiguous()

    def encode_rows(self, rows: Tensor, depth: int) -> Tensor:
        """Tokens [depth, N] of rows [N, D] float32.

        A chunk of frames passes through all stages before the next one begins, so its residual and its scores
        stay in the cache; the tables are made once and kept.
        """
        stages = [(layer, layer.decoded[0]) for layer in map(self.layer, range(depth))]
        chunk = max(1, _CHUNK_BYTES // (4 * max(self.codebook_sizes)))
        tokens = torch.empty(depth, len(rows), dtype=torch.int64, device=rows.device)
        for start in range(0, len(rows), chunk):
            residual = rows[start : start + chunk]
            for stage, (layer, table) in enumerate(stages):
                found = tokens[stage, start : start + chunk] = layer.encode_rows(residual)[0]
                if stage + 1 < depth:
                    residual = residual - table.index_select(0, found)
        return tokens

    @torch.no_grad()
    def decode(self, tokens: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first rows [B, n, F] alone.

        Args:
            tokens: integers; 1 to K rows.
            num_codebooks: use only that many of the rows given.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        tokens = tokens[:, : check_depth(num_codebooks, tokens.shape[1])]
        rows = self.layer(0).decoded[0][tokens[:, 0].reshape(-1)]
        for stage in range(1, tokens.shape[1]):
            rows += self.layer(stage).decoded[0][tokens[:, stage].reshape(-1)]
        return from_rows(rows, tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None, depths: Tensor | None = None) -> Quantized:
        batch, _, frames = x.shape
        depths = self.draw_depths(batch) if depths is None else depths
        depths = depths.to(x.device).repeat_interleave(frames)  # [N]
        rows = residual = to_rows(x)
        total, loss = torch.zeros_like(rows), x.new_zeros(())
        tokens, observed = [], []
        for stage in range(self.num_codebooks):
            layer = self.layer(stage)
            active = depths > stage
            valid = active if mask is None else active & mask.reshape(-1)
            quantized, found, stage_loss, seen = layer.train_rows(residual, valid)
            total = total + torch.where(active[:, None], quantized, 0.0)
            residual = residual - (quantized if layer.factorised else quantized.detach())
            loss = loss + stage_loss
            tokens.append(found[0])
            observed.append(seen)
        self._observe(observed)
        if not self.layer(0).factorised:
            total = estimate(rows, total, self.gradient)
        found = torch.stack(tokens).view(self.num_codebooks, batch, frames).transpose(0, 1).contiguous()
        return Quantized(from_rows(total, x), found, loss / self.num_codebooks)

    def _observe(self, observed: list[list[Seen]]) -> None:
        if self.shared:
            self.layer(0).observe(observed)
        else:
            for stage, seen in enumerate(observed):
                self.layer(stage).observe([seen])

    def draw_depths(self, batch: int) -> Tensor:
        """[B] int64: how many codebooks each item keeps in this training step."""
        depths = torch.full((batch,), self.num_codebooks)
        if self.dropout:
            self._drawn = 1 + (int(self.draws) if self._drawn is None else self._drawn)
            self.draws.fill_(self._drawn)
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self._drawn) * 1009 + rank())
            short = torch.rand(batch, generator=generator) < self.dropout
            drawn = torch.randint(1, self.num_codebooks + 1, (batch,), generator=generator)
            depths = torch.where(short, drawn, depths)
        return depths
