"""Parts of the transformer: norms in float32, the convolution that tells positions, attention, blocks."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoder_config import SSLConfig
from .encoder_products import linear

_CPU_BYTES = 8 << 20  # of one attention mask: as many heads at a time as fit (at least one) share a buffer
_GPU_BYTES = 1 << 30


class Float32(nn.Module):
    """Its parameters stay in float32 when the network is cast to a 16-bit float: they are few, and hurt most."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32":
        def only_moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return tensor.to(found.device) if found.dtype in (torch.float16, torch.bfloat16) else found

        super()._apply(only_moved, recurse)  # type: ignore[no-untyped-call]
        return self


class LayerNorm32(Float32):
    """Layer norm over the last axis, in float32 (or in float64, if the network was cast to that)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Any float type to float32."""
        return functional.layer_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.bias, self.eps)

    def in_dtype_of(self, x: Tensor) -> Tensor:
        """The same, read and written in the dtype of x, with sums in float32 inside."""
        return functional.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class PositionalConv(nn.Module):
    """Adds gelu of a wide grouped convolution over time; its weight norm is folded into the weight."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        size, self.groups, kernel = config.hidden_size, config.position_groups, config.position_kernel
        self.reach = kernel // 2  # frames on each side that a frame depends on
        self.weight = nn.Parameter(
            torch.randn(size, size // self.groups, kernel) / (size // self.groups * kernel) ** 0.5
        )
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] to the same."""
        channels_first = x.transpose(1, 2).to(self.weight.dtype)
        told = functional.conv1d(channels_first, self.weight, self.bias, padding=self.reach, groups=self.groups)
        return x + functional.gelu(told[:, :, : x.shape[1]]).transpose(1, 2)


class RelativePositions(nn.Module):
    """A learned bias for each head and each distance between two frames; far ones share logarithmic buckets
    (Raffel et al. 2020, arXiv 1910.10683). The first block of a WavLM holds it, all blocks use it."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.weight = nn.Parameter(torch.randn(config.num_buckets, config.num_heads))

    def forward(self, frames: int) -> Tensor:
        """[H, F, F] with keys in reverse order: entry (i, j) is the bias of query i for key F - 1 - j. It is a view of
        [H, 2F - 1] numbers, since in this order every row is the one above, moved by one."""
        index = _buckets(frames, len(self.weight), self.max_distance).to(self.weight.device)
        return self.weight[index].t().contiguous().unfold(1, frames, 1)


@lru_cache(maxsize=16)
def _buckets(frames: int, num_buckets: int, max_distance: int) -> Tensor:
    """[2F - 1] bucket of key minus query = F - 1, F - 2, ... 1 - F. On the CPU: no device's logarithm may move one."""
    relative = torch.arange(frames - 1, -frames, -1)
    half = num_buckets // 2
    exact = half // 2
    distance = relative.abs()
    steps = torch.log(distance.clamp(min=1).float() / exact)
    far = exact + steps / math.log(max_distance / exact) * (half - exact)
    bucket = torch.where(distance < exact, distance, far.long().clamp(max=half - 1))
    return bucket + half * (relative > 0)


class Attention(nn.Module):
    """Self-attention with queries, keys and values from one product; in a WavLM with a gated bias of relative positions
    (Chen et al. 2022, section III-B)."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        size, self.heads = config.hidden_size, config.num_heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        # Eight gate outputs per head are summed by fours: the weights of the two sums. Gate scale 1 per head.
        gated = config.model_type == "wavlm"
        self.gate = nn.Linear(size // self.heads, 2) if gated else None
        self.gate_scale = nn.Parameter(torch.ones(self.heads)) if gated else None

    def forward(self, x: Tensor, bias: Tensor | None, valid: Tensor | None) -> Tensor:
        """[B, F, D] to the same.

        Args:
            x: in the dtype of the weights.
            bias: from `RelativePositions`, or None without gates.
            valid: [B, F] bool, keys that exist; None means all.
        """
        rows, frames, size = x.shape
        qkv = linear(x, self.qkv.weight, self.qkv.bias).view(rows, frames, 3, self.heads, -1)  # [B, F, 3, H, D / H]
        if self.gate is None or self.gate_scale is None or bias is None:
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            mask = None if valid is None else valid[:, None, None, :]
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return self._out(mixed.transpose(1, 2).reshape(rows, frames, size))
        gates = torch.sigmoid(self.gate(x.view(rows, frames, self.heads, -1))).transpose(1, 2)  # [B, H, F, 2]
        gate = gates[..., :1] * (gates[..., 1:] * self.gate_scale[:, None, None] - 1) + 2
        query = qkv[:, :, 0].transpose(1, 2)
        key, value = qkv[:, :, 1:].flip(1).permute(2, 0, 3, 1, 4)
        missing = None if valid is None else ~valid.flip(1)[:, None, None, :]
        bytes_per_head = rows * frames * frames * x.element_size()
        step = max(1, min(self.heads, (_CPU_BYTES if x.device.type == "cpu" else _GPU_BYTES) // bytes_per_head))
        buffer = x.new_empty(rows, step, frames, frames)
        mixed = x.new_empty(rows, frames, self.heads, size // self.heads)
        for head in range(0, self.heads, step):
            part = slice(head, head + step)
            mask = torch.mul(gate[:, part], bias[part], out=buffer[:, : self.heads - head])
            if missing is not None:
                mask.masked_fill_(missing, -torch.inf)
            found = functional.scaled_dot_product_attention(
                query[:, part], key[:, part], value[:, part], attn_mask=mask
            )
            mixed[:, :, part] = found.transpose(1, 2)
        return self._out(mixed.view(rows, frames, size))

    def _out(self, x: Tensor) -> Tensor:
        return linear(x, self.out.weight, self.out.bias)


class Block(nn.Module):
    """Attention and feed-forward, each added to what came in. Sums are kept in the dtype of the norms."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config)
        self.norm = LayerNorm32(config.hidden_size, config.norm_eps)
        self.wide = nn.Linear(config.hidden_size, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_norm = LayerNorm32(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor | None, valid: Tensor | None) -> Tensor:
        """[B, F, D] to the same."""
        dtype = self.wide.weight.dtype
        if self.pre_norm:
            x = x + self.attention(self.norm(x).to(dtype), bias, valid)
            return x + self._feed(self.final_norm(x).to(dtype))
        x = self.norm(x + self.attention(x.to(dtype), bias, valid))
        x = x + self._feed(x.to(dtype))
        normed: Tensor = self.final_norm(x)
        return normed

    def _feed(self, x: Tensor) -> Tensor:
        x = functional.gelu(linear(x, self.wide.weight, self.wide.bias))
        return linear(x, self.narrow.weight, self.narrow.bias)
