"""The network of S3Tokenizer: Whisper's log-mel frames, two strided convolutions, and a transformer whose positions
come from a table (v1) or from rotations, with a memory beside the attention (v2, v3)."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..nn.products import linear

SAMPLE_RATE = 16000
MEL_HOP = 160  # samples per mel frame
MELS = 128
ROTARY_SIZE = 64  # of a head whose positions are rotations
_FFT = 400
_MEMORY_KERNEL = 31
_STFT_FRAMES = 3000  # at a time, so that the float64 spectrum of an hour is never held
_MOST_LAYERS, _LARGEST = 256, 1 << 16


class S3Encoder(nn.Module):
    """Mel frames to hidden states: convolutions of stride `stride` and 2, then pre-norm transformer blocks, no norm at
    the end (CosyVoice, Du et al. 2024, arXiv 2407.05407 and 2412.10117). Frames beyond a row's end change nothing.

    The weights have the names that s3tokenizer gives them.

    Args:
        size: D.
        heads: of the attention.
        layers: blocks; v3 (arXiv 2505.17589) is v2 with 12 of them.
        stride: of the first convolution, 1 or 2.
        positions: rows of the position table (v1); 0 means rotations and a memory beside the attention (v2).
        attention_norm_eps, mlp_norm_eps: added to the variance before attention and feed-forward.

    Raises:
        InputError: values that make no network.
    """

    positional_embedding: Tensor | None

    def __init__(
        self,
        *,
        size: int,
        heads: int,
        layers: int,
        stride: int,
        positions: int,
        attention_norm_eps: float = 1e-5,
        mlp_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        bounds = {"size": (size, _LARGEST), "heads": (heads, _LARGEST), "layers": (layers, _MOST_LAYERS)}
        for what, (value, most) in {
            **bounds,
            "stride": (stride, 2),
            "positions + 1": (positions + 1, _LARGEST),
        }.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"{what} must be a whole number from 1 to {most}, not {value!r}")
        if size % heads:
            raise InputError(f"{heads} heads cannot share {size} dimensions evenly")
        if not positions and size // heads != ROTARY_SIZE:
            raise InputError(f"rotations need heads of {ROTARY_SIZE}, but {size} dimensions have {heads} heads")
        if not all(0 < eps < 0.1 for eps in (attention_norm_eps, mlp_norm_eps)):
            raise InputError(f"epsilons must lie in 0..0.1, not {attention_norm_eps} and {mlp_norm_eps}")
        self.conv1 = nn.Conv1d(MELS, size, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(positions, size) if positions else None)
        self.blocks = nn.ModuleList(
            _Block(size, heads, memory=not positions, attention_eps=attention_norm_eps, mlp_eps=mlp_norm_eps)
            for _ in range(layers)
        )

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """[B, D, F] of mel [B, 128, M] with zeros beyond lengths [B], F being `num_frames(M)`."""
        x = mel.to(self.conv1.weight.dtype)
        padded = bool((lengths < mel.shape[2]).any())
        valid: Tensor | None = None
        for conv in (self.conv1, self.conv2):
            x = functional.gelu(conv(x))
            lengths = (lengths - 1) // conv.stride[0] + 1
            if padded:  # what the kernel carried over a row's end
                valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
                x = x * valid[:, None]
        x = x.transpose(1, 2)
        if self.positional_embedding is not None:
            x = x + self.positional_embedding[: x.shape[1]]
            rotation = None
        else:
            rotation = _rotation(x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, rotation, valid)
        return x.transpose(1, 2)

    def num_frames(self, mel_frames: int) -> int:
        """F of so many mel frames."""
        return -(-mel_frames // self.mel_stride)

    @property
    def mel_stride(self) -> int:
        """Mel frames per hidden state."""
        return 2 * self.conv1.stride[0]


class _Linear(nn.Linear):
    """By the fastest kernel."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, size: int, heads: int, *, memory: bool, attention_eps: float, mlp_eps: float) -> None:
        super().__init__()
        self.attn = _Attention(size, heads, memory)
        self.attn_ln = nn.LayerNorm(size, eps=attention_eps)
        self.mlp = nn.Sequential(_Linear(size, 4 * size), nn.GELU(), _Linear(4 * size, size))
        self.mlp_ln = nn.LayerNorm(size, eps=mlp_eps)

    def forward(self, x: Tensor, rotation: Tensor | None, valid: Tensor | None) -> Tensor:
        x = x + self.attn(self.attn_ln(x), rotation, valid)
        grown: Tensor = x + self.mlp(self.mlp_ln(x))
        return grown


