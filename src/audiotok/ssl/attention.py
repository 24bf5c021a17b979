"""Attention over layers of tokens for downstream models (arXiv 2406.10735 and 2406.14294)."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError, MissingDependencyError
from ..nn.layer_ids import layer_ids


class LayerAttention(nn.Module):
    """Tokens of K layers to one feature per frame, and how much each layer gave to it.

    Every token has a vector of its layer's table. A small network scores each vector; the softmax of the scores
    over the layers weighs the sum, anew at every frame. A layer that is missing has one shared vector, which is
    always trained, and takes part like any other.

    Args:
        codebook_sizes: V of each layer.
        dim: D of the vectors; with `centroids` their own.
        layers: the layers' own numbers, for `forward` and plots; default 0, 1, ...
        hidden: of the network that scores.
        centroids: a table [V, D] per layer to begin from, for instance `tokenizer.codebooks`; None begins at random.
        trainable: whether the tables are trained.
        seed: of everything random at the start.

    Raises:
        InputError: sizes, layers and centroids that do not fit each other.

    Example:
        >>> attention = LayerAttention((10, 10), dim=16, layers=(3, 7))
        >>> features, weights = attention(torch.zeros(2, 2, 5, dtype=torch.int64))
        >>> features.shape, weights.shape
        (torch.Size([2, 16, 5]), torch.Size([2, 2, 5]))
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        dim: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        hidden: int = 128,
        centroids: Sequence[Tensor] | None = None,
        trainable: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.layers = tuple(range(len(self.codebook_sizes)) if layers is None else layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise InputError(f"attention needs layers that differ, not {self.layers}")
        if len(self.layers) != len(self.codebook_sizes) or min(self.codebook_sizes) < 1:
            raise InputError(f"layers {self.layers} need a codebook size each, not {self.codebook_sizes}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            table = self._table(dim, centroids)
            width = table.shape[1]
            self.table = nn.Parameter(table, requires_grad=trainable)
            self.missing = nn.Parameter(torch.randn(width) * table.std(correction=0))
            self.score = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False))

    def _table(self, dim: int | None, centroids: Sequence[Tensor] | None) -> Tensor:
        if centroids is None:
            if dim is None or dim < 1:
                raise InputError(f"give dim, the size of the vectors, or centroids to begin from; not dim={dim}")
            return torch.randn(sum(self.codebook_sizes), dim)
        shapes = [list(one.shape) for one in centroids]
        width = dim or (shapes[0][-1] if shapes and shapes[0] else 0)
        if shapes != [[size, width] for size in self.codebook_sizes]:
            raise InputError(f"centroids must be one [V, {width}] for each V of {self.codebook_sizes}, not {shapes}")
        return torch.cat([one.detach().float().cpu() for one in centroids])

    def forward(
        self, tokens: Tensor, *, layers: Sequence[int] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features and weights.

        Args:
            tokens: [B, K, F] int64, each row counted from 0; whatever lies where `mask` is False is not looked at.
            layers: which of `self.layers` the K rows are; None means all of them.
            mask: [B, F] bool, True on valid frames; None means all. `codes.mask` is one.

        Returns:
            features [B, D, F], and weights [B, L, F] over all L layers of `self.layers`, which sum to 1 over L (a
            missing layer's is the weight of its shared vector). Both are 0 where `mask` is False.

        Raises:
            InputError: tokens, layers or mask that do not fit.
        """
        if mask is not None:
            if mask.shape != (tokens.shape[0], tokens.shape[-1]) or mask.dtype != torch.bool:
                wanted = [tokens.shape[0], tokens.shape[-1]]
                raise InputError(f"mask must be {wanted} bool, not {list(mask.shape)} {mask.dtype}")
            tokens = tokens * mask[:, None]
        ids = layer_ids(tokens, layers, self.layers, self.codebook_sizes)  # [B, L, F]
        known = functional.embedding((ids - 1).clamp(min=0), self.table)
        embedded = torch.where((ids == 0)[..., None], self.missing, known)  # [B, L, F, D]
        weights = self.score(embedded)[..., 0].softmax(dim=1)  # [B, L, F]
        features = torch.einsum("blf,blfd->bdf", weights, embedded)
        if mask is not None:
            features, weights = features * mask[:, None], weights * mask[:, None]
        return features, weights


def mean_layer_weights(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean weight of each layer over all valid frames: [L] of weights [B, L, F] and mask [B, F].

    Raises:
        InputError: no valid frame.

    Example:
        >>> mean_layer_weights(torch.tensor([[[0.5, 1.0], [0.5, 0.0]]]), torch.tensor([[True, False]]))
        tensor([0.5000, 0.5000])
    """
    frames = weights.shape[0] * weights.shape[2] if mask is None else int(mask.sum())
    if frames == 0:
        raise InputError("there is no valid frame to take the mean over")
    kept = weights.detach() if mask is None else weights.detach() * mask[:, None]
    return kept.sum(dim=(0, 2)) / frames


def plot_layer_weights(
    weights: Tensor, path: str | os.PathLike[str], *, mask: Tensor | None = None, layers: Sequence[int] | None = None
) -> None:
    """Writes a picture of the mean weight of each layer.

    Args:
        weights: [B, L, F], from `LayerAttention`.
        path: of the picture; the ending chooses the format.
        mask: [B, F] valid frames; None means all.
        layers: the layers' own numbers; default 0, 1, ...

    Raises:
        MissingDependencyError: matplotlib is not installed. InputError: no valid frame, or other layers.
    """
    means = mean_layer_weights(weights, mask).tolist()
    names = [str(layer) for layer in (range(len(means)) if layers is None else layers)]
    if len(names) != len(means):
        raise InputError(f"weights of {len(means)} layers, but the numbers of {len(names)}")
    try:
        import matplotlib.figure
        from matplotlib.backends import backend_agg  # noqa: F401
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("the picture needs matplotlib: pip install 'audiotok[demo]'") from error
    figure = matplotlib.figure.Figure(figsize=(max(4.0, 0.9 * len(means) + 1.5), 3.2), dpi=120)
    axes = figure.add_subplot()
    bars = axes.bar(names, means, color="#2563a8")
    axes.bar_label(bars, fmt="%.2f", fontsize=9)
    axes.axhline(1 / len(means), color="#6b7280", linestyle=":", linewidth=1)  # all alike
    axes.set_xlabel("layer")
    axes.set_ylabel("mean weight")
    axes.set_ylim(0, 1.12 * max(means))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(path))
