"""Tokens of some layers as ids of one vocabulary over all layers, in which 0 stands for a layer that is not there."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..errors import InputError


def layer_ids(
    tokens: Tensor, layers: Sequence[int] | None, known: Sequence[int], codebook_sizes: Sequence[int]
) -> Tensor:
    """Ids [B, L, F] of tokens [B, K, F]: 1 + the sizes of the layers before + the token; 0 for a missing layer.

    Args:
        tokens: int64, each row counted from 0.
        layers: which layers the K rows are; None means all that are known, in order.
        known: the L layers by their own numbers, ascending or not.
        codebook_sizes: V of each of the L layers.

    Raises:
        InputError: wrong rank or type, rows that do not fit the layers, a layer that is unknown or given twice,
            or tokens out of range.

    Example:
        >>> layer_ids(torch.tensor([[[0, 9]]]), [7], known=[3, 7, 12], codebook_sizes=[10, 10, 10])[0].tolist()
        [[0, 0], [11, 20], [0, 0]]
    """
    if tokens.dim() != 3 or tokens.dtype != torch.int64:
        raise InputError(f"tokens must be [B, K, F] int64, not {list(tokens.shape)} {tokens.dtype}")
    chosen = list(known) if layers is None else list(layers)
    unknown = [layer for layer in chosen if layer not in known]
    if unknown or len(set(chosen)) < len(chosen) or not chosen:
        raise InputError(f"layers must be different ones of {list(known)}, not {chosen}")
    if tokens.shape[1] != len(chosen):
        hint = "; say which they are with layers=" if layers is None else ""
        raise InputError(f"{tokens.shape[1]} rows of tokens for the {len(chosen)} layers {chosen}{hint}")
    if tokens.shape[2] < 1:
        raise InputError("tokens need at least one frame")
    places = [list(known).index(layer) for layer in chosen]
    limits = torch.tensor([codebook_sizes[place] for place in places], device=tokens.device)[:, None]
    if bool(((tokens < 0) | (tokens >= limits)).any()):
        raise InputError(
            f"tokens must lie in 0..V-1 of their layer (V {limits[:, 0].tolist()}), not {int(tokens.min())}.."
            f"{int(tokens.max())}: take off vocabulary offsets and padding ids first"
        )
    starts = torch.tensor([1, *accumulate(codebook_sizes, initial=1)][1:-1], device=tokens.device)[places]
    ids = tokens.new_zeros(tokens.shape[0], len(known), tokens.shape[2])
    ids[:, places] = tokens + starts[:, None]
    return ids
