"""Multi-scale residual quantization: coarse stages run at a lower frame rate than fine ones."""

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import Quantized, Quantizer, check_depth, check_positive, check_tokens, check_vectors
from .gradient import estimate
from .options import VQOptions
from .vq import VectorQuantizer


def pack_levels(levels: Sequence[Tensor], rates: Sequence[int]) -> Tensor:
    """Tokens of several frame rates as one rectangle, without loss.

    The rows go level by level; within a level a coarse frame's tokens follow one another in time.

    Args:
        levels: per level [B, n·F] integers, F being the coarse frames.
        rates: n of each level: tokens per coarse frame.

    Returns:
        [B, Σ n, F], inverse of `unpack_levels`.

    Raises:
        InputError: a level is not n·F long.

    Example:
        >>> coarse, fine = torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6]])
        >>> pack_levels([coarse, fine], [1, 2])
        tensor([[[1, 2],
                 [3, 5],
                 [4, 6]]])
    """
    shapes = [list(level.shape) for level in levels]
    frames = shapes[0][-1] // rates[0] if levels and len(levels) == len(rates) else -1
    if shapes != [[shapes[0][0], rate * frames] for rate in rates]:
        raise InputError(f"rates {list(rates)} need levels [B, rate · F], not {shapes}")
    rows = [
        level.reshape(-1, frames, rate).transpose(1, 2) for level, rate in zip(levels, rates, strict=True) if frames
    ]
    return torch.cat(rows, 1) if rows else levels[0].new_zeros(shapes[0][0], sum(rates), 0)


def unpack_levels(tokens: Tensor, rates: Sequence[int]) -> list[Tensor]:
    """The levels' tokens [B, n·F] of a rectangle [B, Σ n, F], inverse of `pack_levels`.

    Args:
        tokens: [B, Σ n, F].
        rates: n of each level: tokens per coarse frame.

    Raises:
        InputError: the rates do not add up to the number of rows.

    Example:
        >>> unpack_levels(torch.tensor([[[1, 2], [3, 5], [4, 6]]]), [1, 2])
        [tensor([[1, 2]]), tensor([[3, 4, 5, 6]])]
    """
    if tokens.dim() != 3 or tokens.shape[1] != sum(rates):
        raise InputError(f"rates {list(rates)} need [B, {sum(rates)}, F] tokens, not {list(tokens.shape)}")
    ends = list(accumulate(rates))
    levels = [tokens[:, end - rate : end] for rate, end in zip(rates, ends, strict=True)]
    return [level.transpose(1, 2).flatten(1) for level in levels]


