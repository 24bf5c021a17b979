"""Products with gradients: oneDNN's operator has none, so that torch's own computes them."""

import pytest
import torch
from torch.nn import functional

from audiotok.nn.products import linear, takes_onednn


@pytest.mark.parametrize("of", ["x", "weight"])
def test_gradients_are_torchs(of):
    given = {"x": torch.randn(20, 30), "weight": torch.randn(10, 30)}
    found = {name: value.clone().requires_grad_(name == of) for name, value in given.items()}
    wanted = {name: value.clone().requires_grad_(name == of) for name, value in given.items()}
    linear(**found, bias=None).square().sum().backward()
    functional.linear(wanted["x"], wanted["weight"]).square().sum().backward()
    torch.testing.assert_close(found[of].grad, wanted[of].grad)


def test_what_asks_for_a_gradient_is_kept_from_onednn_only_where_gradients_are_made():
    x, weight = torch.randn(20, 30), torch.randn(10, 30, requires_grad=True)
    assert not takes_onednn(x, weight)
    with torch.no_grad():
        assert takes_onednn(x, weight) == takes_onednn(x, weight.detach())
