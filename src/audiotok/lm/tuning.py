"""What the encoder chooses for a codebook: the settings of the adaptive model that make its tokens take least bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .coding import CONTEXTS, MAX_CONTEXTS, PRIORS, Integers, Pairs, Tokens

_LOOKED_AT = 1 << 16  # tokens that the choice is made on, the first ones


def best_settings(
    tokens: Tokens, first: NDArray[np.bool_], starts: Sequence[tuple[Integers, Pairs | None]]
) -> tuple[int, int, int]:
    """The `numbers` and `pairs`, the `prior` and the `context` of `coding.code_adaptive`, each as its place in
    `starts`, PRIORS and CONTEXTS.

    The bits that each choice would take are computed for all tokens at once, from how often each token and pair came
    before each place. Floating point will do: the choice is stored with the tokens.
    """
    symbols, first = tokens[:_LOOKED_AT].astype(np.int64), first[:_LOOKED_AT]
    size, place, seen = len(starts[0][0]), np.arange(len(symbols)), _before(symbols)
    context = np.where(first, size, np.roll(symbols, 1))
    keys = context * size + symbols
    after, total = _before(keys), _before(context)
    best = (np.inf, 0, 0, 0)
    for i, (numbers, pairs) in enumerate(starts):
        expected = (numbers / numbers.sum())[symbols]
        told, told_total = after, total
        if pairs is not None:
            known, known_total = _looked_up(pairs, keys, context)
            told, told_total = after + known, total + known_total
        for j, prior in enumerate(PRIORS):
            single = (seen + prior * expected) / (place + prior)
            for k, strength in enumerate(CONTEXTS if size <= MAX_CONTEXTS else CONTEXTS[:1]):
                chance = (told + strength * single) / (told_total + strength) if strength else single
                best = min(best, (-float(np.log2(chance).sum()), i, j, k))
    return best[1:]


def _looked_up(pairs: Pairs, keys: Integers, contexts: Integers) -> tuple[Integers, Integers]:
    """The counts [N] of pairs and of their contexts."""
    where = np.searchsorted(pairs.keys, keys).clip(max=max(0, len(pairs.keys) - 1))
    counts = np.where(pairs.keys[where] == keys, pairs.counts[where], 0)
    sums = np.concatenate(([0], np.cumsum(pairs.counts)))
    ends = np.searchsorted(pairs.keys, np.arange(pairs.size + 2) * pairs.size)
    return counts, np.diff(sums[ends])[contexts]


def cheapest(tokens: Tokens, several: Sequence[Integers]) -> int:
    """Under which numbers [V], as probabilities, the tokens take least bits."""
    bits = [-float(np.log2(numbers[tokens] / numbers.sum()).sum()) for numbers in several]
    return bits.index(min(bits))


def _before(keys: Integers) -> Integers:
    """How often each key came before, [N].

    Example:
        >>> _before(np.array([5, 7, 5, 5, 7])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ranks = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    result = np.empty_like(ranks)
    result[order] = ranks
    return result
