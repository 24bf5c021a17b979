"""Matrix products and convolutions of the encoder, by the fastest float32 kernels there are (see `nn.products`)."""

from torch import Tensor
from torch.nn import functional

from ..nn.products import linear, takes_onednn

__all__ = ["linear", "tap_conv"]


def tap_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, kernel: int, stride: int) -> Tensor:
    """A convolution over time without padding, channels last.

    With stride s, the taps 0..s-1 of all frames are one matrix [F, s·C] that lies in memory already, the taps s..2s-1
    another one further on: products on views, nothing is transposed. Where oneDNN computes them, which takes whole
    matrices only, frames are copied instead, half as many numbers again as the input has.

    Args:
        x: [N, C] contiguous.
        weight: [D, kernel·C], the taps one after the other.
        bias: [D] or None.

    Returns:
        [floor((N - kernel) / stride) + 1, D].
    """
    size, channels = x.shape
    frames, step = (size - kernel) // stride + 1, stride * channels
    if takes_onednn(x, weight) or kernel <= stride:
        taps = x.as_strided((frames, weight.shape[1]), (step, 1), x.storage_offset())
        return linear(taps, weight, bias)
    out = x.new_empty(0)
    for start in range(0, weight.shape[1], step):  # runs of taps that no two frames share
        part = weight[:, start : start + step]
        taps = x.as_strided((frames, part.shape[1]), (step, 1), x.storage_offset() + start)
        out = out.addmm_(taps, part.t()) if start else functional.linear(taps, part, bias)
    return out
