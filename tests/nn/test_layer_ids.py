"""Tokens of some layers become ids of one vocabulary; missing layers are 0."""

import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.layer_ids import layer_ids


def test_ids_follow_the_vocabulary_order_whatever_order_is_given():
    tokens = torch.tensor([[[4, 0], [1, 2]]])
    ids = layer_ids(tokens, [9, 1], known=[1, 5, 9], codebook_sizes=[3, 7, 5])
    assert ids.tolist() == [[[2, 3], [0, 0], [15, 11]]]


def test_all_layers_are_meant_when_none_are_named():
    ids = layer_ids(torch.zeros(2, 3, 1, dtype=torch.int64), None, known=[1, 5, 9], codebook_sizes=[3, 7, 5])
    assert ids[:, :, 0].tolist() == [[1, 4, 11]] * 2


@pytest.mark.parametrize(
    ("tokens", "layers", "message"),
    [
        (torch.zeros(1, 1, 4), [1], r"must be \[B, K, F\] int64"),
        (torch.zeros(1, 4, dtype=torch.int64), [1], r"must be \[B, K, F\] int64"),
        (torch.zeros(1, 1, 4, dtype=torch.int64), [2], r"different ones of \[1, 5\], not \[2\]"),
        (torch.zeros(1, 2, 4, dtype=torch.int64), [1, 1], "different ones"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), [], "different ones"),
        (torch.zeros(1, 1, 4, dtype=torch.int64), None, "1 rows of tokens for the 2 layers.*layers="),
        (torch.zeros(1, 1, 0, dtype=torch.int64), [1], "at least one frame"),
        (torch.tensor([[[3]]]), [1], r"V \[3\]\), not 3..3: take off"),
        (torch.tensor([[[-1]]]), [1], "take off"),
    ],
)
def test_what_does_not_fit_is_refused(tokens, layers, message):
    with pytest.raises(InputError, match=message):
        layer_ids(tokens, layers, known=[1, 5], codebook_sizes=[3, 3])
