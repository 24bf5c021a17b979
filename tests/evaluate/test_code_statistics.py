"""Usage, entropy and bit rates of codes, against values known by construction."""

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec
from audiotok.errors import CodesMismatchError, InputError
from audiotok.evaluate.code_statistics import CodeStatistics, CodeSummary
from audiotok.lm import compress_bytes


def codes_of(*rows: list[list[int]], size: int = 8) -> Codes:
    """Rows [K][F_i] of codebooks of `size` entries, 50 frames per second."""
    spec = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(size,) * len(rows[0]))
    lengths = torch.tensor([len(row[0]) for row in rows])
    tokens = torch.zeros(len(rows), len(rows[0]), int(lengths.max()), dtype=torch.int64)
    for target, row in zip(tokens, rows, strict=True):
        target[:, : len(row[0])] = torch.tensor(row)
    return Codes(tokens, lengths, 320 * lengths, spec)


def summary_of(*codes: Codes, adaptive: bool = True, adaptive_frames: int = 20_000) -> CodeSummary:
    statistics = CodeStatistics(codes[0].spec, adaptive_frames=adaptive_frames)
    for one in codes:
        statistics.add(one)
    return statistics.summary(adaptive=adaptive)


def test_tokens_that_come_equally_often_have_perplexity_v():
    found = summary_of(codes_of([list(range(8)) * 25]), adaptive=False)
    (codebook,) = found.codebooks
    assert (codebook.used, codebook.usage, codebook.dead) == (8, 1.0, 0)
    assert codebook.entropy_bits == pytest.approx(3)
    assert codebook.perplexity == pytest.approx(8)
    assert found.entropy_bps == pytest.approx(found.nominal_bps) == 150


def test_a_constant_needs_no_bits():
    found = summary_of(codes_of([[5] * 4000]))
    (codebook,) = found.codebooks
    assert (codebook.entropy_bits, codebook.perplexity) == (0, 1)
    assert (codebook.used, codebook.usage, codebook.dead) == (1, 1 / 8, 7)
    assert found.entropy_bps == 0
    assert 0 < found.adaptive_bps < 2  # of 150: what it costs to learn


def test_frequencies_of_a_half_a_quarter_and_two_eighths_have_1_75_bits():
    found = summary_of(codes_of([[0] * 40 + [1] * 20 + [2] * 10 + [3] * 10, [6] * 80]), adaptive=False)
    assert [one.entropy_bits for one in found.codebooks] == pytest.approx([1.75, 0])
    assert found.codebooks[0].perplexity == pytest.approx(2**1.75)
    assert found.entropy_bps == pytest.approx(50 * 1.75)
    assert (found.items, found.frames, found.seconds) == (1, 80, 1.6)
    assert (found.tokens_per_second, found.nominal_bps) == (100, 300)


def test_adaptive_coding_of_noise_saves_nothing_and_of_a_chain_saves_what_it_can():
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 8, 20_000).tolist()
    chain = (np.cumsum(draw.integers(0, 2, 20_000)) % 8).tolist()  # each of 8 equally often; given the last, one of 2
    found = summary_of(codes_of([noise]))
    assert found.entropy_bps < found.adaptive_bps < 1.01 * found.nominal_bps
    assert found.adaptive_frames == 1000  # of one item
    rows = [[chain[i : i + 500]] for i in range(0, 20_000, 500)]
    found = summary_of(codes_of(*rows))
    assert found.adaptive_frames == 20_000
    assert found.entropy_bps == pytest.approx(150, rel=0.001)
    assert 50 < found.adaptive_bps < 53  # 1 bit a frame


def test_the_adaptive_rate_is_what_compress_gives():
    codes = [codes_of([[(i * f) % 7 for f in range(60)], [(f + i) % 3 for f in range(60)]]) for i in range(5)]
    found = summary_of(*codes)
    _, wanted = compress_bytes(Codes.batch(codes))
    assert found.adaptive_frames == 300
    assert found.adaptive_bps == pytest.approx(wanted.bitrate_bps, rel=0.1)  # of the same rows in another order
    one = summary_of(codes[3])
    assert one.adaptive_bps == compress_bytes(codes[3])[1].bitrate_bps


