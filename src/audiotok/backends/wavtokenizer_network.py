"""The decoder of WavTokenizer: Vocos, with convolutions and attention over the whole utterance before its blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..nn.conv import Conv, Layer, Stages
from ..nn.flow import Flow, Pieces
from ..nn.vocos import vocos

_EPSILON = 1e-6  # added to the variance in norms
_FRAMES = 4096  # squared at a time, so that long audio needs no second copy


def wavtokenizer_decoder(
    latent: int, *, width: int, hidden: int, blocks: int, fft: int, hop: int, groups: int
) -> Stages:
    """Features [B, F, latent] to wav [B, F·hop, 1]; see `vocos` and `PositionNet`."""
    return vocos(latent, width, hidden, blocks, fft=fft, hop=hop, inner=PositionNet(width, groups))


class PositionNet(Layer):
    """Residual convolutions, attention, residual convolutions and a norm, of x [B, F, C].

    Norms and attention run over the whole utterance, so nothing comes before its last piece. Rows are of equal length.

    Args:
        width: C.
        groups: of channels that are normalised together.

    Raises:
        InputError: the groups do not share the channels evenly.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise InputError(f"{groups} groups cannot share {width} channels evenly")
        self.blocks = nn.ModuleList(
            [
                _Convolutions(width, groups),
                _Convolutions(width, groups),
                _Attention(width, groups),
                _Convolutions(width, groups),
                _Convolutions(width, groups),
            ]
        )
        self.norm = _GroupNorm(width, groups)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = flow.whole(self, x)
        if not x.shape[1]:
            return x
        utterance = Pieces()
        for block in self.blocks:
            x = block(x, utterance)
        found: Tensor = self.norm(x)
        return found


class _GroupNorm(nn.Module):
    """Normalisation over groups of channels and all frames, with a gain and a bias for each channel.

    Of signals with channels last, torch's own takes the difference of two sums that grow with the length (on a CPU: an
    error of 0.002 for 10 s around a mean of 30). Here the mean is taken off first.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x - self._of_groups(x.sum(1) / x.shape[1])
        squares = torch.stack([part.square().sum(1) for part in torch.split(y, _FRAMES, 1)]).sum(0)
        scale = (self._of_groups(squares / x.shape[1]) + _EPSILON).rsqrt()
        return y.mul_(scale * self.weight).add_(self.bias)

    def _of_groups(self, x: Tensor) -> Tensor:
        """Means of groups, for each channel: [B, 1, C] of [B, C]."""
        groups = x.view(len(x), self.groups, -1)
        return groups.mean(2, keepdim=True).expand_as(groups).reshape(len(x), 1, -1)


class _Convolutions(nn.Module):
    """Twice norm, SiLU and convolution, beside a shortcut."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _GroupNorm(width, groups)
        self.conv1 = Conv(width, width, 3, padding="same", activation=_silu)
        self.norm2 = _GroupNorm(width, groups)
        self.conv2 = Conv(width, width, 3, padding="same", activation=_silu)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        y = flow.run(self.conv1, self.norm1(x))
        return flow.run(self.conv2, self.norm2(y)).add_(x)


class _Attention(nn.Module):
    """Norm and attention of every frame to every frame with one head, beside a shortcut."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = _GroupNorm(width, groups)
        self.q, self.k, self.v, self.proj_out = (Conv(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y, flow)[:, None] for layer in (self.q, self.k, self.v))  # [B, one head, F, C]
        del y
        # Torch's kernels for this never hold the F x F matrix.
        attended = functional.scaled_dot_product_attention(q, k, v)[:, 0]
        found: Tensor = self.proj_out(attended, flow).add_(x)
        return found


def _silu(x: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        return functional.silu(x)
    torch.ops.aten.silu.out(x, out=out)
    return out


def wavtokenizer_names(blocks: int) -> dict[str, str]:
    """Path of every module with weights, in the network above -> its upstream name."""
    names = {"0": "backbone.embed", "1.norm": "backbone.pos_net.5"}
    for block in range(5):
        parts = ("norm", "q", "k", "v", "proj_out") if block == 2 else ("norm1", "conv1", "norm2", "conv2")
        names |= {f"1.blocks.{block}.{part}": f"backbone.pos_net.{block}.{part}" for part in parts}
    names["2.0"] = "backbone.norm"
    for block in range(blocks):
        ours, theirs = f"2.{block + 1}.branch", f"backbone.convnext.{block}"
        names |= {
            f"{ours}.0": f"{theirs}.dwconv",
            f"{ours}.0.norm": f"{theirs}.norm",
            f"{ours}.1": f"{theirs}.pwconv1",
            f"{ours}.2": f"{theirs}.pwconv2",
            f"{ours}.3": theirs,
        }
    return names | {f"2.{blocks + 1}": "backbone.final_layer_norm", f"2.{blocks + 2}.out": "head.out"}
