"""What every quantizer of this folder is: vectors [B, D, F] in, tokens [B, K, F] out, and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from .gradient import Estimator, estimate

Value = TypeVar("Value")


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
    """Base of the quantizers: a new one writes `encode`, `decode`, `codebooks` and `train_forward`.

    `dim` is D; `codebook_sizes` has one V per row of tokens; `gradient` is the estimator through which
    gradients pass. All of them compute in float32 or better whatever the autocast, and give float32.
    """

    dim: int
    codebook_sizes: tuple[int, ...]
    gradient: Estimator = "straight-through"

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def codebooks(self) -> list[Tensor]:
        """One [V, D'] table per row of tokens, in the space in which that row is searched."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantizes x [B, D, F]. Frames where mask [B, F] is False enter no loss and no statistic.

        In evaluation the tokens are those of `encode`, the vectors those of `decode`, bit for bit, and the
        loss is 0.

        Raises:
            InputError: x is not [B, D, F] of a float type, or mask is not [B, F] of booleans.
        """
        check_vectors(x, self.dim)
        check_mask(mask, x)
        if self.training:
            with torch.autocast(x.device.type, enabled=False):
                return self.train_forward(x.float(), mask)
        tokens = self.encode(x)
        quantized = estimate(x.float(), self.decode(tokens), self.gradient)
        return Quantized(quantized, tokens, quantized.new_zeros(()))

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        """`forward` in training: x is checked, float32, and outside autocast."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        raise NotImplementedError

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F]."""
        raise NotImplementedError


class Projection(nn.Linear):
    """A linear map of rows [..., D] whose result does not depend on how many rows there are.

    Float32 products of different shapes round differently; summed in float64 and rounded once to float32 they
    agree. (Not on Apple's MPS, which has no float64.) Never reduced by autocast.
    """

    def forward(self, input: Tensor) -> Tensor:
        return self.wide(input).float()

    def wide(self, x: Tensor) -> Tensor:
        """The result before it is rounded: float64 where the device has it."""
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else widen(self.bias)
            return nn.functional.linear(widen(x), widen(self.weight), bias)


class Memo(Generic[Value]):
    """Keeps one value computed from tensors until one of them changes; copies and pickles of it are empty.

    A tensor has changed when its memory or its version counter has: every in-place operation, optimizer step,
    `load_state_dict` and `.to` is seen; only writing through `tensor.data` is not.
    """

    def __init__(self) -> None:
        self._held: tuple[list[Tensor], list[int], Value] | None = None

    def __reduce__(self) -> tuple[type["Memo[Value]"], tuple[()]]:
        return type(self), ()

    def get(self, sources: Sequence[Tensor], make: Callable[[], Value]) -> Value:
        if any(source.is_inference() for source in sources):  # these have no version counter
            return make()
        versions = [source._version for source in sources]
        if self._held is not None:
            held, old_versions, value = self._held
            same = zip(sources, held, strict=True)
            if versions == old_versions and all(a.data_ptr() == b.data_ptr() and a.dtype == b.dtype for a, b in same):
                return value
        value = make()
        # The aliases keep the memory alive, so no other tensor can come to lie at the same address.
        self._held = ([source.detach() for source in sources], versions, value)
        return value


def widen(x: Tensor) -> Tensor:
    """x in float64, or in float32 on a device that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def to_rows(x: Tensor) -> Tensor:
    """[B, D, F] to contiguous rows [B·F, D]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1]).contiguous()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Rows [B·F, D] to contiguous [B, D, F], with B and F of `like` [B, ..., F]."""
    return rows.reshape(like.shape[0], like.shape[-1], rows.shape[1]).transpose(1, 2).contiguous()


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B, F] over the frames where mask [B, F] is True, or over all; 0 if there are none."""
    if mask is None:
        return values.sum() / max(1, values.numel())
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def squared_error(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of x and y [B, D, F] over valid frames and all of D, in float32."""
    return masked_mean((x.float() - y.float()).square().mean(1), mask)


def check_vectors(x: Tensor, dim: int) -> None:
    if x.dim() != 3 or x.shape[1] != dim:
        raise InputError(f"a quantizer of {dim} dimensions wants [B, {dim}, F], not {list(x.shape)}")
    if not torch.is_floating_point(x):
        raise InputError(f"a quantizer wants floating point vectors, not {x.dtype}")


def check_mask(mask: Tensor | None, x: Tensor) -> None:
    if mask is None:
        return
    wanted = [x.shape[0], x.shape[2]]
    if list(mask.shape) != wanted or mask.dtype != torch.bool:
        raise InputError(
            f"the mask must be {wanted} of bool, True on valid frames, not {list(mask.shape)} of {mask.dtype}"
        )


def check_tokens(tokens: Tensor, sizes: Sequence[int], *, prefix: bool = False) -> Tensor:
    """Tokens [B, K, F] as int64, found to be in range; with `prefix`, fewer than K rows will do."""
    if tokens.dim() != 3:
        raise InputError(f"tokens must be [B, {len(sizes)}, F], not {list(tokens.shape)}")
    if torch.is_floating_point(tokens) or tokens.dtype == torch.bool:
        raise InputError(f"tokens must be integers, not {tokens.dtype}")
    rows = tokens.shape[1]
    if not (1 <= rows <= len(sizes) if prefix else rows == len(sizes)):
        wanted = f"1 to {len(sizes)}" if prefix else str(len(sizes))
        raise InputError(f"tokens must have {wanted} rows (codebooks), not {rows}: {list(tokens.shape)}")
    tokens = tokens.long()
    if tokens.numel():
        # One pass over the tokens; one number comes back from the device.
        limits = torch.tensor(sizes[:rows], device=tokens.device)[:, None]
        if bool(((tokens < 0) | (tokens >= limits)).any()):
            low, high = int(tokens.min()), int(tokens.max())
            raise InputError(
                f"tokens run from {low} to {high}, but the codebooks have {tuple(sizes[:rows])} entries, counted from 0"
            )
    return tokens


def check_depth(num_codebooks: int | None, available: int) -> int:
    """How many codebooks to use: all of them for None."""
    if num_codebooks is None:
        return available
    if not 1 <= num_codebooks <= available:
        raise InputError(f"num_codebooks must be from 1 to {available}, not {num_codebooks}")
    return num_codebooks


def check_positive(**values: float) -> None:
    """Raises InputError for the first value that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name} must be above zero, not {value}")
