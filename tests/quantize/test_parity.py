"""Codes and vectors of vector-quantize-pytorch 1.32, from its state dicts."""

import pytest
import torch

from .parity import NAMES, load


def test_all_fourteen_fixtures_are_here():
    assert len(NAMES) == 14


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_vectors_equal_upstream(name):
    case = load(name)
    assert torch.equal(case.quantizer.encode(case.x), case.codes)
    result = case.quantizer(case.x)
    assert torch.equal(result.tokens, case.codes)
    assert result.loss == 0
    decoded = case.quantizer.decode(case.codes)
    assert torch.equal(result.quantized, decoded)
    if case.quantized is not None:
        torch.testing.assert_close(decoded, case.quantized, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoded, case.from_codes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random-projection"])
def test_training_gives_the_same_tokens_and_vectors(name):
    case = load(name)
    result = case.quantizer.train()(case.x)
    assert torch.equal(result.tokens, case.codes)
    torch.testing.assert_close(result.quantized, case.quantized, atol=1e-5, rtol=0)
