"""Runs of equal frames as one frame and its duration, and back."""

from dataclasses import replace

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import InputError


def deduplicate(codes: Codes) -> tuple[Codes, Tensor]:
    """Keeps the first of each run of frames that are equal in all codebooks, with how often it stood there.

    Of one codebook this is the usual run-length form of units: "reduced" units (Lakhotia et al. 2021, arXiv
    2102.01192) with the durations that a duration predictor learns. Padding is never looked at.

    Args:
        codes: of B rows.

    Returns:
        The units, Codes of [B, K, F'] with F' units at most and `num_samples` as they were; and durations [B, F']
        int64 in frames, at least 1, and 0 beyond a row's length.

    Example:
        >>> from audiotok import Spec
        >>> spec = Spec("demo", sample_rate=100, hop_length=10, codebook_sizes=(50,))
        >>> codes = Codes(torch.tensor([[[7, 7, 7, 4, 7]]]), torch.tensor([5]), torch.tensor([50]), spec)
        >>> units, durations = deduplicate(codes)
        >>> units.tokens, durations
        (tensor([[[7, 4, 7]]]), tensor([[3, 1, 1]]))
        >>> expand(units, durations).tokens
        tensor([[[7, 7, 7, 4, 7]]])
    """
    tokens, mask = codes.tokens, codes.mask
    begins = mask.clone()  # [B, F], the first frame of each run
    begins[:, 1:] &= (tokens[:, :, 1:] != tokens[:, :, :-1]).any(1)
    lengths = begins.sum(1)
    runs = begins.cumsum(1) - 1  # [B, F], the run that a frame belongs to
    rows, frames = begins.nonzero(as_tuple=True)
    units = tokens.new_zeros(*tokens.shape[:2], int(lengths.max()) if len(lengths) else 0)
    units[rows, :, runs[rows, frames]] = tokens[rows, :, frames]
    durations = tokens.new_zeros(len(tokens), units.shape[2])
    rows, frames = mask.nonzero(as_tuple=True)
    durations.index_put_((rows, runs[rows, frames]), torch.ones_like(rows), accumulate=True)
    return replace(codes, tokens=units, lengths=lengths), durations


def expand(units: Codes, durations: Tensor) -> Codes:
    """Repeats each unit as often as its duration says, inverse of `deduplicate`.

    Args:
        units: of B rows, [B, K, F'].
        durations: [B, F'] whole numbers of frames, at least 1; those beyond a row's length are not read.

    Raises:
        InputError: durations of another shape or type, or less than 1.
    """
    shape = (units.tokens.shape[0], units.tokens.shape[2])
    if durations.shape != shape or durations.is_floating_point() or durations.dtype == torch.bool:
        raise InputError(
            f"durations must be {list(shape)} whole numbers, not {list(durations.shape)} {durations.dtype}"
        )
    if bool((durations[units.mask] < 1).any()):
        raise InputError("every unit must last at least 1 frame: leave out those that last none")
    durations = durations.masked_fill(~units.mask, 0).to(torch.int64)
    lengths = durations.sum(1)
    rows = [row.repeat_interleave(times, dim=1) for row, times in zip(units.tokens, durations, strict=True)]
    longest = max((row.shape[1] for row in rows), default=0)
    padded = [torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows]
    tokens = torch.stack(padded) if padded else units.tokens
    return replace(units, tokens=tokens, lengths=lengths)
