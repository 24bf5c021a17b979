import hashlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.errors import CheckpointError, MissingDependencyError
from audiotok.lm.coding import (
    CONTEXTS,
    PRIORS,
    TOTAL,
    Decoder,
    Encoder,
    Pairs,
    code_adaptive,
    code_fixed,
    shared_out,
)
from audiotok.lm.tuning import best_settings, cheapest


class IntegerDecoder:
    """A range decoder (state of 64 bits, words of 32) in Python's integers alone: nothing in it can round."""

    def __init__(self, payload: bytes) -> None:
        self.words = [int(word) for word in np.frombuffer(payload, "<u4")]
        self.lower, self.range = 0, 2**64 - 1
        self.point = (self.next() << 32) | self.next()

    def next(self) -> int:
        return self.words.pop(0) if self.words else 0

    def code(self, tokens, weights):
        ends = np.cumsum(weights + 1)
        assert (weights.dtype, weights.min() >= 0, ends[-1]) == (np.int64, True, TOTAL)
        for i in range(len(tokens)):
            scale = self.range >> 24
            token = int(np.searchsorted(ends, (self.point - self.lower) % 2**64 // scale, "right"))
            tokens[i] = token
            self.lower = (self.lower + scale * int(ends[token] - weights[token] - 1)) % 2**64
            self.range = scale * int(weights[token] + 1)
            if self.range < 2**32:
                self.lower, self.range = (self.lower << 32) % 2**64, self.range << 32
                self.point = ((self.point << 32) | self.next()) % 2**64


class Cost:
    """The bits that tokens take, by their probabilities."""

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, tokens, weights):
        self.bits -= float(np.log2((weights[tokens] + 1) / TOTAL).sum())


def counted(tokens: np.ndarray, size: int) -> Pairs:
    keys, counts = np.unique(np.concatenate(([size], tokens))[:-1] * size + tokens, return_counts=True)
    return Pairs(keys.astype(np.int64), counts.astype(np.int64), size)


@st.composite
def cases(draw):
    """Tokens of some alphabet, with rows beginning here and there, and everything a model can be told."""
    size = draw(st.sampled_from([2, 3, 7, 64, 1024]))
    length = draw(st.integers(1, 200))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens = (random.integers(0, size, length) * random.random(length) ** draw(st.integers(0, 8))).astype(np.int32)
    first = random.random(length) < 0.1
    numbers = random.integers(0, 10 ** draw(st.integers(1, 9)), size) + 1
    pairs = counted(random.integers(0, size, 300), size) if draw(st.booleans()) else None
    return tokens, first.tolist(), numbers, pairs, draw(st.sampled_from(PRIORS)), draw(st.sampled_from(CONTEXTS))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_tokens_come_back_also_from_a_decoder_of_integers_alone(case):
    tokens, first, numbers, pairs, prior, context = case
    encoder = Encoder()
    code_adaptive(encoder, tokens.copy(), first, numbers, pairs, prior=prior, context=context)
    code_fixed(encoder, tokens.copy(), numbers)
    for decoder in (Decoder(encoder.payload()), IntegerDecoder(encoder.payload())):
        one, other = np.zeros_like(tokens), np.zeros_like(tokens)
        code_adaptive(decoder, one, first, numbers, pairs, prior=prior, context=context)
        code_fixed(decoder, other, numbers)
        assert one.tolist() == other.tolist() == tokens.tolist()


@pytest.mark.parametrize("size", [4096, 65536, 2**20])
def test_large_alphabets_come_back_also_from_integers_alone(size):
    tokens = np.random.default_rng(0).integers(0, size, 70).astype(np.int32)
    context = 16 if size == 4096 else 0
    encoder = Encoder()
    code_adaptive(encoder, tokens, [False] * 70, np.ones(size, np.int64), None, prior=16, context=context)
    found = np.zeros_like(tokens)
    code_adaptive(
        IntegerDecoder(encoder.payload()), found, [False] * 70, np.ones(size, np.int64), None, prior=16, context=context
    )
    assert found.tolist() == tokens.tolist()


class Digest:
    """Of all weights that a model gives to its coder."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def code(self, tokens, weights):
        self.sha.update(weights.astype("<i8").tobytes())


@pytest.mark.parametrize(
    ("size", "context", "wanted"),
    [
        (2, 4, "4d6e83be5209be98"),
        (100, 64, "765abe5b78cd17c2"),
        (3000, 256, "48b92945def04883"),
        (9000, 0, "5cf4c383246c8127"),
    ],
)
def test_the_models_are_those_of_the_first_version(size, context, wanted):
    # On every machine, and for ever: another weight anywhere, and old files could not be read any more.
    numbers = np.arange(2500)
    tokens = (numbers**2 // 7 % size * (numbers % 5 > 0) // (1 + numbers % 3)).astype(np.int32)
    pairs = counted(tokens[::-1].astype(np.int64), size) if context else None
    digest = Digest()
    code_adaptive(
        digest, tokens, (numbers % 400 == 0).tolist(), np.arange(size) % 7 + 1, pairs, prior=256, context=context
    )
    assert digest.sha.hexdigest()[:16] == wanted


@given(st.lists(st.integers(0, 2**62 // 300), min_size=2, max_size=300).filter(any))
def test_weights_add_up_and_keep_proportions(numbers):
    weights = shared_out(np.array(numbers, np.int64))
    free = TOTAL - len(numbers)
    assert weights.sum() == free
    exact = np.array([free * number / sum(numbers) for number in numbers])
    off = np.abs(weights - exact)
    off[weights.argmax()] = 0  # takes what rounding left
    assert off.max() <= 1.01


def test_the_stream_is_as_long_as_the_probabilities_say():
    random = np.random.default_rng(1)
    tokens = (random.random(5000) ** 3 * 100).astype(np.int32)
    numbers = np.bincount(tokens, minlength=100)
    encoder, cost = Encoder(), Cost()
    for coder in (encoder, cost):
        code_fixed(coder, tokens, numbers)
        code_adaptive(coder, tokens, [False] * 5000, np.ones(100, np.int64), None, prior=64, context=64)
    assert 0 <= 8 * len(encoder.payload()) - cost.bits < 64


def test_what_follows_what_is_learnt():
    tokens = np.tile(np.random.default_rng(0).permutation(64), 30).astype(np.int32)  # each always before the same one
    bits = {}
    for context in (0, 4):
        cost = Cost()
        code_adaptive(cost, tokens, [False] * len(tokens), np.ones(64, np.int64), None, prior=64, context=context)
        bits[context] = cost.bits / len(tokens)
    assert bits[0] == pytest.approx(6, abs=0.15)
    assert bits[4] < 1.0


def test_pairs_of_other_audio_help_from_the_first_token_on():
    tokens = np.tile(np.random.default_rng(0).permutation(64), 30).astype(np.int32)
    cost = Cost()
    first = [i == 0 for i in range(64)]
    code_adaptive(cost, tokens[:64], first, np.ones(64, np.int64), counted(tokens, 64), prior=64, context=4)
    # The first, seen once at a beginning; then 63 that came 30 times after the one before, against 4 by chance.
    wanted = -np.log2((1 + 4 / 64) / 5) - 63 * np.log2((30 + 4 / 64) / 34)
    assert cost.bits == pytest.approx(wanted, abs=0.1)


def test_a_row_that_begins_does_not_look_back():
    tokens, first = np.array([3, 1, 3, 2], np.int32), [True, False, True, False]
    shown = []

    class Spy:
        def code(self, tokens, weights):
            shown.append((weights[tokens[0]] + 1) / TOTAL)

    code_adaptive(Spy(), tokens, first, np.ones(4, np.int64), None, prior=16, context=4)
    # The third begins a row, where 3 was seen once; the fourth comes after a 3, after which 1 was seen once.
    assert shown == pytest.approx([1 / 4, 1 / 4, (1 + 4 / 4) / 5, (0 + 4 / 4) / 5], abs=1e-6)


def test_the_choice_of_settings_is_the_best_there_is():
    random = np.random.default_rng(5)
    tokens = ((np.cumsum(random.integers(-2, 3, 900)) % 40) + (random.random(900) < 0.1)).astype(np.int32) % 40
    first = np.arange(900) % 300 == 0
    alike, skewed = np.ones(40, np.int64), np.bincount(tokens[:500] // 3, minlength=40) + 1
    starts = [(alike, None), (skewed, None), (skewed, counted(random.permutation(tokens), 40))]
    bits = {}
    for i, (numbers, pairs) in enumerate(starts):
        for j, prior in enumerate(PRIORS):
            for k, context in enumerate(CONTEXTS):
                cost = Cost()
                code_adaptive(cost, tokens, first.tolist(), numbers, pairs, prior=prior, context=context)
                bits[i, j, k] = cost.bits
    for some in (starts, starts[1:], starts[2:]):
        known = [bits[i, j, k] for i, j, k in bits if i >= 3 - len(some)]
        i, j, k = best_settings(tokens, first, some)
        # It reckons as if counts were up to date at every token.
        assert bits[3 - len(some) + i, j, k] < 1.01 * min(known)
        assert bits[3 - len(some) + i, j, k] < 0.9 * max(known)


def test_the_cheapest_table_is_chosen():
    tokens = np.array([0, 0, 1, 2], np.int32)
    several = [np.array([1, 1, 1]), np.array([2, 1, 1]), np.array([1, 2, 2])]
    assert [cheapest(tokens, several), cheapest(tokens[2:], several), cheapest(tokens, several[:1])] == [1, 2, 0]


def test_a_payload_that_cannot_be_is_refused():
    decoder = Decoder(b"\xff" * 16)
    with pytest.raises(CheckpointError, match="not what these models can have written"):
        code_fixed(decoder, np.zeros(2000, np.int32), np.array([1, 2**20, 5], np.int64))


def test_without_constriction_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(MissingDependencyError, match=r"needs constriction: pip install 'audiotok\[lm\]'"):
        Encoder()
