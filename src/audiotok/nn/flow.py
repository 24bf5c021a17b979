"""How a signal passes through a convolutional network: whole, in pieces, or as rows of different lengths.

The layers of `conv`, and the networks built of them, take x [B, T, C], channels last, and a `Flow`. A layer says what
it must see around the signal's ends; the flow provides it:

`Pieces` remembers, for every layer, the samples that its next window still needs. A signal pushed piece by piece gives
the outputs of the whole signal, each once, whatever the pieces: this is how long audio takes bounded memory, how
streams work, and how work stays in the processor's cache. A layer that needs samples not there yet gives fewer
outputs, or none, until they come; the last piece brings the rest.

`Ragged` carries the rows' own lengths, so that each row of a padded batch ends where it ends, at every layer.

`Whole` is for training: rows of equal length in one piece, nothing written over, so that gradients pass at no further
cost.

A flow serves one pass of one network, front to back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..pieces import spans

PadMode = Literal["zeros", "reflect", "replicate"]
Activation = Callable[[Tensor, Tensor | None], Tensor]  # x, and where to write the result (None: a new tensor)
Value = TypeVar("Value")

_CACHE_BYTES = 4 << 20  # of a stage's input on a CPU: with more it leaves the cache, with less the calls cost too much


@dataclass(frozen=True)
class Window:
    """What a strided window over time needs around a signal.

    Attributes:
        reach: samples that one window covers, (kernel - 1) · dilation + 1.
        stride: samples between windows.
        left, right: padding before the first and after the last sample.
        mode: what it is made of. "reflect" of a signal no longer than the padding first takes zeros after its end, as
            EnCodec does.
        fill: pad further on the right until the last window is full; otherwise samples that fill none are left out.

    Example:
        >>> Window(reach=4, stride=2, left=1, right=1, fill=True).outputs(5)
        3
    """

    reach: int
    stride: int = 1
    left: int = 0
    right: int = 0
    mode: PadMode = "zeros"
    fill: bool = False

    def __post_init__(self) -> None:
        if min(self.reach, self.stride) < 1 or min(self.left, self.right) < 0:
            raise InputError(f"no such window: {self}")
        if self.fill and self.left + self.right < self.reach - self.stride:
            raise InputError(f"a window that is filled up needs at least {self.reach - self.stride} samples of padding")

    def right_padding(self, length: int) -> int:
        """Padding on the right of a signal of so many samples."""
        return self.right + ((self.reach - length - self.left - self.right) % self.stride if self.fill else 0)

    def outputs(self, length: int) -> int:
        """Windows that fit a signal of so many samples."""
        return max(0, (length + self.left + self.right_padding(length) - self.reach) // self.stride + 1)

    @property
    def waits_for(self) -> int:
        """Longest beginning of a signal from which its padding does not follow yet."""
        return max(self.left, self.right + self.stride) if self.mode == "reflect" else 0

    @property
    def history(self) -> int:
        """Samples that no window needs any more, but the padding on the right may."""
        if self.mode == "zeros":
            return 0
        needed = 1 if self.mode == "replicate" else self.right + self.stride
        return max(0, needed - (self.reach - self.stride))


class Flow:
    """Base of `Pieces`, `Ragged` and `Whole`."""

    def window(self, layer: object, window: Window, x: Tensor, activation: Activation | None = None) -> Tensor:
        """x [B, T, C] with what the layer's windows must see before and after it. `activation` is applied to the
        samples of x on their way."""
        raise NotImplementedError

    def add(self, layer: object, x: Tensor, y: Tensor) -> Tensor:
        """Sum of two branches of one signal, of which y may lag behind x. Overwrites y."""
        raise NotImplementedError

    def trim(self, layer: object, y: Tensor, left: int, right: int) -> Tensor:
        """A whole signal y without its first and last samples; the last `right` come with the last piece."""
        raise NotImplementedError

    def stretch(self, factor: int) -> None:
        """Tells the flow that every sample became so many."""

    def recall(self, layer: object, default: Value) -> Value:
        """What the layer kept of the piece before."""
        return default

    def keep(self, layer: object, value: object) -> None:
        """Keeps something for the layer's next piece, if there is one."""

    def whole(self, layer: object, x: Tensor) -> Tensor:
        """For layers that need all of a signal: nothing before its last piece, then all of it."""
        return x

    def local(
        self, layer: object, function: Callable[[Tensor], Tensor], x: Tensor, reach: int, factor: int = 1
    ) -> Tensor:
        """function(x): frames [B, F, C] to [B, F·factor, C'], whose samples of a frame depend on it and on at most
        `reach` frames on each side, as far as there are any; no frames give none. Rows are of equal length."""
        self.stretch(factor)
        return function(x)

    def run(self, stage: Callable[[Tensor, "Flow"], Tensor], x: Tensor) -> Tensor:
        """stage(x, self), where possible in pieces that stay in the cache."""
        return stage(x, self)


