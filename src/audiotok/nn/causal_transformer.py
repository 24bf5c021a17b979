"""A transformer over time that looks back a fixed number of frames, so that it takes signals in pieces."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .conv import Layer
from .flow import Flow
from .products import linear

_BLOCK = 128  # queries that share a product: with more, more of it is masked; with fewer, the calls cost too much


class CausalTransformer(Layer):
    """Layers of attention and feed-forward, each behind a norm, scaled and added to what came in.

    A frame attends to itself and the `context` - 1 frames before it (Vaswani et al. 2017, arXiv 1706.03762, causal and
    within a window), with rotary positions (Su et al. 2021, arXiv 2104.09864) and a learned scale for every channel of
    what a layer adds (Touvron et al. 2021, arXiv 2103.17239). From piece to piece the keys and values of that many
    frames are carried along: memory does not grow with the signal, time grows in proportion.

    Frames of x [B, T, D] beyond a row's end change nothing before it.

    Args:
        dim: D.
        heads: of the attention.
        layers: how many.
        hidden: channels inside the feed-forward.
        context: frames that one attends to, itself included.
        max_period: of the slowest rotation, nearly, in frames over 2π.
        epsilon: added to the variance in norms.

    Raises:
        InputError: heads that do not share D evenly, or an odd share; no context.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        layers: int,
        hidden: int,
        context: int,
        max_period: float = 10000.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if dim % heads or dim // heads % 2:
            raise InputError(f"{heads} heads must share {dim} channels, an even number each")
        if context < 1:
            raise InputError(f"a frame attends to at least itself: context cannot be {context}")
        self.rotation_size, self.max_period = dim // heads, max_period
        self.blocks = nn.ModuleList(_Block(dim, heads, hidden, context, epsilon) for _ in range(layers))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        if not x.shape[1]:
            return x
        start = flow.recall(self, 0)
        flow.keep(self, start + x.shape[1])
        rotation = self._rotation(start, x)
        for block in self.blocks:
            x = block(x, flow, rotation)
        return x

    def _rotation(self, start: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, 1, 1, half a head] of the frames of x, the first of which is number `start`.

        The angles are exact. Float32 angles, as upstreams have them, are off by 0.004 after an hour at 25 frames/s.
        """
        steps = torch.arange(0, self.rotation_size, 2, dtype=torch.float64) / self.rotation_size
        frames = torch.arange(start, start + x.shape[1], dtype=torch.float64)
        angles = frames[:, None, None, None] * self.max_period**-steps
        return angles.cos().to(x.dtype).to(x.device), angles.sin().to(x.dtype).to(x.device)


class _Block(nn.Module):
    """One layer. Rows of `qkv` are those of queries, keys and values, each head by head; a rotation turns channel i of
    a head together with channel i + half."""

    def __init__(self, dim: int, heads: int, hidden: int, context: int, epsilon: float) -> None:
        super().__init__()
        self.heads, self.context = heads, context
        self.norm1 = nn.LayerNorm(dim, eps=epsilon)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.scale1 = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim, eps=epsilon)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.scale2 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, flow: Flow, rotation: tuple[Tensor, Tensor]) -> Tensor:
        qkv = linear(self.norm1(x), self.qkv.weight, None).view(*x.shape[:2], 3, self.heads, -1)
        turned = _turn(qkv[:, :, :2], *rotation)
        q, k, v = (one.transpose(1, 2) for one in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))  # [B, heads, T, d]
        before_k, before_v = flow.recall(self, (k[:, :, :0], v[:, :, :0]))
        if before_k.shape[2]:
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        first = max(0, k.shape[2] - self.context + 1)
        flow.keep(self, (k[:, :, first:].clone(), v[:, :, first:].clone()))
        seen = attend(q, k, v, self.context).transpose(1, 2).flatten(2)
        x = torch.addcmul(x, linear(seen, self.out.weight, None), self.scale1)
        inside = functional.gelu(linear(self.norm2(x), self.up.weight, None))
        return torch.addcmul(x, linear(inside, self.down.weight, None), self.scale2)


def attend(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    """Attention of each query to the `context` keys up to its own, block by block.

    Args:
        q: [B, heads, T, d].
        k, v: [B, heads, P + T, d], those of P frames before the first query first.
        context: keys that a query sees at most.

    Returns:
        [B, heads, T, d].
    """
    before, found = k.shape[2] - q.shape[2], []
    for start in range(0, q.shape[2], _BLOCK):
        end = min(start + _BLOCK, q.shape[2])
        first = max(0, before + start - context + 1)
        keys = slice(first, before + end)
        at = torch.arange(before + start, before + end, device=q.device)[:, None]
        back = at - torch.arange(first, before + end, device=q.device)
        mask = (back >= 0) & (back < context)
        found.append(
            functional.scaled_dot_product_attention(q[:, :, start:end], k[:, :, keys], v[:, :, keys], attn_mask=mask)
        )
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