class MultiScaleRVQ(Quantizer):
    """Multi-scale residual quantizer (Siuzdak et al. 2024, "SNAC", arXiv 2410.14411).

    Level i averages what is left over s_i frames, quantizes that, and repeats it s_i times:

        q_i = repeat_{s_i}(VQ_i(mean_{s_i}(r_i))),   r_{i+1} = r_i − q_i,   result Σ q_i.

    Tokens are [B, K, F / s] with s the largest stride: strides 4, 2, 1 give 1 + 2 + 4 = 7 rows per coarse frame, level
    by level, ascending in time within a level (`pack_levels`). So rows 0, 0–2 and 0–6 decode alone. F must be a
    multiple of s: pad before and cut after, as the right padding is the codec's to choose.

    A pooled frame counts in the loss and the statistics when all frames in it do. Gradients are as in `ResidualVQ`.

    Args:
        dim: D.
        codebook_size: V, or one per level.
        strides: s_i, from coarse to fine; each divides the largest.
        codebook_dim: width of the factorised search space (SNAC: 8, with cosine lookup); default D, without maps.
        options: lookup, update, estimator and the rest.
        seed: of the first entries; everything random follows from it.

    Raises:
        InputError: a stride does not divide the largest one, or a value is out of range.

    Example:
        >>> rvq = MultiScaleRVQ(8, 16, (4, 2, 1)).eval()
        >>> tokens = rvq.encode(torch.randn(1, 8, 12))
        >>> tokens.shape, rvq.decode(tokens).shape, [level.shape[1] for level in rvq.unpack(tokens)]
        (torch.Size([1, 7, 3]), torch.Size([1, 8, 12]), [3, 6, 12])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int | Sequence[int],
        strides: Sequence[int] = (4, 2, 1),
        *,
        codebook_dim: int | None = None,
        options: VQOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_strides=len(strides), stride=min(strides, default=1))
        self.stride = max(strides)
        if any(self.stride % stride for stride in strides):
            raise InputError(f"every stride must divide the largest one: {list(strides)}")
        self.dim, self.strides = dim, tuple(strides)
        self.rates = tuple(self.stride // stride for stride in strides)
        sizes = (codebook_size,) * len(strides) if isinstance(codebook_size, int) else tuple(codebook_size)
        if len(sizes) != len(strides):
            raise InputError(f"{len(strides)} levels need as many codebook sizes, not {len(sizes)}: {sizes}")
        self.codebook_sizes = tuple(size for size, rate in zip(sizes, self.rates, strict=True) for _ in range(rate))
        self.layers = nn.ModuleList(
            VectorQuantizer(dim, size, codebook_dim=codebook_dim, options=options, seed=seed + level)
            for level, size in enumerate(sizes)
        )
        self.gradient = self.layer(0).gradient

    def layer(self, level: int) -> VectorQuantizer:
        """The quantizer of a level."""
        return cast(VectorQuantizer, self.layers[level])

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.layer(level).codebooks[0] for level, rate in enumerate(self.rates) for _ in range(rate)]

    def unpack(self, tokens: Tensor) -> list[Tensor]:
        """Tokens [B, F / s_i] of each level (the first few, if there are fewer rows)."""
        return unpack_levels(tokens, self.rates[: self._levels(tokens.shape[1])])

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F / s] int64 of x [B, D, F]; with `num_codebooks` the rows of the first levels.

        Raises:
            InputError: F is not a multiple of s, or num_codebooks does not end with a level.
        """
        self._check(x)
        residual, levels = x.float(), []
        used = self._levels(check_depth(num_codebooks, self.num_codebooks))
        for level in range(used):
            tokens = self.layer(level).encode(pool(residual, self.strides[level]))
            residual = residual - self._upsampled(level, tokens)
            levels.append(tokens[:, 0])
        return pack_levels(levels, self.rates[:used])

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F / s], or of the rows of the first levels alone.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        total = tokens.new_zeros((), dtype=torch.float32)
        for level, part in enumerate(self.unpack(tokens)):
            total = total + self._upsampled(level, part[:, None])
        return total

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        self._check(x)
        residual, total, loss, levels = x, torch.zeros_like(x), x.new_zeros(()), []
        for level, stride in enumerate(self.strides):
            layer = self.layer(level)
            valid = None if mask is None else mask.view(len(mask), -1, stride).all(2)
            result = layer.train_forward(pool(residual, stride), valid)
            quantized = result.quantized.repeat_interleave(stride, 2)
            residual = residual - (quantized if layer.factorised else quantized.detach())
            total, loss = total + quantized, loss + result.loss
            levels.append(result.tokens[:, 0])
        if not self.layer(0).factorised:
            total = estimate(x, total, self.gradient)
        return Quantized(total, pack_levels(levels, self.rates), loss / len(levels))

    def _upsampled(self, level: int, tokens: Tensor) -> Tensor:
        return self.layer(level).decode(tokens).repeat_interleave(self.strides[level], 2)

    def _levels(self, rows: int) -> int:
        ends = list(accumulate(self.rates))
        if rows not in ends:
            raise InputError(f"the levels end after {ends} rows of tokens; {rows} rows cut one in two")
        return ends.index(rows) + 1

    def _check(self, x: Tensor) -> None:
        check_vectors(x, self.dim)
        frames = x.shape[2]
        if frames % self.stride:
            more = self.stride - frames % self.stride
            raise InputError(
                f"{frames} frames are not a multiple of the largest stride, {self.stride}: pad {more} frames before "
                "encoding and cut them off after decoding"
            )


def pool(x: Tensor, stride: int) -> Tensor:
    """Mean of each `stride` frames: [B, D, F] to [B, D, F / stride], summed in time order whatever the batch."""
    total = x[:, :, ::stride]
    for offset in range(1, stride):
        total = total + x[:, :, offset::stride]
    return total / stride
