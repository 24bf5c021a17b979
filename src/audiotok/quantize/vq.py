"""Vector quantization with one lookup per frame (SVQ), or with one per head."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import (
    Memo,
    Projection,
    Quantized,
    Quantizer,
    check_positive,
    check_tokens,
    check_vectors,
    from_rows,
    to_rows,
)
from .codebook import Codebook
from .gradient import estimate
from .options import VQOptions


@dataclass(frozen=True)
class Seen:
    """What one head saw in a training step, to be told to its codebook."""

    rows: Tensor  # [N, codebook_dim], detached
    tokens: Tensor  # [N]
    valid: Tensor | None  # [N] bool


class VectorQuantizer(Quantizer):
    """Replaces each frame by the nearest entry of a learned codebook (van den Oord et al. 2017, arXiv
    1711.00937).

    With `codebook_dim` the search runs in a space of few dimensions behind a linear map, and another map
    leads back (factorised codes: Yu et al. 2021, "Improved VQGAN", arXiv 2110.04627; DAC, Kumar et al. 2023,
    arXiv 2306.06546). With `heads` that space is cut into parts, each with a codebook of its own and so a row
    of tokens. There are no maps when heads × codebook_dim is D.

    The training loss is the mean over the heads of

        commitment_weight · |z − sg(entry)|² + codebook_weight · |sg(z) − entry|²,

    as means over valid frames and values, z being what is searched for; the second term only with
    update="gradient".

    Args:
        dim: D.
        codebook_size: V.
        codebook_dim: width of the search space of one head; default D / heads.
        heads: number of codebooks side by side.
        options: lookup, update, estimator and the rest; see `VQOptions`.
        seed: of the first entries; everything random follows from it.

    Raises:
        InputError: D is not a multiple of heads and no codebook_dim is given.

    Example:
        >>> vq = VectorQuantizer(8, 16).eval()
        >>> tokens = vq.encode(torch.randn(2, 8, 5))
        >>> tokens.shape, vq.decode(tokens).shape
        (torch.Size([2, 1, 5]), torch.Size([2, 8, 5]))
    """

    project_in: Projection | nn.Identity
    project_out: Projection | nn.Identity

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        heads: int = 1,
        options: VQOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, codebook_size=codebook_size, heads=heads)
        if codebook_dim is None:
            if dim % heads:
                raise InputError(f"{heads} heads cannot share {dim} dimensions evenly: give codebook_dim")
            codebook_dim = dim // heads
        check_positive(codebook_dim=codebook_dim)
        self.dim, self.codebook_dim, self.heads = dim, codebook_dim, heads
        self.options = options or VQOptions()
        self.gradient = self.options.gradient
        self.codebook_sizes = (codebook_size,) * heads
        self.factorised = codebook_dim * heads != dim
        self.project_in = Projection(dim, codebook_dim * heads) if self.factorised else nn.Identity()
        self.project_out = Projection(codebook_dim * heads, dim) if self.factorised else nn.Identity()
        books = (Codebook(codebook_size, codebook_dim, self.options, seed=seed + head) for head in range(heads))
        self.books = nn.ModuleList(books)
        self._tables: Memo[list[Tensor]] = Memo()

    def book(self, head: int = 0) -> Codebook:
        """The codebook of a head."""
        return cast(Codebook, self.books[head])

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.book(head).entries for head in range(self.heads)]

    @property
    def decoded(self) -> list[Tensor]:
        """One [V, D] table per head: what each entry adds to the decoded vector. Kept until it changes."""
        sources = self.codebooks
        if isinstance(self.project_out, Projection):
            sources = [
                *sources,
                self.project_out.weight,
                *([] if self.project_out.bias is None else [self.project_out.bias]),
            ]
        return self._tables.get(sources, self._decode_tables)

    def _decode_tables(self) -> list[Tensor]:
        with torch.no_grad():
            books = [book.detach().float() for book in self.codebooks]
            if self.heads == 1:
                return [self.project_out(books[0])]
            tables = []
            for head, book in enumerate(books):
                wide = book.new_zeros(len(book), self.heads * self.codebook_dim)
                wide[:, head * self.codebook_dim : (head + 1) * self.codebook_dim] = book
                # The bias belongs to the first head: it must be added once.
                tables.append(self.project_out(wide) - (self.project_out(torch.zeros_like(wide)) if head else 0.0))
            return tables

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, heads, F] int64 of x [B, D, F]."""
        check_vectors(x, self.dim)
        tokens = self.encode_rows(to_rows(x.float()))
        return tokens.view(self.heads, len(x), x.shape[2]).transpose(0, 1).contiguous()

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Tokens [heads, N] of rows [N, D] float32."""
        parts = self.project_in(rows).split(self.codebook_dim, 1)
        return torch.stack([self.book(head).search(part) for head, part in enumerate(parts)])

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, heads, F].

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes)
        rows = torch.stack(
            [table[row.reshape(-1)] for table, row in zip(self.decoded, tokens.unbind(1), strict=True)]
        ).sum(0)
        return from_rows(rows, tokens)

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        valid = None if mask is None else mask.reshape(-1)
        rows, tokens, loss, seen = self.train_rows(to_rows(x), valid)
        self.observe([seen])
        tokens = tokens.view(self.heads, len(x), x.shape[2]).transpose(0, 1).contiguous()
        return Quantized(from_rows(rows, x), tokens, loss)

    def train_rows(self, rows: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, list[Seen]]:
        """Trains on rows [N, D] float32: quantized [N, D], tokens [heads, N], loss, and what to `observe`."""
        quantized, tokens, seen = [], [], []
        loss = rows.new_zeros(())
        for head, part in enumerate(self.project_in(rows).split(self.codebook_dim, 1)):
            book = self.book(head)
            book.start(part, valid)
            z = book.prepare(part)
            found = book.search(z)
            entry = nn.functional.embedding(found, book.entries)
            loss = loss + self.options.commitment_weight * _mean_square(z - entry.detach(), valid)
            if self.options.update == "gradient":
                loss = loss + self.options.codebook_weight * _mean_square(z.detach() - entry, valid)
            quantized.append(estimate(z, entry, self.gradient))
            tokens.append(found)
            seen.append(Seen(z.detach(), found, valid))
        return self.project_out(torch.cat(quantized, 1)), torch.stack(tokens), loss / self.heads, seen

    def observe(self, steps: list[list[Seen]]) -> None:
        """Tells the codebooks what `train_rows` saw; several calls of it count as one step."""
        for head in range(self.heads):
            parts = [seen[head] for seen in steps]
            valid = None
            if any(part.valid is not None for part in parts):
                valid = torch.cat(
                    [torch.ones_like(p.tokens, dtype=torch.bool) if p.valid is None else p.valid for p in parts]
                )
            rows, tokens = (
                torch.cat([part.rows for part in parts]),
                torch.cat([part.tokens for part in parts]),
            )
            self.book(head).observe(rows, tokens, valid)


def _mean_square(difference: Tensor, valid: Tensor | None) -> Tensor:
    """Mean square of [N, D] over the valid rows [N]; 0 if there are none."""
    squares = difference.square().mean(1)
    if valid is None:
        return squares.sum() / max(1, len(squares))
    return torch.where(valid, squares, 0.0).sum() / valid.sum().clamp(min=1)
