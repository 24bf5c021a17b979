"""`SeenTokens`: the tokens that a set of codes has, numbered without gaps, so that the size of a model that learns from
them does not depend on the size of the codebooks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import InputError


class SeenTokens:
    """Ids of the tokens that occurred, 1 to their number for each codebook, and 0 for all others.

    Nothing can be learnt of a token that does not occur, so nothing is lost; and a codebook of 2^18 entries takes no
    more memory than the data can fill.

    Args:
        rows: tokens [K, F_i] int64, of one tokenizer.
        least: how often a token must occur to get an id of its own. With 2, those that came once stand for those that
            never came, which come about as often (Good 1953, "The population frequencies of species and the estimation
            of population parameters"), so that a model can learn to expect them.
        most: of each codebook, so many ids at most, of the most frequent tokens.

    Raises:
        InputError: not a single row, or unlike numbers of codebooks.

    Example:
        >>> seen = SeenTokens([torch.tensor([[7, 7, 900]])])
        >>> seen.sizes, seen.ids(torch.tensor([[900, 3, 7]]))
        ((3,), tensor([[2, 0, 1]]))
    """

    def __init__(self, rows: Iterable[Tensor], *, least: int = 1, most: int | None = None) -> None:
        rows = [row.cpu() for row in rows]
        counts = {len(row) for row in rows}
        if len(counts) != 1:
            raise InputError(f"wanted rows of tokens of one number of codebooks, not of {sorted(counts) or 'none'}")
        self._values: list[Tensor] = []
        self._others: list[tuple[Tensor, Tensor]] = []  # tokens that occurred and have no id, and how often they did
        for k in range(counts.pop()):
            values, numbers = torch.unique(torch.cat([row[k] for row in rows]), return_counts=True)
            own = torch.zeros(len(values), dtype=torch.bool)
            own[numbers.sort(descending=True, stable=True).indices[:most]] = True
            own &= numbers >= least
            self._values.append(values[own])
            self._others.append((values[~own], numbers[~own]))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ids of each codebook, 0 included."""
        return tuple(len(values) + 1 for values in self._values)

    def ids(self, tokens: Tensor) -> Tensor:
        """[K, F] of tokens [K, F]."""
        return torch.stack([_ranks(values, row) for values, row in zip(self._values, tokens.cpu(), strict=True)])

    def bits_of_others(self, tokens: Tensor, codebook_sizes: Sequence[int]) -> list[float]:
        """For each codebook, what it takes to say which token each 0 of `ids` is.

        Their probabilities are in proportion to how often they occurred, and half a time more (Krichevsky and Trofimov
        1981, "The performance of universal encoding").

        Args:
            tokens: [K, F].
            codebook_sizes: V of each codebook.
        """
        found = []
        for values, others, row, size in zip(self._values, self._others, tokens.cpu(), codebook_sizes, strict=True):
            names, numbers = others
            rest = row[_ranks(values, row) == 0]
            counts = torch.cat([numbers.new_zeros(1), numbers])[_ranks(names, rest)]
            total = float(numbers.sum()) + (size - len(values)) / 2
            found.append(float((total / (counts.double() + 0.5)).log2().sum()))
        return found


def _ranks(values: Tensor, tokens: Tensor) -> Tensor:
    """1 + the index of each token among the ascending values, 0 where it is not among them."""
    if not len(values):
        return torch.zeros_like(tokens)
    places = torch.searchsorted(values, tokens.contiguous())
    found = values[places.clamp(max=len(values) - 1)] == tokens
    return torch.where(found, places + 1, 0)
