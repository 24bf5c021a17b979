"""The network of FACodec: convolutions with anti-aliased activations, and two small transformers.

Ju et al. 2024, "NaturalSpeech 3", arXiv 2403.03100.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .facodec_config import FACodecConfig, padding

_TAPS = 12  # of the filters around an activation
_DILATIONS = (1, 3, 9)  # of the residual units of a block


class Activation(nn.Module):
    """x + sin²(α x) / β per channel at twice the rate, between two low-pass filters, so that the harmonics it makes do
    not alias (Lee et al. 2023, "BigVGAN", arXiv 2206.04658).

    Attributes:
        alpha, beta: [channels], logarithms of α and β.
        up, down: [1, 1, 12], the filters.
    """

    up: Tensor
    down: Tensor
    reach = _TAPS - 7  # samples on each side that an output depends on: half of each filter, at twice the rate

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("up", torch.zeros(1, 1, _TAPS))
        self.register_buffer("down", torch.zeros(1, 1, _TAPS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] of [B, C, T]."""
        up, down = (one.expand(x.shape[1], 1, _TAPS) for one in (self.up, self.down))
        half, tail = _TAPS // 2, _TAPS // 2 - 1
        y = functional.pad(x, (tail, tail), mode="replicate")
        y = 2 * functional.conv_transpose1d(y, up, stride=2, groups=len(up))[:, :, 3 * tail : -3 * tail]
        harmonics = (y * self.alpha.exp()[:, None]).sin_().square_()
        y = y + harmonics.div_(self.beta.exp()[:, None] + 1e-9)
        return functional.conv1d(functional.pad(y, (tail, half), mode="replicate"), down, stride=2, groups=len(down))


class ResidualUnit(nn.Sequential):
    """Activation, dilated convolution, activation, 1×1 convolution, and the input added."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__(
            Activation(channels),
            nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Activation(channels),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] of [B, C, T]."""
        y = x
        for layer in self:
            y = layer(y)
        return x + y


def conv_encoder(config: FACodecConfig) -> nn.Sequential:
    """Waveform [B, 1, T] to the latent [B, D, num_frames(T)]."""
    channels = config.channels
    layers: list[nn.Module] = [nn.Conv1d(1, channels, 7, padding=3)]
    for stride in config.strides:
        units = (ResidualUnit(channels, dilation) for dilation in _DILATIONS)
        down = nn.Conv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=padding(stride))
        layers.append(nn.Sequential(*units, Activation(channels), down))
        channels *= 2
    return nn.Sequential(*layers, Activation(channels), nn.Conv1d(channels, config.dim, 3, padding=1))


class ConvDecoder(nn.Module):
    """Vectors of the codes and a speaker vector to a waveform: every frame is normalised, then scaled and shifted by
    what the speaker vector asks for, then up-sampled."""

    def __init__(self, config: FACodecConfig) -> None:
        super().__init__()
        self.style = nn.Linear(config.dim, 2 * config.dim)
        channels = config.decoder_channels
        layers: list[nn.Module] = [nn.Conv1d(config.dim, channels, 7, padding=3)]
        for stride in config.decoder_strides:
            half = channels // 2
            up = nn.ConvTranspose1d(
                channels, half, 2 * stride, stride=stride, padding=padding(stride), output_padding=stride % 2
            )
            units = (ResidualUnit(half, dilation) for dilation in _DILATIONS)
            layers.append(nn.Sequential(Activation(channels), up, *units))
            channels = half
        self.stack = nn.Sequential(*layers, Activation(channels), nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, vectors: Tensor, speaker: Tensor) -> Tensor:
        """wav [B, 1, F·hop] in -1..1 of vectors [B, D, F] and speaker [B, D]."""
        scale, shift = self.style(speaker)[:, :, None].chunk(2, dim=1)
        normal = functional.layer_norm(vectors.transpose(1, 2), vectors.shape[1:2]).transpose(1, 2)
        return torch.tanh(self.stack(normal * scale + shift))


