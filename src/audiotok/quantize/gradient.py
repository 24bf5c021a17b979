"""Gradients through a lookup that has none: the straight-through estimator and the rotation trick.

Both return the entry's values bit for bit, so a quantizer gives the same vectors whether or not it is
trained.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError

Estimator = Literal["straight-through", "rotation"]
_SMALLEST = 1e-6


def straight_through(x: Tensor, entry: Tensor) -> Tensor:
    """The values of `entry` with the gradient of the identity in x (Bengio et al. 2013, arXiv 1308.3432).

    Written entry + (x − x) and not x + (entry − x), whose rounding would change the entry.

    Args:
        x: [B, D, F] what was looked up.
        entry: [B, D, F] what was found; gets no gradient.

    Returns:
        [B, D, F], equal to `entry`, with d/dx = 1.

    Example:
        >>> x = torch.tensor([[[0.4]]], requires_grad=True)
        >>> y = straight_through(x, torch.ones(1, 1, 1))
        >>> y.sum().backward()
        >>> y.item(), x.grad.item()
        (1.0, 1.0)
    """
    return entry.detach() + (x - x.detach())


def rotation_trick(x: Tensor, entry: Tensor) -> Tensor:
    """The values of `entry`, with the gradient of the rotation and scaling that takes x to it.

    Fifty et al. 2024, "Restructuring vector quantization with the rotation trick", arXiv 2410.06424. With
    e = x/|x|, q = entry/|entry|, r = (e + q)/|e + q| the map is

        entry = (|entry|/|x|) · (I − 2 r rᵀ + 2 q eᵀ) x,

    whose matrix is held constant in the backward pass. Where it is not defined (x or entry is zero, or they
    point in opposite ways) the frame gets the straight-through gradient.

    Args:
        x: [B, D, F] what was looked up.
        entry: [B, D, F] what was found; gets no gradient.

    Returns:
        [B, D, F], equal to `entry`.

    Example:
        >>> x = torch.tensor([[[1.0], [0.0]]], requires_grad=True)
        >>> y = rotation_trick(x, torch.tensor([[[0.0], [2.0]]]))  # a quarter turn, twice as long
        >>> y[0, 1, 0].backward()
        >>> [round(value, 6) for value in x.grad[0, :, 0].tolist()]
        [2.0, 0.0]
    """
    with torch.no_grad():
        length, entry_length = (torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (x, entry))
        e = x / length.clamp(min=_SMALLEST)
        q = entry / entry_length.clamp(min=_SMALLEST)
        middle = e + q
        middle_length = torch.linalg.vector_norm(middle, dim=1, keepdim=True)
        r = middle / middle_length.clamp(min=_SMALLEST)
        scale = entry_length / length.clamp(min=_SMALLEST)
        defined = (length > _SMALLEST) & (entry_length > _SMALLEST) & (middle_length > _SMALLEST)
    along_r = (r * x).sum(1, keepdim=True)
    along_e = (e * x).sum(1, keepdim=True)
    turned = scale * (x - 2 * r * along_r + 2 * q * along_e)
    return straight_through(torch.where(defined, turned, x), entry)


def estimate(x: Tensor, entry: Tensor, estimator: Estimator) -> Tensor:
    """The values of `entry` with the gradient of the estimator named."""
    if not x.requires_grad:
        return entry.detach()
    return rotation_trick(x, entry) if estimator == "rotation" else straight_through(x, entry)


def check_estimator(estimator: str) -> None:
    if estimator not in get_args(Estimator):
        raise InputError(f"gradient must be one of {get_args(Estimator)}, not {estimator!r}")
