"""Whole numbers from whatever holds them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


def whole_numbers(values: Any, what: str) -> Tensor:
    """An int64 tensor of a tensor, array or list of whole numbers.

    Args:
        values: what was handed in.
        what: begins the message, "sequence 3: wanted ids [L]".

    Raises:
        InputError: anything else; nothing is rounded.
    """
    try:
        # A copy: arrays of a memory map cannot be written to, and torch warns of that.
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what}, not this {type(values).__name__}: {error}") from error
    # An empty list has no type of its own.
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise InputError(f"{what} of whole numbers, not of {found.dtype}")
    return found.to(torch.int64)
