"""What a plug-in's own tests look like: conformance, then numbers of its own."""

import torch

import audiotok
from audiotok.testing import check_tokenizer


def test_keeps_every_promise_of_the_interface():
    check_tokenizer(audiotok.load("mulaw-8khz"))


def test_levels_are_those_of_the_law():
    tok = audiotok.load("mulaw-8khz")
    wav = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.001, 0.5, 1.0])
    assert tok.encode(wav).tokens[0, 0].tolist() == [0, 0, 16, 128, 133, 239, 255]
