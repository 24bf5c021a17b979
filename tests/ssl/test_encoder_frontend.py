"""The front end against torch's own convolutions and norms; relative positions against transformers' buckets."""

import pytest
import torch
from encoder_models import ARCHITECTURES, ours, theirs
from torch.nn import functional

import audiotok.ssl.encoder_frontend as frontend
from audiotok.ssl.encoder_frontend import TapConv
from audiotok.ssl.encoder_layers import Attention, _buckets


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (10, 5), (7, 3), (4, 1), (5, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_tap_conv_is_conv1d(kernel, stride, bias):
    conv = TapConv(6, 8, kernel=kernel, stride=stride, bias=bias).double().requires_grad_(False)
    if bias:
        conv.bias.copy_(torch.randn(8))
    weight = conv.weight.view(8, kernel, 6).transpose(1, 2)
    for size in range(kernel, kernel + 2 * stride + 2):
        whole = torch.randn(size + 4, 6, dtype=torch.float64)
        x = whole[2 : 2 + size]  # a view that does not begin at its storage
        want = functional.conv1d(x.t(), weight, conv.bias, stride=stride).t()
        torch.testing.assert_close(conv(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_frames_in_pieces_are_the_frames(name, monkeypatch):
    front = ours(name).double().front
    wav = torch.randn(3, 20000, dtype=torch.float64)
    signal = front.prepare(wav, torch.tensor([20000, 20000, 20000]))
    frames = front.config.num_frames(20000)
    whole = front.frames(signal, 0, frames)
    monkeypatch.setattr(frontend, "_CPU_BYTES", 1)  # one frame at a time
    torch.testing.assert_close(front.frames(signal, 0, frames), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(front.frames(signal, 5, 9), whole[:, 5:9], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["hubert-base", "wav2vec2-base"])
def test_folded_statistics_are_those_of_the_valid_samples(name, monkeypatch):
    monkeypatch.setattr(frontend, "_STATISTICS_SAMPLES", 1000)  # several pieces
    first = ours(name).double().front.first
    wav, lengths = torch.randn(3, 9000, dtype=torch.float64) + 3, torch.tensor([9000, 4321, 400])
    signal = first.prepare(wav, lengths)
    for i, size in enumerate(lengths.tolist()):
        x = wav[i : i + 1, :size]
        if first.normalize:
            x = functional.layer_norm(x, x.shape[-1:])
        conv = functional.conv1d(x[:, None], first.weight[:, None], stride=5)
        want = functional.group_norm(conv, len(first.weight), first.norm_weight, first.norm_bias)[0].t()
        got = first.patches(signal.wav[i : i + 1, :size], signal.centre[i])[0] @ signal.weight[i] + signal.bias[i]
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_a_constant_offset_costs_no_digits():
    quiet = 0.01 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) + 0.5
    got, want = ours("wav2vec2-base")(quiet)[3], ours("wav2vec2-base").double()(quiet.double())[3]
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", ["wavlm-base", "wavlm-large"])
def test_relative_positions_are_those_of_transformers(name):
    attention = theirs(name).encoder.layers[0].attention
    for frames in (1, 2, 7, 130):
        want = attention.compute_bias(frames, frames)
        assert torch.equal(ours(name).relative(frames).flip(2), want)


def test_published_bucket_sizes(monkeypatch):
    attention = theirs("wavlm-base").encoder.layers[0].attention
    monkeypatch.setattr(attention, "num_buckets", 320)
    monkeypatch.setattr(attention, "max_distance", 800)
    want = attention._relative_positions_bucket(torch.arange(2999, -3000, -1))
    assert torch.equal(_buckets(3000, 320, 800), want)


def test_attention_over_heads_one_at_a_time(monkeypatch):
    encoder = ours("wavlm-large").double()
    x = torch.randn(2, 31, 48, dtype=torch.float64)
    valid = torch.arange(31) < torch.tensor([[31], [20]])
    attention, bias = encoder.blocks[1].attention, encoder.relative(31)
    assert isinstance(attention, Attention)
    want = attention(x, bias, valid)
    monkeypatch.setattr("audiotok.ssl.encoder_layers._CPU_BYTES", 3 * 2 * 31 * 31 * 8)  # three of the four
    torch.testing.assert_close(attention(x, bias, valid), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention(x[1:, :20], encoder.relative(20), None), want[1:, :20], rtol=1e-12, atol=1e-12)
