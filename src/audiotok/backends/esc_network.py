"""The network of ESC: a complex spectrum cut into patches, coded from coarse to fine resolutions of frequency."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..quantize import CrossScaleRVQ, VectorQuantizer, VQOptions
from ..quantize.base import Quantizer
from .esc_config import ESCConfig
from .esc_layers import Layer, down_layer, flat_layer, up_layer


class Encoder(nn.Module):
    """Audio to the features of every level."""

    def __init__(self, config: ESCConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv2d(2, config.widths[0], config.patch, stride=config.patch)
        self.norm = nn.LayerNorm(config.widths[0]) if config.heads else nn.Identity()
        self.first = flat_layer(config)
        self.layers = nn.ModuleList(down_layer(config, level) for level in range(config.streams - 1))

    def forward(self, wav: Tensor) -> list[Tensor]:
        """The features of levels 1 on, finest first, of wav [B, T] float32; level 0 is never quantized."""
        x = spectrum_of(wav, self.config)
        x = self.embed(x.to(self.embed.weight.dtype))
        x = self.first(self.norm(x.movedim(1, -1)).movedim(-1, 1))
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """The features of level 1, refined by every stream, to audio."""

    def __init__(self, config: ESCConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.up = up_layer(config, 1)
        self.last = flat_layer(config)
        self.to_patches = nn.Conv2d(width, width * math.prod(config.patch), 5, padding=2)
        self.to_spectrum = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """wav [B, F · hop] float32 of [B, W, H, overlap · F]."""
        x = self.to_patches(self.last(self.up(x.to(self.to_patches.weight.dtype))))
        bins, frames = self.config.patch
        x = rearrange(x, "b (i j w) h p -> b w (h i) (p j)", i=bins, j=frames)
        return wav_of(self.to_spectrum(x).float(), self.config)


def spectrum_of(wav: Tensor, config: ESCConfig) -> Tensor:
    """Real and imaginary parts [B, 2, bins, 1 + T // stft_hop] of wav [B, T], both float32."""
    spectrum = torch.stft(wav, **_transform(config, wav), pad_mode="reflect", return_complex=True)
    return rearrange(torch.view_as_real(spectrum), "b h n two -> b two h n")


def wav_of(spectrum: Tensor, config: ESCConfig) -> Tensor:
    """wav [B, N · stft_hop] of a spectrum [B, 2, bins, N], both float32.

    Upstream ends at the centre of the last frame, one hop of the transform earlier; the hop behind it lies within that
    frame and is as well determined.
    """
    whole = torch.view_as_complex(rearrange(spectrum, "b two h n -> b h n two").contiguous())
    return torch.istft(whole, **_transform(config, spectrum), length=spectrum.shape[3] * config.stft_hop)


def _transform(config: ESCConfig, like: Tensor) -> dict[str, Any]:
    window = torch.hann_window(config.window_length, device=like.device)
    return {
        "n_fft": config.n_fft,
        "hop_length": config.stft_hop,
        "win_length": config.window_length,
        "window": window,
        "center": True,
    }


def fold(x: Tensor, overlap: int) -> Tensor:
    """[B, W, H, overlap · F] to what a stream quantizes, [B, overlap · W · H, F]."""
    return rearrange(x, "b w h (f o) -> b (o w h) f", o=overlap)


def unfold(x: Tensor, overlap: int, height: int) -> Tensor:
    """The inverse of `fold`."""
    return rearrange(x, "b (o w h) f -> b w h (f o)", o=overlap, h=height)


class Expand(nn.Module):
    """A decoder layer between two streams: [B, D, F] to [B, D', F]."""

    def __init__(self, config: ESCConfig, level: int) -> None:
        super().__init__()
        self.overlap, self.height = config.overlap, config.height(level)
        self.layer = up_layer(config, level)

    def forward(self, x: Tensor) -> Tensor:
        dtype = next(self.layer.parameters()).dtype
        return fold(self.layer(unfold(x, self.overlap, self.height).to(dtype)), self.overlap)


class PartsVQ(Quantizer):
    """Codebooks side by side, each behind linear maps of its own part of the vector; parts may differ in width.

    Args:
        widths: of the parts.
        codebook_size: V of each.
        codebook_dim: width of each search space.
        options: of each.
    """

    def __init__(self, widths: Sequence[int], codebook_size: int, codebook_dim: int, options: VQOptions) -> None:
        super().__init__()
        self.widths = list(widths)
        self.dim = sum(widths)
        self.codebook_sizes = (codebook_size,) * len(self.widths)
        self.parts = nn.ModuleList(
            VectorQuantizer(width, codebook_size, codebook_dim=codebook_dim, options=options) for width in widths
        )

    @property
    def codebooks(self) -> list[Tensor]:
        return [table for part in self._quantizers() for table in part.codebooks]

    def encode(self, x: Tensor) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]."""
        pieces = torch.split(x, self.widths, 1)
        return torch.cat([part.encode(piece) for part, piece in zip(self._quantizers(), pieces, strict=True)], 1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F]."""
        rows = torch.split(tokens, 1, 1)
        return torch.cat([part.decode(row) for part, row in zip(self._quantizers(), rows, strict=True)], 1)

    def _quantizers(self) -> list[VectorQuantizer]:
        return [cast(VectorQuantizer, part) for part in self.parts]


