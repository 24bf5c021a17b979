"""Signals whole, in pieces, as ragged rows and in training give what torch's own layers give for each row alone."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from audiotok.errors import InputError
from audiotok.nn.activations import LeakyRelu, Snake, elu
from audiotok.nn.conv import Chain, Conv, ConvTranspose, Layer, Residual, Stack, Stages, Unstack
from audiotok.nn.flow import Flow, Pieces, Ragged, Whole, Window


def whole(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, Pieces())


def in_pieces(layer: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    flow, found = Pieces(last=False), []
    steps = itertools.chain([0], itertools.accumulate(sizes))
    bounds = sorted({min(step, x.shape[1]) for step in steps} | {x.shape[1]})
    for start, end in itertools.pairwise(bounds):
        flow.last = end == x.shape[1]
        found.append(layer(x[:, start:end], flow))
    return torch.cat(found, 1)


def ragged(layer: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    lengths = [row.shape[1] for row in rows]
    x = torch.full((len(rows), max(lengths) + 3, rows[0].shape[2]), 1e3)  # nothing of it may be seen
    for i, row in enumerate(rows):
        x[i, : row.shape[1]] = row[0]
    flow = Ragged(lengths)
    found = layer(x, flow)
    return [one[None, :length] for one, length in zip(found, flow.lengths, strict=True)]


def assert_all_ways_agree(layer: nn.Module, lengths: list[int], channels: int, *, atol: float = 1e-5) -> None:
    rows = [torch.randn(1, length, channels) for length in lengths]
    alone = [whole(layer, row) for row in rows]
    for row, wanted in zip(rows, alone, strict=True):
        for sizes in ([1] * 40, [7, 1, 1, 30, 2], [2, 3] * 50, [64] * 9):
            torch.testing.assert_close(in_pieces(layer, row, sizes), wanted, atol=atol, rtol=0)
    for row, wanted in zip(rows, alone, strict=True):
        torch.testing.assert_close(layer(row, Whole()), wanted, atol=atol, rtol=0)
    for found, wanted in zip(ragged(layer, rows), alone, strict=True):
        torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


LENGTHS = [1, 2, 5, 31, 64, 100]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("padding", ["same", "causal"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (7, 1, 1), (7, 1, 3), (3, 1, 9), (4, 2, 1), (10, 5, 1), (16, 8, 1)]
)
def test_a_filled_convolution_is_the_same_in_every_way(kernel, stride, dilation, padding, mode):
    torch.manual_seed(kernel)
    conv = Conv(3, 5, kernel, stride=stride, dilation=dilation, padding=padding, mode=mode, fill=True, activation=elu)
    assert_all_ways_agree(conv, LENGTHS, 3)
    assert [whole(conv, torch.zeros(1, n, 3)).shape[1] for n in LENGTHS] == [-(-n // stride) for n in LENGTHS]
    assert [conv.window.outputs(n) for n in LENGTHS] == [-(-n // stride) for n in LENGTHS]


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [(7, 1, 9, 27), (4, 2, 1, 1), (16, 8, 1, 4), (10, 5, 1, 3), (3, 1, 1, 1)],
)
def test_a_plain_convolution_is_torchs(kernel, stride, dilation, padding):
    torch.manual_seed(kernel)
    wanted = nn.Conv1d(4, 6, kernel, stride, padding, dilation)
    conv = Conv(4, 6, kernel, stride=stride, dilation=dilation, padding=(padding, padding))
    conv.load_state_dict(wanted.state_dict())
    lengths = [60, 61, 77, 128]
    for length in lengths:
        x = torch.randn(2, length, 4)
        torch.testing.assert_close(whole(conv, x), wanted(x.mT).mT, atol=1e-5, rtol=0)
    assert_all_ways_agree(conv, lengths, 4)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("causal", [True, False])
def test_reflection_of_a_short_signal_takes_zeros_after_it(length, causal):
    conv = Conv(1, 1, 7, padding="causal" if causal else "same", mode="reflect", fill=True)
    left, right = (6, 0) if causal else (3, 3)
    x = torch.randn(1, length, 1)
    extra = max(0, max(left, right) - length + 1)
    padded = nn.functional.pad(nn.functional.pad(x.mT, (0, extra)), (left, right), "reflect")
    wanted = nn.functional.conv1d(padded[..., : padded.shape[-1] - extra], conv.weight, conv.bias).mT
    torch.testing.assert_close(whole(conv, x), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(4, 2, 1, 0), (16, 8, 4, 0), (10, 5, 3, 1), (10, 5, 0, 0), (11, 5, 3, 0), (3, 3, 0, 0), (7, 2, 2, 1)],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_transposed_convolution_is_torchs(kernel, stride, padding, output_padding, depthwise):
    torch.manual_seed(kernel)
    outputs, groups = (4, 4) if depthwise else (6, 1)
    wanted = nn.ConvTranspose1d(4, outputs, kernel, stride, padding, output_padding, groups=groups)
    conv = ConvTranspose(4, outputs, kernel, stride=stride, trim=(padding, padding - output_padding), groups=groups)
    conv.load_state_dict({"weight": conv.arranged(wanted.weight.detach()), "bias": wanted.bias.detach()})
    for length in (1, 2, 9):
        x = torch.randn(2, length, 4)
        torch.testing.assert_close(whole(conv, x), wanted(x.mT).mT, atol=1e-5, rtol=0)
    assert_all_ways_agree(conv, [1, 2, 5, 40], 4)


def test_a_network_with_shortcuts_strides_and_all_activations():
    torch.manual_seed(0)

    def unit(width: int, dilation: int) -> Residual:
        branch = Chain(
            [
                Conv(width, width, 7, dilation=dilation, padding=(3 * dilation, 3 * dilation), activation=Snake(width)),
                Conv(width, width, 1, activation=LeakyRelu(0.1)),
            ]
        )
        return Residual(branch, Conv(width, width, 1) if dilation == 3 else None)

    network = Stages(
        [
            Conv(1, 8, 7, padding="same"),
            Chain([unit(8, 1), unit(8, 3), Conv(8, 16, 8, stride=4, padding=(2, 2), activation=Snake(8))]),
            Chain([unit(16, 9), Conv(16, 32, 4, stride=2, padding="same", mode="reflect", fill=True, activation=elu)]),
            ConvTranspose(32, 8, 8, stride=4, trim=(2, 2), activation=elu),
            Conv(8, 1, 3, padding="same", mode="replicate"),
        ]
    ).requires_grad_(False)
    assert_all_ways_agree(network, [8, 160, 203, 400], 1, atol=1e-4)


def test_a_long_signal_is_cut_to_fit_the_cache_and_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    layers = Stages([Conv(2, 4, 7, padding="same"), Conv(4, 4, 8, stride=4, padding=(2, 2))]).requires_grad_(False)
    x = torch.randn(1, 1000, 2)
    wanted = whole(Chain(list(layers)), x)
    calls = []
    layers[1].register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr("audiotok.nn.flow._CACHE_BYTES", 1600)
    torch.testing.assert_close(whole(layers, x), wanted, atol=1e-5, rtol=0)
    assert len(calls) == 10


def test_stacked_samples_come_apart_again():
    x = torch.arange(2 * 12 * 3.0).view(2, 12, 3)
    stacked = whole(Stack(4), x)
    assert stacked.shape == (2, 3, 12)
    assert torch.equal(whole(Unstack(4), stacked), x)
    assert_all_ways_agree(Stack(4), [4, 12, 40], 3)
    assert_all_ways_agree(Unstack(3), [4, 12, 40], 3)


class Neighbours(Layer):
    """Each frame twice, as the sum of it and of `reach` frames on each side."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return flow.local(self, self._sum, x, self.reach, 2)

    def _sum(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, self.reach, self.reach))
        shifted = [padded[:, shift : shift + x.shape[1]] for shift in range(2 * self.reach + 1)]
        return torch.stack(shifted).sum(0).repeat_interleave(2, 1)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_a_function_of_neighbours_sees_as_many_in_pieces_as_in_the_whole(reach):
    x = torch.arange(2 * 40.0).view(2, 40, 1) ** 2
    wanted = Neighbours(reach)(x, Whole())
    assert wanted.shape == (2, 80, 1)
    for sizes in ([1] * 40, [7, 1, 1, 30], [2, 3] * 20, [40]):
        assert torch.equal(in_pieces(Neighbours(reach), x, sizes), wanted)


def test_windows_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="no such window"):
        Window(0)
    with pytest.raises(InputError, match="needs at least 4 samples of padding"):
        Window(6, 2, fill=True)
    with pytest.raises(InputError, match="cannot lose"):
        ConvTranspose(1, 1, 4, stride=4, trim=(0, 1))
    with pytest.raises(InputError, match="groups must be 1 or all 4"):
        ConvTranspose(4, 4, 4, stride=2, groups=2)
