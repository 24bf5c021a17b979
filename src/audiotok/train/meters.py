"""Means of losses over the steps between two lines of the log."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meters:
    """Sums of scalars by name; a name may be missing in some steps. Nothing is asked of the device until the sums are
    read, and what is not finite stays so.

    Example:
        >>> meters = Meters()
        >>> for loss in (1.0, 2.0):
        ...     meters.add({"mel": torch.tensor(loss)})
        >>> meters.means()
        {'mel': tensor(1.5000)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # [2]: sum, count

    @property
    def count(self) -> int:
        """Of names seen."""
        return len(self._sums)

    def add(self, values: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None) -> None:
        """Scalars of a step; `weights`, by name, are what it counts for in their means, where that is not 1."""
        for name, value in values.items():
            pair = torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
            pair = pair * weights[name] if weights and name in weights else pair
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, accelerator: Any = None) -> dict[str, Tensor]:
        """Of each name, over the steps that had it, and with Accelerate's accelerator over all processes, each step
        by its weight; 0 where nothing had any weight. To be called by all of them then."""
        pairs = self._sums if accelerator is None else self.saved(accelerator)
        return {name: pair[0] / pair[1].where(pair[1] > 0, 1.0) for name, pair in pairs.items()}

    def clear(self) -> None:
        """Begins anew."""
        self._sums.clear()

    def saved(self, accelerator: Any) -> dict[str, Tensor]:
        """What a checkpoint keeps: the means over all processes of sums and counts; to be called by all of them."""
        return {name: accelerator.reduce(pair, "mean") for name, pair in self._sums.items()}

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """The opposite of `saved`."""
        self._sums = {name: pair.to(device) for name, pair in state.items()}
