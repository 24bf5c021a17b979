"""One small quantizer of every kind, for the claims that hold of all."""

from collections.abc import Callable

import torch

from audiotok.quantize import (
    FSQ,
    LFQ,
    CrossScaleRVQ,
    GroupedResidualVQ,
    KMeansQuantizer,
    MultiScaleRVQ,
    ProductVQ,
    Quantizer,
    RandomProjection,
    ResidualFSQ,
    ResidualLFQ,
    ResidualVQ,
    SimVQ,
    VectorQuantizer,
    VQOptions,
)

DAC = VQOptions(lookup="cosine", update="gradient", kmeans_init=False)
COSINE = VQOptions(lookup="cosine")
ROTATION = VQOptions(gradient="rotation")


def _centroids() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 8, generator=generator) / (stage + 1) for stage, size in enumerate((20, 12, 7))]


def _seeded(make: Callable[[], Quantizer]) -> Quantizer:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return make()


MAKERS: dict[str, Callable[[], Quantizer]] = {
    "kmeans": lambda: KMeansQuantizer(_centroids()),
    "kmeans-cosine": lambda: KMeansQuantizer(_centroids()[0], lookup="cosine"),
    "vq": lambda: VectorQuantizer(8, 32),
    "vq-cosine": lambda: VectorQuantizer(8, 32, options=COSINE),
    "vq-dac": lambda: VectorQuantizer(8, 32, codebook_dim=3, options=DAC),
    "vq-heads": lambda: VectorQuantizer(8, 16, codebook_dim=3, heads=2, options=ROTATION),
    "rvq": lambda: ResidualVQ(8, 24, 3),
    "rvq-shared": lambda: ResidualVQ(8, 24, 3, shared=True, options=ROTATION),
    "rvq-sizes": lambda: ResidualVQ(8, [200, 16, 5], 3, dropout=0.5),
    "rvq-dac": lambda: ResidualVQ(8, 24, 3, codebook_dim=3, dropout=0.5, options=DAC),
    "gvq": lambda: GroupedResidualVQ(8, 16, num_stages=2, groups=2, dropout=0.5),
    "pq": lambda: ProductVQ(8, 16, 4),
    "fsq": lambda: FSQ([5, 4, 3], 8),
    "fsq-bare": lambda: FSQ([5, 4, 3, 3], num_codebooks=2),
    "fsq-symmetric": lambda: FSQ([5, 4, 2], 8, symmetric=True),
    "rfsq": lambda: ResidualFSQ([5, 4, 3], 3, 8),
    "lfq": lambda: LFQ(8, 16),
    "lfq-bare": lambda: LFQ(8, 16, num_codebooks=2, commitment_weight=0.5),
    "rlfq": lambda: ResidualLFQ(8, 16, 3),
    "simvq": lambda: SimVQ(8, 32, frozen_dim=5),
    "msrvq": lambda: MultiScaleRVQ(8, 24, (4, 2, 1)),
    "msrvq-dac": lambda: MultiScaleRVQ(8, 24, (4, 2, 1), codebook_dim=3, options=DAC),
    "csrvq": lambda: CrossScaleRVQ([VectorQuantizer(2, 16), ProductVQ(4, 16, 2), ProductVQ(8, 16, 2)]),
    "random-projection": lambda: RandomProjection(8, 32, 4, num_codebooks=2),
}
NAMES = sorted(MAKERS)


def make(name: str) -> Quantizer:
    """A fresh one, always the same."""
    return _seeded(MAKERS[name])


def frames(batch: int = 3, count: int = 16, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """[batch, dim, count] normal numbers."""
    return torch.randn(batch, dim, count, generator=torch.Generator().manual_seed(seed))