class TransformerBlock(nn.Module):
    """Self-attention over all frames, then a convolution and a linear map; both after a layer norm, both added."""

    def __init__(self, config: FACodecConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention_in = nn.Linear(config.dim, 3 * config.dim)
        self.attention_out = nn.Linear(config.dim, config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.conv = nn.Conv1d(config.dim, config.hidden, config.kernel, padding=config.kernel // 2)
        self.linear = nn.Linear(config.hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] of [B, F, D]."""
        parts = self.attention_in(self.norm1(x)).unflatten(2, (3, self.heads, -1)).transpose(1, 3)
        queries, keys, values = parts.unbind(2)  # [B, heads, F, D / heads]
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        x = x + self.attention_out(seen.transpose(1, 2).flatten(2))
        inner = self.conv(self.norm2(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.linear(functional.relu(inner))
        return x + y


class Transformer(nn.Module):
    """A pre-norm transformer that does not know the order of its frames but through its convolutions.

    Upstream means to add sinusoidal positions, but indexes their table by the row of the batch. Every frame of a row
    alone gets entry 0, so that is what every row gets here.

    Attributes:
        position: [D], entry 0 of the table.
    """

    position: Tensor

    def __init__(self, config: FACodecConfig) -> None:
        super().__init__()
        self.register_buffer("position", torch.zeros(config.dim))
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, F] of [B, D, F]."""
        x = x.transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.norm(x)
        return y.transpose(1, 2)


class Prosody(nn.Module):
    """What version 2 takes its prosody codes from: the lowest bands of a log mel spectrogram, through a transformer.

    Attributes:
        mel: [bands, n_fft / 2 + 1], the filters.
        window: of the short-time Fourier transform.
    """

    mel: Tensor
    window: Tensor

    def __init__(self, config: FACodecConfig) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.reflection = config.n_fft, config.hop_length, config.reflection
        self.register_buffer("mel", torch.zeros(config.mel_bands, config.n_fft // 2 + 1))
        self.register_buffer("window", torch.zeros(config.window))
        self.linear = nn.Linear(config.mel_bands, config.dim)
        self.encoder = Transformer(config)

    def log_mel(self, wav: Tensor) -> Tensor:
        """[B, bands, F] float32 of wav [B, 1, T], T a whole number of hops or up to half a window more."""
        mirrored = functional.pad(wav.float(), (self.reflection, self.reflection), mode="reflect")[:, 0]
        window = self.window.float()
        spectrum = torch.stft(
            mirrored, self.n_fft, self.hop_length, len(window), window, center=False, return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        return (self.mel.float() @ (power + 1e-9).sqrt()).clamp(min=1e-5).log()

    def forward(self, wav: Tensor) -> Tensor:
        """[B, D, F] of wav [B, 1, T]."""
        bands = self.log_mel(wav).to(self.linear.weight.dtype)
        y: Tensor = self.encoder(self.linear(bands.transpose(1, 2)).transpose(1, 2))
        return y


def needed(layer: nn.Module, first: int, last: int) -> tuple[int, int]:
    """First and last input that outputs `first` to `last` of a layer of the two convolutional stacks depend on."""
    if isinstance(layer, nn.Sequential):
        for inner in reversed(layer):
            first, last = needed(inner, first, last)
        return first, last
    if isinstance(layer, Activation):
        return first - layer.reach, last + layer.reach
    assert isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    (stride,), (kernel,), lost = layer.stride, layer.kernel_size, int(layer.padding[0])
    span = (kernel - 1) * layer.dilation[0]
    if isinstance(layer, nn.Conv1d):
        return first * stride - lost, last * stride - lost + span
    # Output o of a transposed convolution sums the inputs i with 0 <= o + lost - i·stride <= span.
    return -((span - lost - first) // stride), (last + lost) // stride
