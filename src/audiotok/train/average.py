"""The moving average of a network's weights."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Moving average of a network's weights and floating-point buffers, codebooks among them; other buffers are copied.

    At step t the past weighs min(decay, (1 + t) / (10 + t)), so that the first steps are soon forgotten.

    Args:
        network: a copy of the one that is trained, before its first step; the average is kept in it.
        decay: from 0 to below 1; 0 copies.

    Example:
        >>> network, average = nn.Linear(1, 1, bias=False), WeightAverage(nn.Linear(1, 1, bias=False), 0.999)
        >>> with torch.no_grad():
        ...     _ = network.weight.fill_(1.0), average.network.weight.fill_(0.0)
        >>> average.update(network, step=90)  # the past weighs 91 / 100
        >>> round(average.network.weight.item(), 4)
        0.09
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network.eval().requires_grad_(False), decay
        self._mine = self._split(network)
        self._theirs: tuple[nn.Module, tuple[list[Tensor], list[Tensor]]] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the network after training step `step`, counted from 0."""
        if self._theirs is None or self._theirs[0] is not network:
            self._theirs = network, self._split(network)
        averaged, copied = self._theirs[1]
        past = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine[0], averaged, 1 - past)
        if copied:
            torch._foreach_copy_(self._mine[1], copied)

    @staticmethod
    def _split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        state = list(network.state_dict(keep_vars=True).values())
        floating = [one.detach() for one in state if one.is_floating_point() and one.numel()]
        return floating, [one for one in state if not one.is_floating_point()]
