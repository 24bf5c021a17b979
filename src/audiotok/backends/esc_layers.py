"""Layers of ESC. Features are [B, W, H, P]: W channels, H patches along frequency, P patches along time; no layer
changes P."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from .esc_config import ESCConfig

_KERNEL = (5, 2)  # of the convolutions, over frequency and time
_UNSEEN = -100.0  # added to a score; not infinity, as the published networks were trained with it


class Layer(nn.Module):
    """[B, W, H, P] to [B, W', H', P]."""

    def reach(self, first: int, stop: int) -> tuple[int, int]:
        """Patches in time [first, stop) of the input that those of the output depend on, away from the ends."""
        raise NotImplementedError


class SwinBlock(nn.Module):
    """Attention within square windows and a feed-forward part (Liu et al. 2021, arXiv 2103.14030).

    A shifted block's windows wrap around the edges; what was brought together that way does not see one another.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1 = nn.LayerNorm(width)
        self.position_bias = nn.Parameter(torch.zeros(heads, window**2, window**2))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, P, W] to the same."""
        x = x + self._attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1:3]
        window, shift = self.window, self.shift
        # The zeros that fill up the last windows are keys like any other, as in the published networks.
        x = functional.pad(x, (0, 0, 0, -columns % window, 0, -rows % window))
        across = x.shape[2] // window
        bias: Tensor = self.position_bias
        if shift:
            bias = bias + self._mask(x.shape[1], x.shape[2]).to(bias)[:, None]  # [windows, heads, N, N]
            x = x.roll((-shift, -shift), (1, 2))
        q, k, v = rearrange(
            self.qkv(x),
            "b (h i) (p j) (three n d) -> three b (h p) n (i j) d",
            i=window,
            j=window,
            three=3,
            n=self.heads,
        )
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(rearrange(x, "b (h p) n (i j) d -> b (h i) (p j) (n d)", p=across, i=window))
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :rows, :columns]

    def _mask(self, rows: int, columns: int) -> Tensor:
        """[windows, N, N]: what is added to a score. After the shift the last `shift` rows and columns are the first
        ones, next to which they do not belong."""
        down, along = (
            torch.arange(size, device=self.position_bias.device) >= size - self.shift for size in (rows, columns)
        )
        side = 2 * down[:, None] + along.long()  # which of four pieces a patch belongs to
        side = rearrange(side, "(h i) (p j) -> (h p) (i j)", i=self.window, j=self.window)
        return _UNSEEN * (side[:, :, None] != side[:, None]).float()


class SwinLayer(Layer):
    """Swin blocks, every other one shifted by half a window, and a step to another resolution."""

    def __init__(self, config: ESCConfig, width: int, heads: int, step: nn.Module | None = None) -> None:
        super().__init__()
        self.window = config.window
        self.shifts = [config.window // 2 * (i % 2) for i in range(config.depth)]
        hidden = int(width * config.mlp_ratio)
        self.swin = nn.ModuleList(SwinBlock(width, heads, config.window, shift, hidden) for shift in self.shifts)
        self.step = nn.Identity() if step is None else step

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b w h p -> b h p w")
        for block in self.swin:
            x = block(x)
        out: Tensor = rearrange(self.step(x), "b h p w -> b w h p")
        return out

    def reach(self, first: int, stop: int) -> tuple[int, int]:
        for shift in reversed(self.shifts):
            first = (first - shift) // self.window * self.window + shift
            stop = -((shift - stop) // self.window) * self.window + shift
        return first, stop


class Halve(nn.Module):
    """[B, H, P, W] to [B, H / 2, P, W']: two neighbours in frequency become one patch."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * width)
        self.linear = nn.Linear(2 * width, wanted, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(rearrange(x, "b (h two) p w -> b h p (two w)", two=2)))
        return out


class Double(nn.Module):
    """[B, H, P, W] to [B, 2 · H, P, W']: one patch becomes two neighbours in frequency."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2 * wanted, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = rearrange(self.linear(self.norm(x)), "b h p (two w) -> b (h two) p w", two=2)
        return out


class Convolution(Layer):
    """A convolution in which patch p of the output sees patches p − 1 and p; it keeps H, or halves or doubles it."""

    def __init__(self, width: int, wanted: int, step: str = "", *, activation: bool = True) -> None:
        super().__init__()
        self.step = step
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if step == "double":
            self.conv = nn.ConvTranspose2d(width, wanted, _KERNEL, (2, 1), padding=(1, 0))
        else:
            self.conv = nn.Conv2d(width, wanted, _KERNEL, (2 if step == "halve" else 1, 1), padding=(2, 1))
        self.activation = nn.PReLU() if activation else None

    def forward(self, x: Tensor) -> Tensor:
        height, patches = x.shape[2:]
        wanted = 2 * height if self.step == "double" else height // 2 if self.step == "halve" else height
        out: Tensor = self.conv(x)[:, :, :wanted, :patches]
        return out if self.activation is None else self.activation(out)

    def reach(self, first: int, stop: int) -> tuple[int, int]:
        return first - 1, stop


class ResidualUnit(nn.Module):
    """Two convolutions, around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(Convolution(width, width), Convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block(x)
        return out


class ConvolutionLayer(Layer):
    """Residual units, and a convolution to another resolution."""

    def __init__(self, config: ESCConfig, width: int, wanted: int, step: str) -> None:
        super().__init__()
        self.convolutions = 2 * config.depth + 1
        units = (ResidualUnit(width) for _ in range(config.depth))
        self.blocks = nn.Sequential(*units, Convolution(width, wanted, step))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out

    def reach(self, first: int, stop: int) -> tuple[int, int]:
        return first - self.convolutions, stop


def flat_layer(config: ESCConfig) -> Layer:
    """The layer at level 0 that keeps the resolution."""
    width = config.widths[0]
    return SwinLayer(config, width, config.heads[0]) if config.heads else Convolution(width, width, activation=False)


def down_layer(config: ESCConfig, level: int) -> Layer:
    """From a level to the next coarser one."""
    width, wanted = config.widths[level : level + 2]
    if config.heads:
        return SwinLayer(config, width, config.heads[level], Halve(width, wanted))
    return ConvolutionLayer(config, width, wanted, "halve")


def up_layer(config: ESCConfig, level: int) -> Layer:
    """From a level to the next finer one."""
    wanted, width = config.widths[level - 1 : level + 1]
    if config.heads:
        return SwinLayer(config, width, config.heads[level - 1], Double(width, wanted))
    return ConvolutionLayer(config, width, wanted, "double")
