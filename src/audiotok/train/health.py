"""How well the codebooks of a training are used."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..quantize.distributed import sum_over_ranks

_TOKENS_PER_ENTRY = 32  # in a window: an entry of average use then goes unseen once in e^32


class CodebookHealth:
    """Counts which entries of each codebook are used, over windows of at least 32 tokens per entry.

    Nothing is asked of the device until `figures`.

    Args:
        sizes: V of each row of tokens.
        device: of the tokens.

    Attributes:
        state: int64 [K, max V] each, counts of this window, of the last whole one, and of the one before that.

    Example:
        >>> health = CodebookHealth([4])
        >>> health.add(torch.tensor([[[0, 0, 1, 1]]]))
        >>> health.figures()
        {'usage': [0.5], 'perplexity': [2.0], 'dead': [2], 'revived': [0]}
    """

    def __init__(self, sizes: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.sizes = list(sizes)
        widest = max(sizes)
        self._offsets = widest * torch.arange(len(sizes), device=device)[:, None]
        empty = torch.zeros(len(sizes), widest, dtype=torch.int64, device=device)
        self.state: dict[str, Tensor] = {"counts": empty, "last": empty.clone(), "before": empty.clone()}
        self._window = _TOKENS_PER_ENTRY * widest

    def add(self, tokens: Tensor) -> None:
        """Tokens [B, K, F] of a training step."""
        places = (tokens.transpose(0, 1).flatten(1) + self._offsets).flatten()
        self.state["counts"].view(-1).index_add_(0, places, torch.ones_like(places))  # bincount would ask the device

    def figures(self) -> dict[str, list[float] | list[int]]:
        """Of the last whole window, or of all so far before the first is whole; to be called by all processes.

        Returns:
            Nothing before the first tokens; then a number for each codebook. usage: share of its entries that were
            used. perplexity: 2 to the entropy of its tokens, in entries. dead: entries that were not used. revived: of
            the entries not used in the window before, those that were used in this one.
        """
        counts = sum_over_ranks(self.state["counts"])
        if int(counts[0].sum()) >= self._window:
            self.state["before"], self.state["last"] = self.state["last"], counts.clone()
            self.state["counts"].zero_()
        last = self.state["last"] if int(self.state["last"].sum()) else counts
        if not int(last[0].sum()):
            return {}
        used = last > 0
        shares = last.double() / last.sum(1, keepdim=True).clamp(min=1)
        entropy = -(shares * shares.clamp(min=1e-30).log()).sum(1)
        was_dead = (self.state["before"] == 0) & bool(self.state["before"].sum())
        number_used = used.sum(1).tolist()
        return {
            "usage": [round(count / size, 4) for count, size in zip(number_used, self.sizes, strict=True)],
            "perplexity": [round(value, 1) for value in entropy.exp().tolist()],
            "dead": [size - count for count, size in zip(number_used, self.sizes, strict=True)],
            "revived": (was_dead & used).sum(1).tolist(),
        }

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, the counts of all processes together; to be called by all of them."""
        return {**self.state, "counts": sum_over_ranks(self.state["counts"])}

    def load(self, state: dict[str, Tensor], *, main: bool) -> None:
        """The opposite of `saved`; only the first process takes the counts, which are everyone's."""
        for name, value in state.items():
            if main or name != "counts":
                self.state[name].copy_(value)
