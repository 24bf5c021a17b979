"""How tokens become bits: one range coder, and models of what comes next that both sides compute alike.

A model is a row of integer weights w [V] that add up to 2^24 - V; token i then has the probability (w[i] + 1) / 2^24,
exactly. constriction, which does the coding, is handed the weights as float32, in which integers up to 2^24 and their
sums are exact, and which it then neither scales nor rounds: so nothing here depends on how a machine rounds.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, MissingDependencyError

Integers = NDArray[np.int64]
Tokens = NDArray[np.int32]

TOTAL = 1 << 24  # of the probabilities
MAX_SIZE = 1 << 20  # largest V: beyond it, the one part in 2^24 that every token has adds up
MAX_CONTEXTS = 4096  # largest V whose pairs of tokens are counted, in at most 128 MiB

# What the encoder chooses among for each codebook. The first is how many tokens the prior of single tokens weighs as
# much as; the second how many pairs the model of single tokens weighs as much as, 0 for not looking at pairs.
PRIORS = (16, 64, 256, 1024, 4096, 65536)
CONTEXTS = (0, 4, 16, 64, 256, 1024, 4096)


class Coder(Protocol):
    """Either side of the range coder, so that a model is written once for both."""

    def code(self, tokens: Tokens, weights: Integers) -> None:
        """Writes the tokens to the stream, or fills them from it; all have the same weights [V]."""
        ...


class Encoder:
    """The writing side."""

    def __init__(self) -> None:
        self._library = _constriction()
        self._stream = self._library.queue.RangeEncoder()

    def code(self, tokens: Tokens, weights: Integers) -> None:
        self._stream.encode(tokens, _model(self._library, tokens, weights))

    def payload(self) -> bytes:
        """All that was written: a multiple of 4 bytes."""
        words: NDArray[np.uint32] = self._stream.get_compressed()
        return words.astype("<u4").tobytes()


class Decoder:
    """The reading side."""

    def __init__(self, payload: bytes) -> None:
        self._library = _constriction()
        self._stream = self._library.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))

    def code(self, tokens: Tokens, weights: Integers) -> None:
        try:
            tokens[:] = self._stream.decode(_model(self._library, tokens, weights), len(tokens))
        except AssertionError as error:  # what constriction raises
            raise CheckpointError("its payload is not what these models can have written") from error

    def finished(self) -> bool:
        """Whether nothing but the end of the stream is left."""
        done: bool = self._stream.maybe_exhausted()
        return done


def _constriction() -> Any:
    try:
        return importlib.import_module("constriction").stream
    except ImportError as error:
        raise MissingDependencyError("entropy coding needs constriction: pip install 'audiotok[lm]'") from error


def _model(library: Any, tokens: Tokens, weights: Integers) -> Any:
    # Lazy or not is a matter of speed alone; neither is the "perfect" fit, which computes with logarithms.
    return library.model.Categorical(weights.astype(np.float32), lazy=len(tokens) == 1, perfect=False)


def shared_out(numbers: Integers) -> Integers:
    """Weights [V] that add up to 2^24 - V, in proportion to numbers of at least 0, one of them above.

    Example:
        >>> shared_out(np.array([1, 0, 3])).tolist()
        [4194303, 0, 12582910]
    """
    free, most = TOTAL - len(numbers), int(numbers.max())
    shift = max(0, most.bit_length() - 38)  # products below 2^63
    numbers = numbers >> shift
    weights = numbers * free // int(numbers.sum())
    weights[numbers.argmax()] += free - int(weights.sum())
    return weights


@dataclass(frozen=True)
class Pairs:
    """How often token `successor` came right after token `context` of the same codebook, where it ever did.

    Attributes:
        keys: [N] int64, context · V + successor, ascending; context V is the beginning of a row of audio.
        counts: [N] int64, at least 1.
        size: V.
    """

    keys: Integers
    counts: Integers
    size: int

    def row(self, context: int) -> tuple[Integers, Integers]:
        """The successors of a context and their counts."""
        start, end = np.searchsorted(self.keys, (context * self.size, (context + 1) * self.size))
        return self.keys[start:end] - context * self.size, self.counts[start:end]


def code_fixed(coder: Coder, tokens: Tokens, numbers: Integers) -> None:
    """Codes the tokens [N] of one codebook with probabilities in proportion to `numbers` [V]."""
    if len(numbers) > 1 and len(tokens):
        coder.code(tokens, shared_out(numbers))


def code_adaptive(
    coder: Coder,
    tokens: Tokens,
    first: Sequence[bool],
    numbers: Integers,
    pairs: Pairs | None,
    *,
    prior: int,
    context: int,
) -> None:
    """Codes the tokens of one codebook with probabilities learnt from those before them.

    A token's probability mixes two estimates as a Dirichlet prior does (MacKay and Peto 1995, "A hierarchical
    Dirichlet language model"): how often it came at all, to which `numbers` give a start worth `prior` tokens, and how
    often it came after the token right before it, to which the first estimate gives a start worth `context` tokens.
    The first is brought up to date after every 16 tokens (V / 64, where that is
    more), later after a 32nd of what has come.

    Args:
        coder: of either side; the tokens are read from `tokens` or written to it.
        tokens: [N].
        first: [N], where a row of audio begins.
        numbers: [V], what to expect before anything has come.
        pairs: counts of other audio, which go on here; None begins with none.
        prior: as above, 1 to 2^16.
        context: as above; 0 leaves the token before out.
    """
    if len(numbers) < 2:
        return
    size, free = len(numbers), TOTAL - len(numbers)
    start_weights, counts = shared_out(numbers), np.zeros(size, np.int64)
    after = _Successors(size, pairs) if context else None
    previous = size
    for start, end in _blocks(len(tokens), size):
        weights = (counts * free + prior * start_weights) // (start + prior)
        weights[0] += free - int(weights.sum())
        if after is None:
            coder.code(tokens[start:end], weights)
        else:
            for i in range(start, end):
                if first[i]:
                    previous = size
                coder.code(tokens[i : i + 1], after.mixed(previous, weights, context))
                after.count(previous, token := int(tokens[i]))
                previous = token
        counts += np.bincount(tokens[start:end], minlength=size)


def _blocks(length: int, size: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < length:
        end = min(length, start + max(16, size // 64, min(start // 32, 4096)))
        yield start, end
        start = end


class _Successors:
    """Counts of pairs as they come. Memory is taken, and filled from `pairs`, for contexts that occur."""

    def __init__(self, size: int, pairs: Pairs | None) -> None:
        self._pairs = pairs
        self._counts = np.zeros((size + 1, size), np.int64)
        self._totals = [-1] * (size + 1)  # not looked at yet
        self._mixed, self._part = np.empty(size, np.int64), np.empty(size, np.int64)

    def mixed(self, context: int, weights: Integers, strength: int) -> Integers:
        """Weights after a context: [V], adding up to what `weights` add up to; valid until the next call."""
        total = self._totals[context]
        if total < 0:
            total = self._begin(context)
        if not total:
            return weights
        free, parts = TOTAL - len(weights), total + strength
        # Shares with 24 more bits: counts[i] <= total < 2^38, so that no product reaches 2^48.
        np.multiply(self._counts[context], (free << 24) // parts, out=self._mixed)
        np.multiply(weights, (strength << 24) // parts, out=self._part)
        mixed = self._mixed
        mixed += self._part
        mixed >>= 24
        mixed[0] += free - int(mixed.sum())
        return mixed

    def _begin(self, context: int) -> int:
        total = 0
        if self._pairs is not None:
            successors, counts = self._pairs.row(context)
            self._counts[context, successors] = counts
            total = int(counts.sum())
        self._totals[context] = total
        return total

    def count(self, context: int, token: int) -> None:
        self._counts[context, token] += 1
        self._totals[context] += 1
