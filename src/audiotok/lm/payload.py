"""Tokens of all codebooks to one payload and back, in the way asked for: "static", "codebook" or "adaptive"."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .coding import (
    CONTEXTS,
    MAX_CONTEXTS,
    PRIORS,
    Coder,
    Decoder,
    Encoder,
    Integers,
    Tokens,
    code_adaptive,
    code_fixed,
)
from .entropy import EntropyModel, Start, starts_of
from .tuning import best_settings, cheapest

Coding = Literal["static", "codebook", "adaptive"]

# A file's own table of counts is stored in steps of half an octave, which costs about 0.01 bits a token.
_STEPS = np.array([0, 1, 2, 3, *(step << i for i in range(1, 38) for step in (2, 3))], np.int64)


def encode(
    tokens: Tokens, first: NDArray[np.bool_], sizes: tuple[int, ...], coding: Coding, table: EntropyModel | None
) -> bytes:
    """The payload of tokens [K, N] of codebooks of these sizes.

    Args:
        tokens: of all rows of audio, one after the other.
        first: [N], where a row of audio begins.
        sizes: V of each codebook.
        coding: "static" wants a table; "codebook" takes none.
        table: fits the sizes.
    """
    encoder = Encoder()
    for k, size in enumerate(sizes):
        if size < 2 or not len(first):
            continue
        starts = starts_of(table, k, size)
        if coding == "codebook":
            _code_own_table(encoder, tokens[k], np.bincount(tokens[k], minlength=size))
        elif coding == "static":
            _code_static(encoder, tokens[k], starts, cheapest(tokens[k], [numbers for numbers, _ in starts[:2]]))
        else:
            _code_adaptive(encoder, tokens[k], first, starts, best_settings(tokens[k], first, starts))
    return encoder.payload()


def decode(
    payload: bytes,
    first: NDArray[np.bool_],
    sizes: tuple[int, ...],
    coding: Coding,
    table: EntropyModel | None,
) -> Tokens:
    """Tokens [K, N]: the inverse of `encode`.

    Raises:
        CheckpointError: the payload is not one that `encode` gives.
    """
    decoder, tokens = Decoder(payload), np.zeros((len(sizes), len(first)), np.int32)
    for k, size in enumerate(sizes):
        if size < 2 or not len(first):
            continue
        starts = starts_of(table, k, size)
        # What an encoder chooses and counts, a decoder reads.
        if coding == "codebook":
            _code_own_table(decoder, tokens[k], np.zeros(size, np.int64))
        elif coding == "static":
            _code_static(decoder, tokens[k], starts, 0)
        else:
            _code_adaptive(decoder, tokens[k], first, starts, (0, 0, 0))
    if not decoder.finished():
        raise CheckpointError("its payload is longer than its tokens")
    return tokens


def _code_choice(coder: Coder, choice: int, count: int) -> int:
    """Codes a number below `count`, all alike, and gives it."""
    one = np.array([choice], np.int32)
    code_fixed(coder, one, np.ones(count, np.int64))
    return int(one[0])


def _code_static(coder: Coder, tokens: Tokens, starts: list[Start], choice: int) -> None:
    numbers, _ = starts[_code_choice(coder, choice, len(starts[:2]))]
    code_fixed(coder, tokens, numbers)


def _code_adaptive(
    coder: Coder, tokens: Tokens, first: NDArray[np.bool_], starts: list[Start], choices: tuple[int, int, int]
) -> None:
    contexts = CONTEXTS if len(starts[0][0]) <= MAX_CONTEXTS else CONTEXTS[:1]
    numbers, pairs = starts[_code_choice(coder, choices[0], len(starts))]
    prior = PRIORS[_code_choice(coder, choices[1], len(PRIORS))]
    context = contexts[_code_choice(coder, choices[2], len(contexts))]
    code_adaptive(coder, tokens, first.tolist(), numbers, pairs, prior=prior, context=context)


def _code_own_table(coder: Coder, tokens: Tokens, counts: Integers) -> None:
    """Codes the counts [V], as tokens of another kind, then the tokens."""
    steps = np.searchsorted(_STEPS, counts).astype(np.int32)
    code_adaptive(coder, steps, (), np.ones(len(_STEPS), np.int64), None, prior=16, context=0)
    code_fixed(coder, tokens, _STEPS[steps] if steps.any() else np.ones(len(counts), np.int64))
