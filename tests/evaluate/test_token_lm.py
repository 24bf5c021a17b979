"""Language models of tokens whose entropy is known, and of real ones."""

import json
import math
import statistics
from dataclasses import replace

import pytest
import torch

import audiotok
from audiotok import Codes, Spec
from audiotok.errors import CodesMismatchError, InputError
from audiotok.evaluate.seen_tokens import SeenTokens
from audiotok.evaluate.token_lm import token_lm


def codes_of(tokens: torch.Tensor, size: int) -> Codes:
    """Of tokens [B, K, F], 10 frames per second."""
    spec = Spec("demo", sample_rate=1000, hop_length=100, codebook_sizes=(size,) * tokens.shape[1])
    lengths = torch.full((len(tokens),), tokens.shape[2])
    return Codes(tokens, lengths, 100 * lengths, spec)


def noise(rows: int, codebooks: int, frames: int, size: int) -> torch.Tensor:
    return torch.randint(0, size, (rows, codebooks, frames), generator=torch.Generator().manual_seed(0))


def test_noise_has_perplexity_v():
    found = token_lm([codes_of(noise(200, 1, 30, 16), 16)], seeds=(0,), steps=60)
    assert found.perplexity == pytest.approx(16, rel=0.03)
    assert found.bits_per_second == pytest.approx(10 * 4, rel=0.02)
    assert (found.train_frames, found.held_out_frames) == (4800, 1200)


def test_a_constant_has_perplexity_1():
    found = token_lm([codes_of(torch.full((40, 1, 30), 3), 1024)], seeds=(0,), steps=60)
    assert found.perplexity == pytest.approx(1, abs=0.01)
    assert found.bits_per_second < 0.15


def test_a_chain_has_the_entropy_of_its_steps():
    draw = torch.Generator().manual_seed(1)
    steps = torch.multinomial(torch.tensor([0.5, 0.25, 0.25]), 300 * 25, replacement=True, generator=draw)
    tokens = (steps.reshape(300, 1, 25).cumsum(2) + noise(300, 1, 1, 6)) % 6
    found = token_lm([codes_of(tokens, 6)], seeds=(0,), steps=80)
    wanted = (24 * 1.5 + math.log2(6)) / 25  # the first token is any of 6
    assert wanted - 0.05 < found.bits[0][0] < wanted + 0.1
    assert found.bits[0][0] < math.log2(6) - 0.8


def test_a_codebook_is_predicted_from_those_before_it():
    first = noise(300, 1, 12, 4)
    found = token_lm([codes_of(torch.cat([first, (first + 3) % 4], 1), 4)], seeds=(0,), steps=80)
    assert found.bits[0][0] == pytest.approx(2, abs=0.1)
    assert found.bits[0][1] < 0.1  # in a delayed grid, it knows the first one's token of its own frame
    assert found.perplexity == pytest.approx(2 ** statistics.fmean(found.bits[0]))
    assert found.bits_per_second == pytest.approx(10 * sum(found.bits[0]))


def test_tokens_that_never_came_cost_what_it_takes_to_name_them():
    size = 2**40
    found = token_lm([codes_of(noise(40, 1, 20, size), size)], seeds=(0,), steps=5)
    assert found.bits[0][0] == pytest.approx(40)
    tokens = noise(200, 1, 20, 2)  # half of them one and the same, half of them new each time
    tokens = torch.where(tokens == 0, 7, noise(200, 1, 20, size))
    found = token_lm([codes_of(tokens, size)], seeds=(0,), steps=40)
    assert found.bits[0][0] == pytest.approx(1 + 40 / 2, rel=0.03)


def test_tokens_beyond_the_most_frequent_are_told_by_their_frequencies(monkeypatch):
    codes = [codes_of(noise(300, 1, 20, 16), 16)]
    monkeypatch.setattr("audiotok.evaluate.token_lm._MOST", 4)
    assert token_lm(codes, seeds=(0,), steps=60).perplexity == pytest.approx(16, rel=0.03)  # as with all 16


