"""Matrix products and convolutions of the encoder, by the fastest float32 kernels there are.

On a CPU `functional.linear` in float32 calls the BLAS that torch was built with, mostly MKL, which keeps to AVX2 on
processors of other makers. oneDNN, in the same torch, uses AVX-512 wherever there is one: 2.2 times as fast on an AMD
EPYC, just as exact. Torch gives it to `linear` in 16 bits only, but has an operator for its own compiler.
"""

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_ROWS = 8  # with fewer the BLAS wins


def _onednn_works() -> bool:
    """Whether this torch has the operator, with the arguments known here, and it gives what `linear` gives."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    x, weight, bias = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(2, 4), torch.ones(2)
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
    return bool(torch.equal(found, functional.linear(x, weight, bias)))


_ONEDNN = _onednn_works()


def _fits(x: Tensor, weight: Tensor) -> bool:
    """The operator checks little by itself: anything but a float32 matrix that lies whole in memory is kept from it."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and weight.is_contiguous()
    return _ONEDNN and plain and bool(torch.backends.mkldnn.enabled)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.t() + bias, of x [..., K] and weight [N, K].

    Example:
        >>> linear(torch.ones(2, 3, 4), torch.ones(5, 4), None).shape
        torch.Size([2, 3, 5])
    """
    if not _fits(x, weight) or x.numel() < _LEAST_ROWS * x.shape[-1]:
        return functional.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    return found.view(*x.shape[:-1], len(weight))


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
    if _fits(x, weight) or kernel <= stride:
        taps = x.as_strided((frames, weight.shape[1]), (step, 1), x.storage_offset())
        return linear(taps, weight, bias)
    out = x.new_empty(0)
    for start in range(0, weight.shape[1], step):  # runs of taps that no two frames share
        part = weight[:, start : start + step]
        taps = x.as_strided((frames, part.shape[1]), (step, 1), x.storage_offset() + start)
        out = out.addmm_(taps, part.t()) if start else functional.linear(taps, part, bias)
    return out
