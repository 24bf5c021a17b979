"""The network of Mimi: SEANet, a transformer and a change of rate on each side; two residual quantizers between."""

import torch
from torch import Tensor

from ..nn.causal_transformer import CausalTransformer
from ..nn.conv import Conv, ConvTranspose, Layer
from ..nn.flow import Flow
from ..nn.seanet import seanet_decoder, seanet_encoder
from ..quantize import ResidualVQ, VQOptions
from ..quantize.base import Projection, Quantized, Quantizer, check_depth, check_tokens, check_vectors
from .mimi_config import MimiConfig


def transformer(config: MimiConfig) -> CausalTransformer:
    """One of the two."""
    return CausalTransformer(
        config.seanet.dimension,
        heads=config.heads,
        layers=config.layers,
        hidden=config.hidden,
        context=config.context,
        max_period=config.max_period,
        epsilon=config.epsilon,
    )


class MimiEncoder(Layer):
    """wav [B, T, C] to latents [B, T / hop, D], of T whole hops."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        dim, stride = config.seanet.dimension, config.stride
        self.seanet = seanet_encoder(config.seanet)
        self.transformer = transformer(config)
        self.down = Conv(dim, dim, 2 * stride, stride=stride, padding="causal", mode="replicate", bias=False)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        found: Tensor = self.down(self.transformer(self.seanet(x, flow), flow), flow)
        return found


class MimiDecoder(Layer):
    """Latents [B, F, D] to wav [B, F · hop, C]."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        dim, stride = config.seanet.dimension, config.stride
        self.up = ConvTranspose(dim, dim, 2 * stride, stride=stride, trim=(0, stride), groups=dim, bias=False)
        self.transformer = transformer(config)
        self.seanet = seanet_decoder(config.seanet)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        found: Tensor = self.seanet(self.transformer(self.up(x, flow), flow), flow)
        return found


class ProjectedRVQ(Quantizer):
    """Residual vector quantization between two linear maps, which all its codebooks share."""

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...], codebook_dim: int) -> None:
        super().__init__()
        self.dim, self.codebook_sizes = dim, codebook_sizes
        self.project_in = Projection(dim, codebook_dim, bias=False)
        self.rvq = ResidualVQ(codebook_dim, codebook_sizes, len(codebook_sizes), options=VQOptions(update="frozen"))
        self.project_out = Projection(codebook_dim, dim, bias=False)

    @property
    def codebooks(self) -> list[Tensor]:
        return self.rvq.codebooks

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks` only that many first rows."""
        return self.rvq.encode(self.project_in(x.mT).mT, num_codebooks)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first rows alone."""
        found: Tensor = self.project_out(self.rvq.decode(tokens).mT).mT
        return found

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        inside = self.rvq.train_forward(self.project_in(x.mT).mT, mask)
        return Quantized(self.project_out(inside.quantized.mT).mT, inside.tokens, inside.loss)


class SplitRVQ(Quantizer):
    """Two residual quantizers of the same vectors, whose results are added (Défossez et al. 2024, arXiv 2410.00037,
    section 3.3). The first holds what distillation taught it about words, unhindered by what the second must keep.

    Args:
        dim: D.
        codebook_sizes: V of each of the K codebooks.
        semantic: how many of them are the first quantizer's.
        codebook_dim: width of the search spaces.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...], *, semantic: int, codebook_dim: int) -> None:
        super().__init__()
        self.dim, self.codebook_sizes, self.split = dim, codebook_sizes, semantic
        self.semantic = ProjectedRVQ(dim, codebook_sizes[:semantic], codebook_dim)
        self.acoustic = ProjectedRVQ(dim, codebook_sizes[semantic:], codebook_dim)

    @property
    def codebooks(self) -> list[Tensor]:
        return [*self.semantic.codebooks, *self.acoustic.codebooks]

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F], the semantic first; with `num_codebooks` only that many rows."""
        check_vectors(x, self.dim)
        depth = check_depth(num_codebooks, self.num_codebooks)
        tokens = self.semantic.encode(x, min(depth, self.split))
        return tokens if depth <= self.split else torch.cat([tokens, self.acoustic.encode(x, depth - self.split)], 1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of their first rows alone.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        found = self.semantic.decode(tokens[:, : self.split])
        return found if tokens.shape[1] <= self.split else found + self.acoustic.decode(tokens[:, self.split :])

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        parts = [(part, part.train_forward(x, mask)) for part in (self.semantic, self.acoustic)]
        loss = sum((one.loss * part.num_codebooks for part, one in parts), x.new_zeros(())) / self.num_codebooks
        quantized, tokens = [one.quantized for _, one in parts], torch.cat([one.tokens for _, one in parts], 1)
        return Quantized(quantized[0] + quantized[1], tokens, loss)
