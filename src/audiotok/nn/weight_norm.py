"""Weight normalisation (Salimans and Kingma 2016, arXiv 1602.07868) folded into plain weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError

#: How the pair (length, direction) of a weight is named: by `torch.nn.utils.weight_norm`, and by
#: `torch.nn.utils.parametrizations.weight_norm` from torch 2.0 on.
SPELLINGS = (("_g", "_v"), (".original0", ".original1"))
_PARAMETRIZED = "parametrizations."


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every weight-norm pair, in either spelling, replaced by the weight it stands for.

    weight = g · v / ‖v‖, the norm running over all axes but the one that g keeps: axis 0 in most convolutions, the
    kernel axis in the positional convolution of the wav2vec 2.0 family. g's own shape says which. The arithmetic is
    in float64, rounded once to the type of v; a direction of length zero gives zeros.

    Args:
        state: names to tensors. "x.weight_g" and "x.weight_v", or "x.parametrizations.weight.original0" and
            "...original1", become "x.weight"; other names stay.

    Returns:
        A new dict, in the order of `state`; tensors that are no part of a pair are the same objects.

    Raises:
        CheckpointError: half of a pair is missing, its shapes do not fit, or a weight is there twice.

    Example:
        >>> pair = {"conv.weight_g": torch.full((1, 1, 1), 5.0), "conv.weight_v": torch.tensor([[[3.0, 4.0]]])}
        >>> fold_weight_norm(pair)
        {'conv.weight': tensor([[[3., 4.]]])}
    """
    folded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pair = _pair_of(name)
        if pair is None:
            target, weight = name, tensor
        elif name == pair[0] and pair[1] in state:
            target, weight = _plain(name), _fold(_plain(name), tensor, state[pair[1]])
        elif name == pair[1] and pair[0] in state:
            continue  # done with its length
        else:
            other = pair[0] if name == pair[1] else pair[1]
            raise CheckpointError(f"half of a weight-norm pair: {name} is there, {other} is not. Is the file complete?")
        if target in folded:
            raise CheckpointError(f"{target} is there twice, plain or in two spellings of weight norm")
        folded[target] = weight
    return folded


def _pair_of(name: str) -> tuple[str, str] | None:
    """Names of the length and the direction of the pair that a name belongs to."""
    for spelling in SPELLINGS:
        for ending in spelling:
            stem = name.removesuffix(ending)
            parametrized = _PARAMETRIZED in stem
            if stem != name and stem.endswith("weight") and parametrized == (ending[0] == "."):
                return stem + spelling[0], stem + spelling[1]
    return None


def _plain(name: str) -> str:
    for ending in (ending for spelling in SPELLINGS for ending in spelling):
        name = name.removesuffix(ending)
    return name.replace(_PARAMETRIZED, "")


def _fold(name: str, length: Tensor, direction: Tensor) -> Tensor:
    kept = [axis for axis, size in enumerate(length.shape) if size != 1]
    fits = length.dim() == direction.dim() and all(length.shape[axis] == direction.shape[axis] for axis in kept)
    fits = fits and (len(kept) == 1 or (not kept and 1 in direction.shape))
    if not fits or not (length.is_floating_point() and direction.is_floating_point()):
        raise CheckpointError(
            f"the weight-norm pair of {name} does not fit: length {list(length.shape)} {length.dtype}, direction "
            f"{list(direction.shape)} {direction.dtype}"
        )
    exact = direction.double()
    over = [axis for axis in range(direction.dim()) if axis not in kept]
    norm = exact.square().sum(over, keepdim=True).sqrt() if over else exact.abs()
    return (exact * (length.double() / norm.clamp(min=torch.finfo(torch.float64).tiny))).to(direction.dtype)
