"""Matrix products by the fastest float32 kernels there are.

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


_BUILT_IN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_ONEDNN = _onednn_works()


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product. The operator checks little by itself: anything but a float32 matrix that
    lies whole in memory is kept from it, and so is what asks for a gradient, of which it knows none."""
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _ONEDNN and weight.is_contiguous() and not learns and onednn_at_hand(x, weight)


def onednn_at_hand(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can be asked to work on these: float32 on a CPU, where it is not switched off, and autocast, which
    knows none of these operators, is not on."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu") and _BUILT_IN and bool(torch.backends.mkldnn.enabled)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.t() + bias, of x [..., K] and weight [N, K].

    Example:
        >>> linear(torch.ones(2, 3, 4), torch.ones(5, 4), None).shape
        torch.Size([2, 3, 5])
    """
    if not takes_onednn(x, weight) or x.numel() < _LEAST_ROWS * x.shape[-1]:
        return functional.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    return found.view(*x.shape[:-1], len(weight))
