"""Matrix products by oneDNN and by the BLAS: the same numbers, and never a matrix that the operator cannot take."""

import pytest
import torch
from encoder_models import ARCHITECTURES, hidden_states, ours
from torch.nn import functional

import audiotok.nn.products as products
from audiotok.ssl.encoder_products import linear, tap_conv


@pytest.fixture(params=[True, False], ids=["oneDNN", "BLAS"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(products, "_ONEDNN", request.param and products._ONEDNN)


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (400, 96), (2, 33, 64), (9, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias, kernels):
    x, weight = torch.randn(shape), torch.randn(50, shape[-1])
    offset = torch.randn(50) if bias else None
    want = functional.linear(x.double(), weight.double(), None if offset is None else offset.double())
    torch.testing.assert_close(linear(x, weight, offset).double(), want, rtol=1e-5, atol=1e-5)


def test_views_are_taken(kernels):
    x, weight = torch.randn(3, 40, 30), torch.randn(20, 60)
    for view, part in ((x.transpose(1, 2), weight[:, :40]), (x[:, ::2, 3:], weight[:, 3:30]), (x[1:], weight[:, 30:])):
        torch.testing.assert_close(linear(view, part, None), view @ part.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (10, 5), (7, 3), (4, 1)])
def test_tap_conv(kernel, stride, kernels):
    x, weight, bias = torch.randn(61, 16), torch.randn(24, kernel * 16), torch.randn(24)
    filters = weight.view(24, kernel, 16).transpose(1, 2)
    want = functional.conv1d(x[3:].t(), filters, bias, stride=stride).t()
    got = tap_conv(x[3:], weight, bias, kernel=kernel, stride=stride)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_network_with_either(name, kernels):
    wav = 0.3 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    want, got = hidden_states(name, wav), ours(name)(wav)
    for layer, states in got.items():
        assert (states - want[layer]).abs().max() <= 1e-5 * want[layer].abs().max().clamp(min=1)


def test_it_can_be_switched_off_with_torchs_own_switch(monkeypatch):
    x, weight = torch.randn(20, 30), torch.randn(10, 30)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not products.takes_onednn(x, weight)
    assert torch.equal(linear(x, weight, None), functional.linear(x, weight))
