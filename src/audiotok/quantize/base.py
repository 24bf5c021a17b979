"""What every quantizer of this folder is: vectors [B, D, F] in, tokens [B, K, F] out, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError


@dataclass(frozen=True)
class Quantized:
    """What a quantizer's `forward` gives.

    quantized: [B, D, F], what `decode(tokens)` gives, with the gradient of the estimator in use.
    tokens: [B, K, F] int64.
    loss: scalar to add to the training loss (commitment, codebook, entropy); zero in evaluation.
    """

    quantized: Tensor
    tokens: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Base of the quantizers. `dim` is D; `codebook_sizes` has one V per row of tokens."""

    dim: int
    codebook_sizes: tuple[int, ...]

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def codebooks(self) -> list[Tensor]:
        """One [V, D'] table per row of tokens, in the space in which that row is searched."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantizes x [B, D, F]. Frames where mask [B, F] is False enter no loss and no statistic."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        raise NotImplementedError

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F]."""
        raise NotImplementedError


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B, F] over the frames where mask [B, F] is True (all of them when it is None)."""
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def squared_error(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of x and y [B, D, F] over valid frames and all of D, in float32."""
    return masked_mean((x.float() - y.float()).square().mean(1), mask)


def check_vectors(x: Tensor, dim: int) -> None:
    if x.dim() != 3 or x.shape[1] != dim:
        raise InputError(f"a quantizer of {dim} dimensions wants [B, {dim}, F], not {list(x.shape)}")
    if not torch.is_floating_point(x):
        raise InputError(f"a quantizer wants floating point vectors, not {x.dtype}")
