"""Lookup-free quantization: each number keeps only its sign; no codebook is kept."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

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
from .distributed import sum_over_ranks
from .gradient import straight_through


class LFQ(Quantizer):
    """Lookup-free quantizer (Yu et al. 2023, MAGVIT-v2, arXiv 2310.05737).

    Number z_i becomes s·sign(z_i) (minus for zero); the token's bits are the signs, the first one the most
    significant. With entropy H and p(c|z) = softmax_c(2 τ z·c) over all V codes the training loss is

        entropy_weight · (mean H(p(·|z)) − diversity · H(mean p(·|z))) + commitment_weight · |z − q|²,

    means over valid frames (of all ranks, for the mean distribution). Both terms are exact at a cost that
    does not grow with V: p is a product over bits, so H(p) is a sum of binary entropies, and the mean of p is
    one matrix product of the two halves' distributions, [N, √V]ᵀ [N, √V]. No frames × codebook matrix is ever
    made.

    Args:
        dim: D; linear maps lead to the numbers and back when it differs from K · log2(V).
        codebook_size: V, a power of two.
        num_codebooks: K groups of numbers, each a row of tokens.
        scale: s.
        entropy_weight, diversity, commitment_weight: see above.
        inverse_temperature: τ.

    Raises:
        InputError: V is not a power of two, or a value is out of range.

    Example:
        >>> lfq = LFQ(2, 4).eval()
        >>> lfq.encode(torch.tensor([[[0.3, -2.0], [-0.1, 5.0]]]))
        tensor([[[2, 1]]])
    """

    powers: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        num_codebooks: int = 1,
        scale: float = 1.0,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment_weight: float = 0.0,
        inverse_temperature: float = 100.0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_codebooks=num_codebooks, scale=scale, inverse_temperature=inverse_temperature)
        if codebook_size < 2 or codebook_size & (codebook_size - 1):
            raise InputError(f"the codebook size must be a power of two, at least 2, not {codebook_size}")
        bits = codebook_size.bit_length() - 1
        self.dim, self.bits, self.scale = dim, bits, scale
        self.codebook_sizes = (codebook_size,) * num_codebooks
        self.entropy_weight, self.diversity = entropy_weight, diversity
        self.commitment_weight, self.inverse_temperature = commitment_weight, inverse_temperature
        mapped = dim != bits * num_codebooks
        self.project_in = Projection(dim, bits * num_codebooks) if mapped else nn.Identity()
        self.project_out = Projection(bits * num_codebooks, dim) if mapped else nn.Identity()
        self.register_buffer("powers", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.points(torch.arange(size, device=self.powers.device)) for size in self.codebook_sizes]

    def points(self, index: Tensor) -> Tensor:
        """Points [..., bits] float32 of indices."""
        bits = (index[..., None] & self.powers) != 0
        return torch.where(bits, self.scale, -self.scale)

    def index(self, z: Tensor) -> Tensor:
        """Indices of numbers z [..., bits]."""
        return ((z > 0) * self.powers).sum(-1)

    def _numbers(self, rows: Tensor) -> Tensor:
        z = self.project_in.wide(rows) if isinstance(self.project_in, Projection) else widen(rows)
        return z.view(len(rows), self.num_codebooks, self.bits)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        check_vectors(x, self.dim)
        return from_rows(self.index(self._numbers(to_rows(x))), x)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F].

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes)
        return from_rows(self.project_out(self.points(to_rows(tokens)).flatten(1)), tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        valid = None if mask is None else mask.reshape(-1)
        z = self._numbers(to_rows(x))
        index = self.index(z.detach())
        points = self.points(index)
        loss = self.loss(z.float(), points, valid)
        quantized = self.project_out(straight_through(z.float(), points).flatten(1))
        return Quantized(from_rows(quantized, x), from_rows(index, x), loss)

    def loss(self, z: Tensor, points: Tensor, valid: Tensor | None) -> Tensor:
        """The training loss of numbers z and their points [N, K, bits]; frames not valid [N] do not count."""
        weight = z.new_ones(len(z)) if valid is None else valid.to(z.dtype)
        z = torch.where(weight[:, None, None] > 0, z, 0.0)
        count = weight.sum().clamp(min=1)
        loss = z.new_zeros(())
        if self.commitment_weight:
            errors = (z - points).square().mean((1, 2))
            loss = loss + self.commitment_weight * (errors * weight).sum() / count
        if self.entropy_weight:
            logits = 4 * self.inverse_temperature * self.scale * z  # of a bit being set
            sure = (softplus(logits) - logits * logits.sigmoid()).sum(2).mean(1)
            certainty = (sure * weight).sum() / count
            spread = torch.stack([self._spread(part, weight) for part in logits.unbind(1)]).mean()
            loss = loss + self.entropy_weight * (certainty - self.diversity * spread)
        return loss

    def _spread(self, logits: Tensor, weight: Tensor) -> Tensor:
        """Entropy of the mean distribution over all V codes, from the logits [N, bits] of the bits."""
        half = self.bits // 2
        left, right = _joint(logits[:, :half]), _joint(logits[:, half:])
        total = (left * weight[:, None]).t() @ right  # [2^half, 2^(bits − half)], sum over frames
        everyone = sum_over_ranks(torch.cat([total.detach().flatten(), weight.sum()[None]]))
        total = total + (everyone[:-1].view_as(total) - total.detach())  # gradient of this rank's frames
        mean = total / everyone[-1].clamp(min=1)
        return -(mean * mean.clamp(min=1e-20).log()).sum()

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.codebook_sizes}, scale={self.scale}"


def _joint(logits: Tensor) -> Tensor:
    """[N, bits] logits to the [N, 2^bits] distribution of the codes they make, the first bit the most significant."""
    joint = logits.new_ones(len(logits), 1)
    for bit in logits.unbind(1):
        on = bit.sigmoid()
        pair = torch.stack([1 - on, on], 1)  # [N, 2]
        joint = (joint[:, :, None] * pair[:, None, :]).flatten(1)
    return joint


class ResidualLFQ(Quantizer):
    """Residual lookup-free quantizer: stage i keeps the signs of what is left, at scale 2^−i (arXiv
    2310.05737, 2107.03312).

    Args:
        dim: D; linear maps lead to the numbers and back when it differs from log2(V).
        codebook_size: V, a power of two.
        num_codebooks: K, the number of stages.
        entropy_weight, diversity, commitment_weight, inverse_temperature: of each stage's loss, see `LFQ`;
        their
            mean is the loss.

    Raises:
        InputError: V is not a power of two, or a value is out of range.

    Example:
        >>> lfq = ResidualLFQ(1, 2, 3).eval()
        >>> lfq.decode(lfq.encode(torch.tensor([[[0.7]]])))  # 1 − 1/2 + 1/4
        tensor([[[0.7500]]])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_codebooks: int,
        *,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment_weight: float = 0.0,
        inverse_temperature: float = 100.0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_codebooks=num_codebooks)
        bits = codebook_size.bit_length() - 1
        stages = [
            LFQ(
                max(1, bits),
                codebook_size,
                scale=2.0**-stage,
                entropy_weight=entropy_weight,
                diversity=diversity,
                commitment_weight=commitment_weight,
                inverse_temperature=inverse_temperature,
            )
            for stage in range(num_codebooks)
        ]
        self.dim, self.stages = dim, stages
        self.layers = nn.ModuleList(stages)
        self.codebook_sizes = (codebook_size,) * num_codebooks
        self.project_in = Projection(dim, bits) if bits != dim else nn.Identity()
        self.project_out = Projection(bits, dim) if bits != dim else nn.Identity()

    @property
    def codebooks(self) -> list[Tensor]:
        return [stage.codebooks[0] for stage in self.stages]

    def _numbers(self, rows: Tensor) -> Tensor:
        return self.project_in.wide(rows) if isinstance(self.project_in, Projection) else widen(rows)

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks` only that many first rows."""
        check_vectors(x, self.dim)
        residual = self._numbers(to_rows(x))
        tokens = []
        for stage in self.stages[: check_depth(num_codebooks, self.num_codebooks)]:
            tokens.append(stage.index(residual))
            residual = residual - stage.points(tokens[-1])
        return from_rows(torch.stack(tokens, 1), x)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first rows alone.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        rows = to_rows(check_tokens(tokens, self.codebook_sizes, prefix=True))
        stages = zip(self.stages, rows.unbind(1), strict=False)
        total = torch.stack([stage.points(index) for stage, index in stages]).sum(0)  # exact: powers of two
        return from_rows(self.project_out(total), tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        valid = None if mask is None else mask.reshape(-1)
        z = residual = self._numbers(to_rows(x))
        tokens, losses, total = [], [], torch.zeros_like(z, dtype=torch.float32)
        for stage in self.stages:
            tokens.append(stage.index(residual.detach()))
            points = stage.points(tokens[-1])
            losses.append(stage.loss(residual.float()[:, None], points[:, None], valid))
            residual, total = residual - points, total + points
        quantized = self.project_out(straight_through(z.float(), total))
        found = from_rows(torch.stack(tokens, 1), x)
        return Quantized(from_rows(quantized, x), found, torch.stack(losses).mean())