class _Attention(nn.Module):
    """Self-attention; with `memory`, each frame also takes the values of 15 frames on both sides through a depth-wise
    convolution (FSMN, Zhang et al. 2015, arXiv 1512.08301), beside the attention."""

    def __init__(self, size: int, heads: int, memory: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = _Linear(size, size)
        self.key = _Linear(size, size, bias=False)
        self.value = _Linear(size, size)
        self.out = _Linear(size, size)
        reach = _MEMORY_KERNEL // 2
        self.fsmn_block = (
            nn.Conv1d(size, size, _MEMORY_KERNEL, padding=reach, groups=size, bias=False) if memory else None
        )

    def forward(self, x: Tensor, rotation: Tensor | None, valid: Tensor | None) -> Tensor:
        """[B, F, D] to the same, with `_rotation` and valid frames [B, F] (None means all)."""
        rows, frames, size = x.shape
        value = self.value(x)
        queries, keys, values = (
            part.view(rows, frames, self.heads, -1).transpose(1, 2) for part in (self.query(x), self.key(x), value)
        )  # [B, H, F, D / H]
        if rotation is not None:
            queries, keys = _rotated(queries, rotation), _rotated(keys, rotation)
        mask = None if valid is None else valid[:, None, None]
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, frames, size))
        return found if self.fsmn_block is None else found + self._memory(value, valid)

    def _memory(self, value: Tensor, valid: Tensor | None) -> Tensor:
        assert self.fsmn_block is not None
        if valid is not None:
            value = value * valid[..., None]
        remembered: Tensor = self.fsmn_block(value.transpose(1, 2))
        return remembered.transpose(1, 2) + value


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """x [B, H, F, 64] with the pairs (i, i + 32) of each frame turned by their angles."""
    cosine, sine = rotation.to(x.dtype).unbind()
    left, right = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-right, left), dim=-1) * sine


@lru_cache(maxsize=8)
def _rotation(frames: int, device: torch.device) -> Tensor:
    """[2, F, 64]: cosines and sines of f / 10000^(2i / 64) (Su et al. 2021, arXiv 2104.09864).

    The angles are rounded to float32, up to 3e-5 at the end of 30 s: as the network was trained and exported.
    """
    speeds = 1.0 / 10000.0 ** (torch.arange(0, ROTARY_SIZE, 2) / ROTARY_SIZE)
    angles = torch.outer(torch.arange(frames), speeds).repeat(1, 2)
    return torch.stack((angles.cos(), angles.sin())).to(device)


def log_mel(wav: Tensor) -> Tensor:
    """[128, T // 160] float32 of wav [T] at 16 kHz, at least 201 samples.

    Whisper's frames (Radford et al. 2022, arXiv 2212.04356) in 128 bands: windows of 25 ms every 10 ms, centred, both
    ends mirrored, the last frame dropped; power in Slaney's mel bands, log10, raised to 8 below the largest value of
    this row, (x + 4) / 4. In float64, where the device has it, and rounded at the end.
    """
    frames = len(wav) // MEL_HOP
    padded = functional.pad(wav[None], (_FFT // 2, _FFT // 2), mode="reflect")[0]
    window, bands = _window(wav.device), _mel_bands(wav.device)
    pieces = []
    for start in range(0, frames, _STFT_FRAMES):
        end = min(start + _STFT_FRAMES, frames)
        piece = padded[start * MEL_HOP : (end - 1) * MEL_HOP + _FFT].to(window.dtype)
        spectrum = torch.stft(piece, _FFT, MEL_HOP, window=window, center=False, return_complex=True)
        pieces.append((bands @ spectrum.abs().square()).clamp_(min=1e-10).log10_().float())
    mel = torch.cat(pieces, dim=1)
    return mel.clamp_(min=mel.max() - 8).add_(4).div_(4)


def _placed(exact: Tensor, device: torch.device) -> Tensor:
    return exact.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64


@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    return _placed(torch.hann_window(_FFT, dtype=torch.float64), device)


@lru_cache(maxsize=8)
def _mel_bands(device: torch.device) -> Tensor:
    """[128, 201] triangles over the bins of the spectrum, evenly spaced on the mel scale of Slaney's Auditory Toolbox
    (1998: linear up to 1 kHz, then 27 steps for a factor of 6.4), each of unit area over frequency."""
    linear_marks = 15  # of 66.7 Hz each, up to 1 kHz
    top = linear_marks + 27 * math.log(SAMPLE_RATE / 2 / 1000, 6.4)
    marks = torch.linspace(0, top, MELS + 2, dtype=torch.float64)
    above = 1000 * 6.4 ** ((marks - linear_marks) / 27)
    edges = torch.where(marks < linear_marks, marks * (1000 / linear_marks), above)  # [130] Hz
    bins = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64)
    low, centre, high = (edges[i : i + MELS, None] for i in range(3))
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return _placed(triangles * 2 / (high - low), device)