class Pieces(Flow):
    """A signal in one piece or several; its rows are of equal length.

    Attributes:
        last: whether the piece at hand is the signal's end: set it before the piece is pushed.
    """

    def __init__(self, *, last: bool = True) -> None:
        self.last = last
        self._kept: dict[object, Any] = {}

    def window(self, layer: object, window: Window, x: Tensor, activation: Activation | None = None) -> Tensor:
        tail: _Tail = self.recall(layer, _Tail(x[:, :0], 0, started=False, used=0))
        lead = 0 if tail.started else window.left
        before, size, seen = tail.samples.shape[1], x.shape[1], tail.seen + x.shape[1]
        after = window.right_padding(seen) if self.last else 0
        buffer = x.new_empty(x.shape[0], lead + before + size + after, x.shape[2])
        signal = buffer[:, lead : lead + before + size]
        signal[:, :before] = tail.samples
        if activation is None:
            signal[:, before:] = x
        else:
            activation(x, signal[:, before:])
        if not tail.started and not self.last and seen <= window.waits_for:
            self.keep(layer, _Tail(signal.clone(), seen, started=False, used=0))
            return buffer[:, :0]
        _fill_ends(buffer, signal, lead, after, window.mode)
        windows = max(0, (buffer.shape[1] - tail.used - window.reach) // window.stride + 1)
        done = tail.used + windows * window.stride
        first = max(0, done - window.history)
        self.keep(layer, _Tail(buffer[:, first:].clone(), seen, started=True, used=done - first))
        return buffer[:, tail.used :]

    def add(self, layer: object, x: Tensor, y: Tensor) -> Tensor:
        waiting = self.recall(layer, x[:, :0])
        if waiting.shape[1]:
            x = torch.cat([waiting, x], 1)
        self.keep(layer, x[:, y.shape[1] :].clone())
        return y.add_(x[:, : y.shape[1]])

    def trim(self, layer: object, y: Tensor, left: int, right: int) -> Tensor:
        key = (layer, "trim")
        given = self.recall(key, 0)
        self.keep(key, given + y.shape[1])
        end = y.shape[1] - (right if self.last else 0)
        return y[:, max(0, left - given) : max(0, end)]

    def recall(self, layer: object, default: Value) -> Value:
        found: Value = self._kept.get(layer, default)
        return found

    def keep(self, layer: object, value: object) -> None:
        if self.last:
            self._kept.pop(layer, None)
        else:
            self._kept[layer] = value

    def whole(self, layer: object, x: Tensor) -> Tensor:
        parts: list[Tensor] = [*self.recall(layer, []), x]
        self.keep(layer, parts)
        if not self.last:
            return x[:, :0]
        return x if len(parts) == 1 else torch.cat(parts, 1)

    def local(
        self, layer: object, function: Callable[[Tensor], Tensor], x: Tensor, reach: int, factor: int = 1
    ) -> Tensor:
        kept, done = self.recall(layer, (x[:, :0], 0))  # frames to look at, of which the first were given already
        seen = torch.cat([kept, x], 1)
        ready = seen.shape[1] if self.last else max(done, seen.shape[1] - reach)
        first = max(0, ready - reach)
        self.keep(layer, (seen[:, first:].clone(), ready - first))
        if ready == done:
            return function(x[:, :0])
        return function(seen)[:, done * factor : ready * factor]

    def run(self, stage: Callable[[Tensor, Flow], Tensor], x: Tensor) -> Tensor:
        step = max(1, _CACHE_BYTES // (x.shape[0] * x.shape[2] * x.element_size()))
        if x.device.type != "cpu" or x.shape[1] <= step + step // 2:
            return stage(x, self)
        last, found = self.last, []
        for start, end in spans(x.shape[1], step):
            self.last = last and end == x.shape[1]
            found.append(stage(x[:, start:end], self))
        return torch.cat(found, 1)


@dataclass(frozen=True)
class _Tail:
    """What a layer keeps of the samples it saw."""

    samples: Tensor
    seen: int  # samples of the whole signal up to here
    started: bool  # whether the padding before the first sample is in place
    used: int  # first samples that no window needs any more


class Ragged(Flow):
    """Rows of different lengths in one padded batch.

    Attributes:
        lengths: samples of each row at the layer at hand.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def window(self, layer: object, window: Window, x: Tensor, activation: Activation | None = None) -> Tensor:
        right = [window.right_padding(length) for length in self.lengths]
        ends = [window.left + length + more for length, more in zip(self.lengths, right, strict=True)]
        buffer = x.new_empty(x.shape[0], max(*ends, window.left + x.shape[1]), x.shape[2])
        signal = buffer[:, window.left : window.left + x.shape[1]]
        if activation is None:
            signal.copy_(x)
        else:
            activation(x, signal)
        shortest = min(self.lengths)
        tail = torch.arange(shortest, buffer.shape[1] - window.left, device=x.device)
        lengths = torch.tensor(self.lengths, device=x.device)[:, None]
        if window.mode == "zeros":
            buffer[:, : window.left] = 0
            buffer[:, window.left + shortest :].masked_fill_((tail >= lengths)[..., None], 0)
        else:
            beyond = torch.tensor(ends, device=x.device)[:, None] - window.left
            at = torch.cat([torch.arange(-window.left, 0, device=x.device), tail]).expand(len(x), -1)
            if window.mode == "replicate":
                source = at.clamp(min=0).minimum(lengths - 1)
            else:
                size = lengths.maximum((beyond - lengths).clamp(min=window.left) + 1)
                source = torch.where(at.abs() >= size, 2 * (size - 1) - at.abs(), at.abs())
            empty = (source >= lengths) | (source < 0) | (at >= beyond)
            index = source.clamp(min=0).minimum(lengths - 1)[..., None].expand(-1, -1, x.shape[2])
            values = signal.gather(1, index).masked_fill_(empty[..., None], 0)
            buffer[:, : window.left] = values[:, : window.left]
            buffer[:, window.left + shortest :] = values[:, window.left :]
        self.lengths = [window.outputs(length) for length in self.lengths]
        return buffer

    def add(self, layer: object, x: Tensor, y: Tensor) -> Tensor:
        return y.add_(x[:, : y.shape[1]])

    def trim(self, layer: object, y: Tensor, left: int, right: int) -> Tensor:
        self.lengths = [max(0, length - left - right) for length in self.lengths]
        return y[:, left:]

    def stretch(self, factor: int) -> None:
        self.lengths = [length * factor for length in self.lengths]


class Whole(Flow):
    """Rows of equal length, whole: what `Pieces` gives for one piece, but nothing is written over."""

    def window(self, layer: object, window: Window, x: Tensor, activation: Activation | None = None) -> Tensor:
        x = x if activation is None else activation(x, None)
        left, right, size = window.left, window.right_padding(x.shape[1]), x.shape[1]
        if window.mode == "zeros" or not size or not left + right:
            return torch.nn.functional.pad(x, (0, 0, left, right))
        if window.mode == "reflect" and size <= max(left, right):  # it and zeros after it are reflected
            x = torch.nn.functional.pad(x, (0, 0, 0, max(left, right) + 1 - size))
        extended = torch.nn.functional.pad(x.transpose(1, 2), (left, right), mode=window.mode).transpose(1, 2)
        return extended[:, : left + size + right]

    def add(self, layer: object, x: Tensor, y: Tensor) -> Tensor:
        return y + x[:, : y.shape[1]]

    def trim(self, layer: object, y: Tensor, left: int, right: int) -> Tensor:
        return y[:, left : max(left, y.shape[1] - right)]


def _fill_ends(buffer: Tensor, signal: Tensor, left: int, right: int, mode: PadMode) -> None:
    """Writes `left` samples before and `right` samples after the signal, which lies in the buffer [B, T, C]."""
    size = signal.shape[1]
    end = left + size
    if mode == "zeros" or not size:
        buffer[:, :left] = 0
        buffer[:, end:] = 0
    elif mode == "replicate":
        buffer[:, :left] = signal[:, :1]
        buffer[:, end:] = signal[:, -1:]
    elif size > max(left, right):
        if left:
            buffer[:, :left] = signal[:, 1 : left + 1].flip(1)
        if right:
            buffer[:, end:] = signal[:, size - 1 - right : size - 1].flip(1)
    else:  # too short to be reflected: the signal and zeros after it are
        whole = max(left, right) + 1
        at = torch.arange(-left, size + right, device=buffer.device).abs()
        at = torch.where(at >= whole, 2 * (whole - 1) - at, at)
        padded = torch.nn.functional.pad(signal, (0, 0, 0, whole - size))
        buffer.copy_(padded[:, at])
