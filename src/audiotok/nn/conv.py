"""Convolutions over time, channels last, that take a signal whole, in pieces, or with rows of different lengths.

Signals lie in memory as [B, T, C]. Then a convolution is a product of matrices that are there already, oneDNN computes
it without turning the activations first (1.1 to 2.2 times as fast as channels first on an AVX-512 processor, see
docs/performance.md), and a transposed convolution is an ordinary one whose outputs already lie in order.
"""

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .flow import Activation, Flow, PadMode, Window
from .products import linear, onednn_at_hand


class Layer(nn.Module):
    """Base of everything here: `layer(x [B, T, C], flow)` gives [B, T', C']."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        raise NotImplementedError


class Chain(nn.ModuleList):
    """Layers one after the other."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        for layer in self:
            x = layer(x, flow)
        return x


class Stages(Chain):
    """Layers one after the other, each run in pieces that stay in the processor's cache."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        for layer in self:
            x = flow.run(layer, x)
        return x


class Apply(Layer):
    """A function of every sample."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return self.function(x)


class Residual(Layer):
    """branch(x) + shortcut(x); the shortcut is x itself unless one is given."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.centred = False  # see `without_padding`

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        y = self.branch(x, flow)
        if self.centred:
            x = x[:, (x.shape[1] - y.shape[1]) // 2 :][:, : y.shape[1]]
        return flow.add(self, x if self.shortcut is None else self.shortcut(x, flow), y)


class Conv(Layer):
    """A convolution over time.

    Args:
        channels_in, channels_out: C and C'.
        kernel, stride, dilation, groups: as of `torch.nn.Conv1d`.
        padding: (left, right) samples; "same" shares (kernel - 1) · dilation + 1 - stride among both sides, the larger
            half on the left; "causal" puts all of it on the left.
        mode: what the padding is made of.
        fill: whether to pad further on the right until the last window is full.
        bias: whether there is one.
        activation: applied to the samples before they are padded.
        norm: a layer that the outputs go through.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: tuple[int, int] | Literal["same", "causal"] = (0, 0),
        mode: PadMode = "zeros",
        fill: bool = False,
        bias: bool = True,
        activation: Activation | None = None,
        norm: Layer | None = None,
    ) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation + 1
        if isinstance(padding, str):
            total = max(0, reach - stride)
            right = total // 2 if padding == "same" else 0
            padding = (total - right, right)
        self.window = Window(reach, stride, *padding, mode=mode, fill=fill)
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.activation = activation
        self.norm = norm
        self.weight = channels_last_parameter(channels_out, channels_in // groups, kernel)
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        _draw(self.weight)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        window = self.window
        if window.reach == 1 and window.stride == 1 and not window.left + window.right:
            seen = x if self.activation is None else self.activation(x, None)
        else:
            seen = flow.window(self, window, x, self.activation)
        y = convolve(seen, self.weight, self.bias, self.stride, self.dilation, self.groups)
        return y if self.norm is None else self.norm(y, flow)


class ConvTranspose(Layer):
    """A transposed convolution over time: (T - 1) · stride + kernel samples, less what is trimmed at both ends.

    Frame t adds its kernel at samples t · stride on, so the stride samples of frame t are the sum of the
    n = ceil(kernel / stride) last frames, each with its own part of the kernel: a plain convolution over n frames with
    stride times as many channels, whose result, channels last, is the signal.

    Args:
        channels_in, channels_out, kernel, stride, groups: as of `torch.nn.ConvTranspose1d`; groups is 1 or, with as
            many outputs, channels_in.
        trim: (left, right) samples to cut. `padding=p, output_padding=q` of torch is (p, p - q).
        bias: whether there is one.
        activation: applied to the frames first.
        norm: a layer that the outputs go through before they are trimmed.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int,
        trim: tuple[int, int] = (0, 0),
        groups: int = 1,
        bias: bool = True,
        activation: Activation | None = None,
        norm: Layer | None = None,
    ) -> None:
        super().__init__()
        self.taps = math.ceil(kernel / stride)
        self.left, self.right = trim[0], self.taps * stride - kernel + trim[1]
        if self.left < 0 or not 0 <= self.right <= (self.taps - 1) * stride:
            raise InputError(f"a transposed convolution of kernel {kernel} and stride {stride} cannot lose {trim}")
        if norm is not None and kernel != self.taps * stride:
            raise InputError(f"only a kernel of whole strides can be normalised, not {kernel} of {stride}")
        if groups not in (1, channels_in) or (groups > 1 and channels_out != channels_in):
            raise InputError(f"groups must be 1 or all {channels_in} channels, not {groups}")
        self.window = Window(self.taps, left=self.taps - 1, right=self.taps - 1)
        self.stride, self.groups, self.kernel = stride, groups, kernel
        self.channels = channels_out
        self.activation = activation
        self.norm = norm
        self.weight = channels_last_parameter(stride * channels_out, channels_in // groups, self.taps)
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        _draw(self.weight)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        seen = flow.window(self, self.window, x, self.activation)
        if self.groups == 1:
            bias = None if self.bias is None else self.bias.repeat(self.stride)
            y = convolve(seen, self.weight, bias)
        else:  # depthwise: the outputs of a channel come together, and are sorted by time
            bias = None if self.bias is None else self.bias.repeat_interleave(self.stride)
            y = convolve(seen, self.weight, bias, groups=self.groups)
            y = y.reshape(*y.shape[:2], self.channels, self.stride).transpose(2, 3).flatten(2)
        y = y.reshape(y.shape[0], -1, self.channels)
        flow.stretch(self.stride)
        return flow.trim(self, y if self.norm is None else self.norm(y, flow), self.left, self.right)

    def arranged(self, weight: Tensor) -> Tensor:
        """The weight of a `torch.nn.ConvTranspose1d` [C, C', kernel] (or [C, 1, kernel], depthwise) as this layer's."""
        padded = functional.pad(weight, (0, self.taps * self.stride - self.kernel))
        parts = padded.reshape(*weight.shape[:2], self.taps, self.stride)  # channel in, out, part of the kernel, step
        # A window's first frame is its oldest, which has the last part of the kernel.
        if self.groups == 1:
            return parts.flip(2).permute(3, 1, 0, 2).flatten(0, 1)
        return parts.flip(2)[:, 0].transpose(1, 2).flatten(0, 1)[:, None]


class Stack(Layer):
    """Each `stride` samples as one, their channels one after the other: [B, T, C] to [B, T / stride, stride · C]."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        seen = flow.window(self, Window(self.stride, self.stride), x)
        return seen[:, : seen.shape[1] // self.stride * self.stride].reshape(len(x), -1, self.stride * x.shape[2])


class Unstack(Layer):
    """The inverse of `Stack`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.stretch(self.stride)
        return x.reshape(len(x), -1, x.shape[2] // self.stride)


def without_padding(network: nn.Module) -> nn.Module:
    """The same network, with the same parameters, whose layers see no padding and trim nothing; shortcuts lose as much
    at both ends as their branches do. For whole signals only."""
    memo: dict[int, object] = {id(parameter): parameter for parameter in network.parameters()}
    found = copy.deepcopy(network, memo)
    for layer in found.modules():
        if isinstance(layer, Conv):
            layer.window = Window(layer.window.reach, layer.window.stride)
        elif isinstance(layer, ConvTranspose):
            layer.left, layer.right = 0, layer.taps * layer.stride - layer.kernel
        elif isinstance(layer, Residual):
            layer.centred = True
    return found


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """All full windows of x [B, T, C] with a weight [C', C / groups, kernel]: [B, T', C'], T' possibly 0."""
    kernel = weight.shape[2]
    if x.shape[1] < (kernel - 1) * dilation + 1:
        return x.new_empty(x.shape[0], 0, weight.shape[0])
    if kernel == stride == groups == 1:
        return linear(x, weight[:, :, 0], bias)
    image, kernels = x.unsqueeze(1).permute(0, 3, 1, 2), weight.unsqueeze(2)  # [B, C, 1, T], in memory as it was
    if onednn_at_hand(x, weight):  # torch would choose a slower way for short kernels on one thread
        found = torch.mkldnn_convolution(image, kernels, bias, (0, 0), (1, stride), (1, dilation), groups)
    else:
        found = functional.conv2d(image, kernels, bias, (1, stride), 0, (1, dilation), groups)
    return found.permute(0, 2, 3, 1)[:, 0]


def channels_last_parameter(channels_out: int, channels_in: int, kernel: int) -> nn.Parameter:
    """An empty weight [C', C, kernel] that lies in memory as [C', kernel, C]."""
    return nn.Parameter(torch.empty(channels_out, kernel, channels_in).transpose(1, 2))


def _draw(weight: nn.Parameter) -> None:
    if not weight.is_meta:
        with torch.no_grad():
            weight.normal_(std=weight[0].numel() ** -0.5)
