"""Quantizers: pure tensors, trainable, one result type.

Every one is an `nn.Module` with `forward(x [B, D, F], mask) -> Quantized`, `encode(x) -> tokens [B, K, F]`,
`decode(tokens) -> [B, D, F]`, `codebooks` and `codebook_sizes`. In evaluation `forward` is `decode(encode(x))`, bit for
bit, and the tokens of a frame depend on that frame alone: not on the batch, the chunk, autocast or TF32.

    class              what a row of tokens is                 learned by           a prefix decodes   source
    ------------------ --------------------------------------- -------------------- ------------------ ----------
    KMeansQuantizer    k-means centroid (of the residual)      fit()                yes                Lloyd 1982
    VectorQuantizer    codebook entry (per head)               EMA or gradient      no                 1711.00937
    ResidualVQ         entry for the residual                  EMA or gradient      yes                2107.03312
    GroupedResidualVQ  stage and group of features             EMA or gradient      whole stages       2305.02765
    MultiScaleRVQ      level (frame rate) and place in it      EMA or gradient      whole levels       2410.14411
    CrossScaleRVQ      scale (feature resolution)              as its parts         whole scales       2404.19441
    ProductVQ          part of the features                    EMA or gradient      no                 Jégou 2011
    FSQ                levels of a few numbers                 maps only            no                 2309.15505
    ResidualFSQ        levels, finer by stage                  maps only            yes                2411.19842
    LFQ                signs of a few numbers                  maps, entropy loss   no                 2310.05737
    ResidualLFQ        signs, finer by stage                   maps, entropy loss   yes                2310.05737
    SimVQ              random vector under one linear map      gradient             no                 2411.02038
    RandomProjection   random direction                        nothing              no                 2202.01855

`audiotok.quantize.nearest` is the exact search under all of them, `kmeans` the fit.
"""

from .base import Quantized, Quantizer
from .codebook import Codebook
from .crossscale import CrossScaleRVQ
from .fsq import FSQ, ResidualFSQ
from .gradient import rotation_trick, straight_through
from .gvq import GroupedResidualVQ
from .kmeans import KMeansQuantizer
from .lfq import LFQ, ResidualLFQ
from .lloyd import KMeansFit, kmeans
from .minibatch import MiniBatchKMeans
from .multiscale import MultiScaleRVQ, pack_levels, unpack_levels
from .nearest import SearchTable
from .options import VQOptions
from .product import ProductVQ
from .random_projection import RandomProjection
from .rvq import ResidualVQ
from .simvq import SimVQ
from .vq import VectorQuantizer

__all__ = [
    "FSQ",
    "LFQ",
    "Codebook",
    "CrossScaleRVQ",
    "GroupedResidualVQ",
    "KMeansFit",
    "KMeansQuantizer",
    "MiniBatchKMeans",
    "MultiScaleRVQ",
    "ProductVQ",
    "Quantized",
    "Quantizer",
    "RandomProjection",
    "ResidualFSQ",
    "ResidualLFQ",
    "ResidualVQ",
    "SearchTable",
    "SimVQ",
    "VQOptions",
    "VectorQuantizer",
    "kmeans",
    "pack_levels",
    "rotation_trick",
    "straight_through",
    "unpack_levels",
]