def test_frames_of_padding_are_not_counted():
    together = codes_of([[1, 2, 3, 4]], [[5, 5]])
    alone = summary_of(codes_of([[1, 2, 3, 4]]), codes_of([[5, 5]]))
    assert summary_of(together) == alone
    assert (alone.frames, alone.codebooks[0].used) == (6, 5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 120),
    st.integers(0, 99),
)
def test_parts_in_any_order_merge_to_the_whole(rows, processes, adaptive_frames, seed):
    codes = [codes_of([row, row[::-1]]) for row in rows]
    whole = CodeStatistics(codes[0].spec, adaptive_frames=adaptive_frames)
    for one in codes:
        whole.add(one)
    random.Random(seed).shuffle(codes)
    parts = [CodeStatistics(codes[0].spec, adaptive_frames=adaptive_frames) for _ in range(processes)]
    for i, one in enumerate(codes):
        parts[i % processes].add(one)
    merged = CodeStatistics(codes[0].spec, adaptive_frames=adaptive_frames)
    for part in parts:
        merged.merge(CodeStatistics.from_dict(json.loads(json.dumps(part.to_dict()))))
    assert merged.to_dict() == whole.to_dict()
    assert merged.summary(adaptive=False) == whole.summary(adaptive=False)


def test_the_default_on_speech_agrees_with_a_count_by_hand(speech):
    tokenizer = audiotok.load("logmel-16khz")
    codes = tokenizer.encode(speech)
    found = summary_of(*codes)
    assert (found.nominal_bps, found.tokens_per_second) == (4000, 400)
    assert found.frames == int(codes.lengths.sum())
    for k, codebook in enumerate(found.codebooks):
        _, counts = torch.unique(codes.tokens[:, k][codes.mask], return_counts=True)
        shares = counts / counts.sum()
        assert codebook.used == len(counts) < codebook.size == 1024
        assert codebook.entropy_bits == pytest.approx(float(-(shares * shares.log2()).sum()), abs=1e-4)
    assert found.entropy_bps == pytest.approx(50 * sum(math.log2(one.perplexity) for one in found.codebooks))
    assert found.entropy_bps < found.adaptive_bps < 4000  # 340 frames: the estimate is low, the coder has just begun
    document = json.loads(json.dumps(found.to_dict()))
    assert document["codebooks"][0]["perplexity"] == found.codebooks[0].perplexity
    assert document["adaptive_bps"] == found.adaptive_bps


def test_what_cannot_be_counted_is_refused():
    codes = codes_of([[1, 2]])
    statistics = CodeStatistics(codes.spec)
    with pytest.raises(InputError, match="not a single frame"):
        statistics.summary()
    with pytest.raises(InputError, match=r"codebook 0 has tokens 0 to 7, not 1\.\.8"):
        statistics.add(codes_of([[1, 8]]))
    with pytest.raises(CodesMismatchError, match="not of demo with"):
        statistics.add(codes_of([[1], [2]]))
    with pytest.raises(CodesMismatchError, match="cannot be added"):
        statistics.merge(CodeStatistics(codes_of([[1]], size=9).spec))
    with pytest.raises(InputError, match="adaptive_frames=7 cannot be added"):
        statistics.merge(CodeStatistics(codes.spec, adaptive_frames=7))
    with pytest.raises(InputError, match="at least 1 frame, not 0"):
        CodeStatistics(codes.spec, adaptive_frames=0)
    for change in ({"counts": []}, {"counts": 3}, {"items": "many"}, {"spec": {}}):
        with pytest.raises(InputError):
            CodeStatistics.from_dict({**statistics.to_dict(), **change})
    with pytest.raises(InputError, match="no statistics of codes"):
        CodeStatistics.from_dict({})
