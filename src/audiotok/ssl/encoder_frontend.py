"""The convolutional front end: waveform to frames, in bounded memory, each row by its own samples alone.

Every convolution is a matrix product, channels last (`encoder_products`).

The whole-row statistics (waveform normalisation and the group norm of base models) are taken once, in float64, and
folded into the weights of the first convolution. That convolution is linear in patches u of the waveform, so the
mean and variance of its outputs over all frames are W·mean(u) and diag(W·cov(u)·Wᵀ): they need a 10 x 10 covariance
and no pass over the outputs. After it a row of any length can go in pieces, with the same frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoder_config import SSLConfig
from .encoder_layers import Float32, LayerNorm32
from .encoder_products import linear, tap_conv

_EPS = 1e-5  # of every norm of the front end, whatever `norm_eps` is
_STATISTICS_SAMPLES = 1 << 18
_CPU_BYTES = 8 << 20  # of the first convolution's output, the largest tensor: stays near the cache
_GPU_BYTES = 512 << 20


@dataclass(frozen=True)
class Signal:
    """Waveforms with the first convolution made ready for each."""

    wav: Tensor  # [B, T], zeros beyond each row's length
    centre: Tensor  # [B, 1, 1], to be taken off
    weight: Tensor  # [B, taps, C]
    bias: Tensor  # [B, 1, C]


class TapConv(nn.Module):
    """A convolution over time without padding, channels last: [N, C] to [floor((N - kernel) / stride) + 1, D].

    Example:
        >>> TapConv(4, 6, kernel=3, stride=2, bias=False)(torch.zeros(10, 4)).shape
        torch.Size([4, 6])
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.randn(out_channels, kernel * channels) / (kernel * channels) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] contiguous to [F, D]."""
        return tap_conv(x, self.weight, self.bias, kernel=self.kernel, stride=self.stride)


class FirstConv(Float32):
    """Weights [C, taps] of the convolution over the waveform itself, and of the group norm behind it if there is one.
    They stay in float32: samples have more digits than a 16-bit float."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        width, taps = config.conv_dim[0], config.conv_kernel[0]
        self.normalize, self.stride = config.normalize, config.conv_stride[0]
        self.weight = nn.Parameter(torch.randn(width, taps) / taps**0.5)
        self.bias = nn.Parameter(torch.zeros(width)) if config.conv_bias else None
        self.norm_weight = nn.Parameter(torch.ones(width)) if config.group_norm else None
        self.norm_bias = nn.Parameter(torch.zeros(width)) if config.group_norm else None

    def prepare(self, wav: Tensor, lengths: Tensor) -> Signal:
        """Folds the statistics of each row's valid samples into its own copy of the weights."""
        wav = wav.to(self.weight.dtype)
        exact = torch.float32 if wav.device.type == "mps" else torch.float64
        if int(lengths.min()) < wav.shape[1]:
            wav = wav.masked_fill(torch.arange(wav.shape[1], device=wav.device) >= lengths[:, None], 0)
        centre = torch.zeros(len(wav), dtype=exact, device=wav.device)
        scale = torch.ones_like(centre)
        if self.normalize:
            centre, scale = self._waveform(wav, lengths, exact)
        centre = centre.to(wav.dtype)[:, None, None]
        weight = self.weight.to(exact).t() * scale[:, None, None]  # [B, taps, C]
        bias = weight.new_zeros(len(wav), 1, weight.shape[2])
        if self.norm_weight is not None and self.norm_bias is not None:  # the convolution's own bias cancels out
            mean, covariance = self._patches(wav, lengths, centre, exact)
            variance = (weight * (covariance @ weight)).sum(1, keepdim=True).clamp_(min=0)
            weight = weight * (self.norm_weight.to(exact) * (variance + _EPS).rsqrt())
            bias = self.norm_bias.to(exact) - mean @ weight
        elif self.bias is not None:
            bias = bias + self.bias.to(exact)
        return Signal(wav, centre, weight.to(wav.dtype), bias.to(wav.dtype))

    def patches(self, wav: Tensor, centre: Tensor) -> Tensor:
        """[B, N, taps] of wav [B, T]."""
        return wav.unfold(1, self.weight.shape[1], self.stride) - centre

    def _waveform(self, wav: Tensor, lengths: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean [B] of the valid samples and 1 / sqrt(variance + eps) [B]."""
        total = torch.zeros(len(wav), dtype=exact, device=wav.device)
        squares = torch.zeros_like(total)
        for piece in torch.split(wav, _STATISTICS_SAMPLES, dim=1):
            total += piece.to(exact).sum(1)
            squares += piece.to(exact).square().sum(1)
        mean = total / lengths
        return mean, ((squares / lengths - mean.square()).clamp(min=0) + _EPS).rsqrt()

    def _patches(self, wav: Tensor, lengths: Tensor, centre: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean [B, 1, taps] and covariance [B, taps, taps] of the patches that lie within each row."""
        taps, stride = self.weight.shape[1], self.stride
        counts = (lengths - taps) // stride + 1
        total = torch.zeros(len(wav), 1, taps, dtype=exact, device=wav.device)
        products = torch.zeros(len(wav), taps, taps, dtype=exact, device=wav.device)
        step = _STATISTICS_SAMPLES // stride
        for start in range(0, int(counts.max()), step):
            part = self.patches(wav[:, start * stride : (start + step - 1) * stride + taps], centre).to(exact)
            index = torch.arange(start, start + part.shape[1], device=wav.device)
            part = part.masked_fill((index >= counts[:, None])[:, :, None], 0)
            total += part.sum(1, keepdim=True)
            products += part.transpose(1, 2) @ part
        mean = total / counts[:, None, None]
        return mean, products / counts[:, None, None] - mean.transpose(1, 2) @ mean


class FrontEnd(nn.Module):
    """Waveforms to frames of `hidden_size`: convolutions and projection."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.config = config
        dims, last = config.conv_dim, config.conv_dim[-1]
        self.first = FirstConv(config)
        self.convs = nn.ModuleList(
            TapConv(
                dims[i - 1], dims[i], kernel=config.conv_kernel[i], stride=config.conv_stride[i], bias=config.conv_bias
            )
            for i in range(1, len(dims))
        )
        self.norms = nn.ModuleList([] if config.group_norm else [LayerNorm32(size, _EPS) for size in dims])
        self.norm = LayerNorm32(last, config.norm_eps) if config.projection_norm else None
        self.projection = nn.Linear(last, config.hidden_size)
        # The convolutions after the first, as one: its stride and its reach, in frames of the first one.
        self._stride = config.hop_length // config.conv_stride[0]
        self._reach = (config.min_samples - config.conv_kernel[0]) // config.conv_stride[0] + 1

    def prepare(self, wav: Tensor, lengths: Tensor) -> Signal:
        """Takes the statistics that need the whole row, of wav [B, T] with lengths [B]."""
        return self.first.prepare(wav, lengths)

    def frames(self, signal: Signal, start: int, stop: int) -> Tensor:
        """Frames start to stop [B, stop - start, D], in the dtype of the norms. Frames past a row's end are junk."""
        budget = _CPU_BYTES if signal.wav.device.type == "cpu" else _GPU_BYTES
        step = max(1, budget // (4 * len(signal.wav) * self._stride * self.config.conv_dim[0]))
        pieces = [self._piece(signal, at, min(at + step, stop)) for at in range(start, stop, step)]
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if self.norm is not None:
            x = self.norm(x)
        x = linear(x.to(self.projection.weight.dtype), self.projection.weight, self.projection.bias)
        return x.to(self.first.weight.dtype)

    def _piece(self, signal: Signal, start: int, stop: int) -> Tensor:
        """[B, stop - start, C]. A batch runs as one long row: its rows are laid end to end, each on a whole number of
        hops, and the frames that see two of them are cut out."""
        rows, frames = len(signal.wav), stop - start
        size = (frames - 1) * self._stride + self._reach  # frames of the first convolution
        slots = frames
        if rows > 1:
            slots = -(-size // self._stride)
            size = slots * self._stride
        taps, stride = self.config.conv_kernel[0], self.config.conv_stride[0]
        first, samples = start * self.config.hop_length, (size - 1) * stride + taps
        wav = signal.wav[:, first : first + samples]
        wav = functional.pad(wav, (0, samples - wav.shape[1]))
        x = torch.baddbmm(signal.bias, self.first.patches(wav, signal.centre), signal.weight)
        x = self._activate(x.reshape(rows * size, -1), 0).to(self.projection.weight.dtype)
        for i, conv in enumerate(self.convs, 1):
            x = self._activate(conv(x), i)
        width = x.shape[1]
        return x.as_strided((rows, frames, width), (slots * width, width, 1))

    def _activate(self, x: Tensor, index: int) -> Tensor:
        if len(self.norms):
            norm = self.norms[index]
            assert isinstance(norm, LayerNorm32)
            x = norm.in_dtype_of(x)
        return functional.gelu(x)
