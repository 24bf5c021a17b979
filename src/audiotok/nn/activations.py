"""Activations that can write where the next layer wants its input: act(x, out) gives act(x), in `out` if given."""

import torch
from torch import Tensor, nn


def elu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The exponential linear unit (Clevert et al. 2016, arXiv 1511.07289)."""
    if out is None:
        return torch.nn.functional.elu(x)
    torch.ops.aten.elu.out(x, out=out)
    return out


class LeakyRelu:
    """Leaky ReLU with a slope for negative values."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return torch.nn.functional.leaky_relu(x, self.slope)
        torch.ops.aten.leaky_relu.out(x, self.slope, out=out)
        return out


class Snake(nn.Module):
    """x + sin²(αx) / (α + 1e-9), α one value per channel (Ziyin et al. 2020, arXiv 2006.08195), of x [B, T, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        wave = torch.mul(x, self.alpha).sin_()
        result: Tensor = torch.addcmul(x, wave.square_(), (self.alpha + 1e-9).reciprocal(), out=out)
        return result