def test_only_the_first_codebooks_are_taken():
    tokens = torch.cat([torch.zeros(20, 1, 10, dtype=torch.int64), noise(20, 1, 10, 16)], 1)
    codes = codes_of(tokens, 16)
    found = token_lm([codes], num_codebooks=1, seeds=(0,), steps=30)
    assert len(found.bits[0]) == 1
    assert found == token_lm(codes.truncate(1).unbatch(), seeds=(0,), steps=30)


def test_the_same_seeds_give_the_same_result():
    codes, state = [codes_of(noise(12, 2, 10, 4), 4)], torch.random.get_rng_state()
    found = token_lm(codes, seeds=(1, 2), steps=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert token_lm(codes, seeds=(1, 2), steps=5) == found
    assert token_lm(codes, seeds=(2,), steps=5).bits == found.bits[1:]
    assert found.perplexity == statistics.fmean(found.perplexities)
    assert found.perplexity_deviation == statistics.stdev(found.perplexities) > 0
    document = json.loads(json.dumps(found.to_dict()))
    assert document["bits"] == [list(bits) for bits in found.bits]
    assert document["perplexity"] == found.perplexity


def test_coarse_codebooks_of_the_default_are_easier_than_fine_ones(clips):
    tokenizer = audiotok.load("logmel-16khz").use_codebooks(2)
    codes = [tokenizer.encode_file(path) for path in clips]
    parts = [one.slice(t / 2, t / 2 + 0.5) for one in codes for t in range(int(one.num_samples[0]) // 8000)]
    found = token_lm(parts, seeds=(0,), steps=50)
    assert found.frame_rate == 50
    assert 1 < found.bits[0][0] < found.bits[0][1] < 10
    assert found.bits_per_second < tokenizer.spec.bitrate_bps


def test_seen_tokens_are_numbered_without_gaps():
    rows = [torch.tensor([[5, 9], [0, 0]]), torch.tensor([[9, 7, 5], [2**40, 1, 0]])]
    seen = SeenTokens(rows)
    assert seen.sizes == (4, 4)
    assert seen.ids(rows[1]).tolist() == [[3, 2, 1], [3, 2, 1]]
    assert SeenTokens(rows, least=2).sizes == (3, 2)
    assert seen.ids(torch.tensor([[0, 6, 10, 5], [2, 2**39, 0, 2**41]])).tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    assert SeenTokens([torch.zeros(1, 0, dtype=torch.int64)]).ids(torch.tensor([[4]])).tolist() == [[0]]
    frequent = SeenTokens([torch.tensor([[4, 4, 4, 8, 8, 6, 6, 5, 2]])], least=2, most=2)
    assert frequent.sizes == (3,)
    assert frequent.ids(torch.tensor([[4, 6, 8, 5, 9]])).tolist() == [[1, 2, 0, 0, 0]]
    total = 4 + (10 - 2) / 2  # tokens 8, 8, 5, 2, and half a time each of the eight without an id
    wanted = math.log2(total / 2.5) + math.log2(total / 1.5) + math.log2(total / 0.5)
    assert frequent.bits_of_others(torch.tensor([[4, 6, 8, 5, 9]]), (10,)) == pytest.approx([wanted])
    assert frequent.bits_of_others(torch.tensor([[4, 6]]), (10,)) == [0]
    with pytest.raises(InputError, match=r"one number of codebooks, not of \[1, 2\]"):
        SeenTokens([rows[0], rows[0][:1]])
    with pytest.raises(InputError, match="not of none"):
        SeenTokens([])


def test_what_cannot_be_modelled_is_refused():
    codes = codes_of(noise(4, 1, 3, 4), 4)
    with pytest.raises(InputError, match="at least two items with frames, not 1"):
        token_lm([codes[0]])
    with pytest.raises(InputError, match="at least two items with frames, not 0"):
        token_lm([])
    with pytest.raises(InputError, match="1 to 1 codebooks, not 2"):
        token_lm([codes], num_codebooks=2)
    with pytest.raises(CodesMismatchError, match="codes of other are not of the tokenizer demo"):
        token_lm([codes, replace(codes, spec=replace(codes.spec, name="other"))])
    for wrong in ({"seeds": ()}, {"steps": 0}, {"held_out": 0.0}):
        with pytest.raises(InputError, match="a language model wants seeds"):
            token_lm([codes], **wrong)
