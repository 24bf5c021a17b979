"""Vocos: blocks and inverse STFT against torch's own layers, in every way that a signal can come."""

import pytest
import torch
from torch import Tensor, nn

from audiotok.errors import InputError
from audiotok.nn.flow import Whole
from audiotok.nn.vocos import IstftHead, Scale, convnext_block, gelu, vocos

from .test_flow import assert_all_ways_agree, whole


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


class TorchBlock(nn.Module):
    """The block with channels first, as its paper draws it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.convolution(x.mT).mT)
        return x + self.gamma * self.second(nn.functional.gelu(self.first(y)))


def test_a_block_is_torchs():
    torch.manual_seed(0)
    wanted, block = TorchBlock(6, 10), convnext_block(6, 10)
    theirs = wanted.state_dict()
    names = {
        "0.weight": "convolution.weight",
        "0.bias": "convolution.bias",
        "0.norm.weight": "norm.weight",
        "0.norm.bias": "norm.bias",
        "1.weight": "first.weight",
        "1.bias": "first.bias",
        "2.weight": "second.weight",
        "2.bias": "second.bias",
        "3.gamma": "gamma",
    }
    state = {f"branch.{ours}": theirs[name] for ours, name in names.items()}
    block.load_state_dict({name: value.view(block.state_dict()[name].shape) for name, value in state.items()})
    x = torch.randn(2, 30, 6)
    torch.testing.assert_close(whole(block, x), wanted(x), atol=1e-6, rtol=0)
    assert_all_ways_agree(block, [1, 2, 5, 31, 100], 6)


def test_gelu_writes_where_it_is_told():
    x = torch.linspace(-4, 4, 50)
    out = torch.empty(50)
    assert gelu(x, out) is out
    assert torch.equal(out, gelu(x))
    torch.testing.assert_close(out, x * (1 + torch.erf(x / 2**0.5)) / 2, atol=1e-6, rtol=0)


def istft(y: Tensor, fft: int, hop: int, *, causal: bool = False) -> Tensor:
    """Window by window, of log-magnitudes and phases y [F, fft + 2]. A causal one begins with windows of silence."""
    if causal:
        before = fft // hop + 1
        silence = torch.full((before, y.shape[1]), -1000.0)
        y = torch.cat([silence, y])
    magnitude, phase = y.double().chunk(2, 1)
    hann = torch.hann_window(fft, dtype=torch.float64)
    wav, overlap = torch.zeros(2, (len(y) - 1) * hop + fft, dtype=torch.float64)
    for frame, spectrum in enumerate(magnitude.exp().clamp(max=100) * torch.exp(1j * phase)):
        wav[frame * hop : frame * hop + fft] += torch.fft.irfft(spectrum, fft) * hann
        overlap[frame * hop : frame * hop + fft] += hann.square()
    left = before * hop if causal else (fft - hop) // 2
    return (wav / overlap)[left : len(y) * hop + (0 if causal else left)]


SIZES = [(40, 10), (32, 16), (24, 8), (20, 8), (16, 14)]  # the last two are no whole number of hops


@pytest.mark.parametrize(("fft", "hop"), SIZES)
@pytest.mark.parametrize("frames", [1, 2, 3, 20])
def test_the_head_is_an_inverse_stft(fft, hop, frames):
    torch.manual_seed(frames)
    head = IstftHead(5, fft=fft, hop=hop)
    x = torch.randn(2, frames, 5)
    found = whole(head, x)
    assert found.shape == (2, frames * hop, 1)
    for row, wav in zip(x, found, strict=True):
        wanted = istft(row @ head.out.weight[..., 0].T + head.out.bias, fft, hop)
        torch.testing.assert_close(wav[:, 0].double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fft", "hop"), SIZES)
@pytest.mark.parametrize("frames", [1, 2, 20])
def test_a_causal_head_fades_in_from_silence(fft, hop, frames):
    torch.manual_seed(frames)
    head = IstftHead(5, fft=fft, hop=hop, causal=True)
    x = torch.randn(1, frames, 5)
    found = whole(head, x)[0, :, 0]
    wanted = istft(x[0] @ head.out.weight[..., 0].T + head.out.bias, fft, hop, causal=True)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    assert_all_ways_agree(head, [1, 2, 5, 31, 64], 5, atol=1e-4)


@pytest.mark.parametrize(("fft", "hop"), SIZES)
def test_the_head_takes_pieces_and_ragged_rows(fft, hop):
    torch.manual_seed(0)
    assert_all_ways_agree(IstftHead(5, fft=fft, hop=hop), [1, 2, 5, 31, 64], 5, atol=1e-4)


def test_the_head_gives_back_the_audio_of_a_spectrum():
    """With the identity for a linear layer, frames are the spectrum of any audio."""
    fft, hop, frames = 64, 16, 50
    wav = torch.randn(frames * hop, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = (fft - hop) // 2
    windows = nn.functional.pad(wav, (left, left)).unfold(0, fft, hop) * torch.hann_window(fft, dtype=torch.float64)
    spectrum = torch.fft.rfft(windows)
    head = IstftHead(fft + 2, fft=fft, hop=hop).double()
    head.out.weight.copy_(torch.eye(fft + 2)[..., None])
    found = whole(head, torch.cat([spectrum.abs().log(), spectrum.angle()], 1)[None])
    torch.testing.assert_close(found[0, :, 0], wav, atol=1e-9, rtol=0)


def test_magnitudes_are_cut_off_at_100():
    head = IstftHead(1, fft=8, hop=2)
    head.out.weight.fill_(1)
    head.out.weight[5:] = 0  # the phase
    low, high = (whole(head, torch.full((1, 4, 1), value)) for value in (100**0.5, 88.0))
    assert torch.equal(low, high)
    assert bool(high.isfinite().all())


def test_a_stray_frame_leaves_finite_gradients():
    with torch.enable_grad():
        head = IstftHead(1, fft=8, hop=2)
        x = torch.tensor([1.0, 1e4, 1.0]).view(1, 3, 1).requires_grad_()
        head(x, Whole()).square().sum().backward()
    assert x.grad.isfinite().all()
    assert head.out.weight.grad.isfinite().all()


@pytest.mark.parametrize(("fft", "hop"), [(40, 9), (41, 10), (40, 42), (40, 0)])
def test_windows_that_cannot_be_are_refused(fft, hop):
    with pytest.raises(InputError, match="both must be even"):
        IstftHead(4, fft=fft, hop=hop)


def test_a_decoder_is_the_same_in_every_way_and_begins_with_small_blocks():
    torch.manual_seed(0)
    decoder = vocos(6, 8, 16, 3, fft=32, hop=8)
    assert_all_ways_agree(decoder, [1, 2, 5, 31, 64], 6, atol=2e-5)
    gains = {name: value for name, value in decoder.state_dict().items() if name.endswith("gamma")}
    assert len(gains) == 3
    assert all(torch.equal(value, torch.full((8,), 1 / 3)) for value in gains.values())


def test_an_inner_layer_lies_behind_the_first_convolution():
    torch.manual_seed(0)
    decoder = vocos(6, 8, 16, 2, fft=32, hop=8, inner=Scale(8, 0.5))
    plain = vocos(6, 8, 16, 2, fft=32, hop=8)
    state = {name.replace("2.", "1.", 1) if name[0] == "2" else name: v for name, v in decoder.state_dict().items()}
    del state["1.gamma"]
    for part in ("weight", "bias"):
        state[f"0.{part}"] = state[f"0.{part}"] * 0.5
    plain.load_state_dict(state)
    x = torch.randn(1, 9, 6)
    torch.testing.assert_close(whole(decoder, x), whole(plain, x), atol=1e-6, rtol=0)


def test_weights_of_16_bits_give_audio_of_16_bits():
    decoder = vocos(4, 8, 8, 1, fft=16, hop=4).bfloat16()
    found = whole(decoder, torch.randn(1, 5, 4).bfloat16())
    assert found.dtype == torch.bfloat16
    assert bool(found.isfinite().all())
