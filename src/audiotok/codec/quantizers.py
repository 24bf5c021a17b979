"""Any quantizer of `audiotok.quantize`, from its name and sizes."""

from ..errors import InputError
from ..quantize import (
    FSQ,
    CrossScaleRVQ,
    GroupedResidualVQ,
    MultiScaleRVQ,
    ProductVQ,
    Quantizer,
    ResidualVQ,
    VectorQuantizer,
)
from .config import QuantizerConfig


def make_quantizer(config: QuantizerConfig, dim: int, *, frozen: bool = False, seed: int = 0) -> Quantizer:
    """A quantizer of latents [B, dim, F].

    Args:
        config: which, and its sizes.
        dim: D.
        frozen: for use, not for training: it holds the codebooks and maps alone.
        seed: of the first entries.

    Raises:
        InputError: the sizes do not fit the latents.

    Example:
        >>> make_quantizer(QuantizerConfig(kind="gvq", num_codebooks=4, codebook_size=16), 8).codebook_sizes
        (16, 16, 16, 16)
    """
    options = config.options(frozen=frozen)
    size, count, width = config.codebook_size, config.num_codebooks, config.codebook_dim or None
    dropout = 0.0 if frozen else config.dropout
    if config.kind == "rvq":
        return ResidualVQ(dim, size, count, codebook_dim=width, dropout=dropout, options=options, seed=seed)
    if config.kind == "svq":
        return VectorQuantizer(dim, size, codebook_dim=width, options=options, seed=seed)
    if config.kind == "gvq":
        return GroupedResidualVQ(
            dim,
            size,
            num_stages=count // config.groups,
            groups=config.groups,
            codebook_dim=width,
            dropout=dropout,
            options=options,
            seed=seed,
        )
    if config.kind == "fsq":
        return FSQ(config.levels, dim, num_codebooks=count)
    if config.kind == "msrvq":
        return MultiScaleRVQ(dim, size, config.strides, codebook_dim=width, options=options, seed=seed)
    if config.kind == "pq":
        return ProductVQ(dim, size, count, options=options, seed=seed)
    halves = config.scales - 1
    if dim % 2**halves:
        raise InputError(f"{dim} features cannot be halved {halves} times for {config.scales} scales")
    return CrossScaleRVQ(
        [
            ResidualVQ(
                dim >> (halves - scale),
                size,
                count // config.scales,
                codebook_dim=width,
                options=options,
                seed=seed + 1000 * scale,
            )
            for scale in range(config.scales)
        ]
    )


def is_nested(config: QuantizerConfig) -> bool:
    """Whether the first rows of tokens decode without the others, however many they are."""
    return config.kind == "rvq"


def row_levels(config: QuantizerConfig) -> tuple[int, ...]:
    """The level of each row where several rows are one level, as `Spec.row_levels` wants it."""
    if config.kind == "msrvq":
        counts = [config.stride // stride for stride in config.strides]
    elif config.kind == "csrvq":
        counts = [config.num_codebooks // config.scales] * config.scales
    elif config.kind == "gvq":
        counts = [config.groups] * (config.num_codebooks // config.groups)
    else:
        return ()
    return tuple(level for level, count in enumerate(counts) for _ in range(count))
