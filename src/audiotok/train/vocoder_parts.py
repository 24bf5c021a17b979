"""What a vocoder's training does to it: layers drawn per step, where its embedding begins, weight norm."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..errors import InputError
from ..ssl.vocoder import UnitVocoder


def draw_layers(count: int, *, seed: int, step: int, fewest: int = 1) -> list[int]:
    """Places of the layers given to the vocoder in one step, ascending: first how many, uniformly from `fewest` to
    all, then which, uniformly without replacement. The expected loss over such draws is what is minimised (layer
    dropout, arXiv 2406.10735, equation 3).

    Example:
        >>> [draw_layers(6, seed=0, step=step) for step in range(3)]
        [[2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 2, 3, 4]]
    """
    random = np.random.default_rng([seed, 3, step])
    kept = int(random.integers(min(fewest, count), count + 1))
    return sorted(random.choice(count, kept, replace=False).tolist())


@torch.no_grad()
def embed_centroids(vocoder: UnitVocoder, codebooks: Sequence[Tensor]) -> None:
    """Lets the vectors of the tokens begin as the tokenizer's centroids, scaled to unit variance; where theirs is
    another width, as a random projection of them (the same for every layer of that width, from torch's generator).

    Raises:
        InputError: codebooks of other sizes than the vocoder's.
    """
    sizes, dim = vocoder.config.codebook_sizes, vocoder.config.embedding_dim
    if tuple(len(one) for one in codebooks) != sizes:
        raise InputError(f"codebooks of {[len(one) for one in codebooks]} entries for a vocoder of {sizes}")
    projections: dict[int, Tensor] = {}
    tables = []
    for one in codebooks:
        table, width = one.detach().float().cpu(), one.shape[1]
        if width != dim:
            table = table @ projections.setdefault(width, torch.randn(width, dim) / width**0.5)
        tables.append(table - table.mean(dim=0))
    whole = torch.cat(tables)
    vocoder.embedding.weight[1:] = whole / whole.std().clamp(min=1e-12)


def with_weight_norm(vocoder: UnitVocoder) -> UnitVocoder:
    """The same vocoder with weight norm on every convolution of its generator, as HiFi-GAN is trained."""
    for module in list(vocoder.generator.modules()):
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and not parametrize.is_parametrized(module):
            parametrizations.weight_norm(module)
    return vocoder