def cross_scale_quantizer(config: ESCConfig) -> CrossScaleRVQ:
    """The streams, with the decoder's layers between them."""
    options = VQOptions(lookup="cosine" if config.cosine else "euclidean", update="frozen", kmeans_init=False)
    scales = [
        PartsVQ(config.part_widths(stream), config.codebook_size, config.codebook_dims[stream], options)
        for stream in range(config.streams)
    ]
    expand = [nn.Identity(), *(Expand(config, config.level(stream)) for stream in range(1, config.streams - 1))]
    unused = [nn.Identity() for _ in expand]  # the encoder gives the features of every scale
    return CrossScaleRVQ(scales, expand=expand, reduce=unused)


def encode_context(config: ESCConfig, encoder: Encoder, quantizer: CrossScaleRVQ) -> tuple[int, int]:
    """Samples before and after a frame's own hop that its tokens depend on, the former up to where windows begin.

    Backwards through the layers: the last stream needs all frames that the decoder's layers before it look at, and each
    of those every patch that the encoder's look at.
    """
    size, hop, samples = config.patch[1], config.stft_hop, config.hop_length
    before, after = _half_windows(config)
    left = right = 0
    for frame in range(config.grid):
        first, stop = _decoder_reach(config, quantizer, frame * config.overlap, (frame + 1) * config.overlap)
        for layer in (*reversed(encoder.layers), encoder.first):
            first, stop = cast(Layer, layer).reach(first, stop)
        left = max(left, frame * samples - (first * size * hop - before))
        right = max(right, (stop * size - 1) * hop + after - (frame + 1) * samples)
    grid = config.grid * samples
    return -(-left // grid) * grid, right


def decode_context(config: ESCConfig, quantizer: CrossScaleRVQ, decoder: Decoder) -> int:
    """Frames on each side of a frame that its audio depends on, up to where windows begin."""
    size, hop, samples = config.patch[1], config.stft_hop, config.hop_length
    before, after = _half_windows(config)
    spectrum, patches = int(decoder.to_spectrum.padding[1]), int(decoder.to_patches.padding[1])
    context = 0
    for frame in range(config.grid):
        # frames k of the transform that reach into the hop: from k · hop − before to k · hop + after
        first = (frame * samples - after) // hop + 1 - spectrum
        stop = -(-((frame + 1) * samples + before) // hop) + spectrum
        first, stop = first // size - patches, -(-stop // size) + patches
        first, stop = decoder.up.reach(*decoder.last.reach(first, stop))
        first, stop = _decoder_reach(config, quantizer, *_whole_frames(first, stop, config.overlap))
        context = max(context, frame - first // config.overlap, stop // config.overlap - frame - 1)
    return -(-context // config.grid) * config.grid


def _decoder_reach(config: ESCConfig, quantizer: CrossScaleRVQ, first: int, stop: int) -> tuple[int, int]:
    """Patches in time of the first stream that those of the last one depend on."""
    for step in reversed(quantizer.expand):
        if isinstance(step, Expand):
            first, stop = _whole_frames(*step.layer.reach(first, stop), config.overlap)
    return first, stop


def _whole_frames(first: int, stop: int, overlap: int) -> tuple[int, int]:
    return first // overlap * overlap, -(-stop // overlap) * overlap


def _half_windows(config: ESCConfig) -> tuple[int, int]:
    """Samples that the transform's window takes from before its centre, and from there on."""
    before = config.n_fft // 2 - (config.n_fft - config.window_length) // 2
    return before, config.window_length - before
