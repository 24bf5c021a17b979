"""What some of the codebooks of a codec stand for, with a gradient: what heads and distillation look at."""

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..quantize import Quantizer, ResidualVQ
from ..quantize.base import from_rows, to_rows
from ..quantize.gradient import estimate


def stage_vectors(quantizer: Quantizer, latents: Tensor, tokens: Tensor, codebooks: tuple[int, int] = (0, 1)) -> Tensor:
    """The part of the quantized vectors that a range of codebooks gives: what the codebooks up to its end decode to,
    less what those before it decode to.

    The gradient in `latents` is the quantizer's estimator's, from what the codebooks before the range left over. The
    maps of a `ResidualVQ` with `codebook_dim` get their gradient, too; other quantizers' maps get none here.

    Args:
        quantizer: one whose first codebooks decode alone (see the table in `audiotok.quantize`); or any, with all its
            codebooks as the range.
        latents: [B, D, F] what was quantized.
        tokens: [B, K, F] what came of it.
        codebooks: first one, and the one after the last, counted from 0.

    Returns:
        [B, D, F] float32.

    Raises:
        InputError: no such range, or the quantizer's codebooks do not come apart there.

    Example:
        >>> rvq = ResidualVQ(8, 16, 4).eval()
        >>> latents = torch.randn(2, 8, 5)
        >>> first = stage_vectors(rvq, latents, rvq.encode(latents))
        >>> torch.equal(first, rvq.decode(rvq.encode(latents)[:, :1]))
        True
    """
    first, end = codebooks
    if not 0 <= first < end <= quantizer.num_codebooks:
        raise InputError(f"codebooks must be a range within 0..{quantizer.num_codebooks}, not {first}..{end}")
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.float()
        before = quantizer.decode(tokens[:, :first]) if first else torch.zeros_like(latents)
        left_over = latents - before
        if isinstance(quantizer, ResidualVQ) and quantizer.layer(0).factorised:
            return _through_maps(quantizer, left_over, tokens, range(first, end))
        return estimate(left_over, quantizer.decode(tokens[:, :end]) - before, quantizer.gradient)


def _through_maps(quantizer: ResidualVQ, left_over: Tensor, tokens: Tensor, stages: range) -> Tensor:
    rows = to_rows(left_over)
    total = torch.zeros_like(rows)
    for stage in stages:
        layer = quantizer.layer(stage)
        book = layer.book()
        entry = functional.embedding(tokens[:, stage].reshape(-1), book.entries)
        quantized = layer.project_out(estimate(book.prepare(layer.project_in(rows)), entry, quantizer.gradient))
        total, rows = total + quantized, rows - quantized
    return from_rows(total, left_over)
